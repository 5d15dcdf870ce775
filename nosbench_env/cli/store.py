"""The commands `nosbench store ...`: contents, transfer and upkeep."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from tqdm.auto import tqdm

from nosbench_env.cli import completion
from nosbench_env.cli.options import (
    EXIT_WRONG,
    DeviceOption,
    JsonOption,
    QuietOption,
    StoreOption,
    aligned,
    interruptible,
    on_terminal,
)
from nosbench_env.identity.identify import IDENTITIES

if TYPE_CHECKING:
    import io

    from nosbench_env.identity.identify import Identity
    from nosbench_env.language.program import Program
    from nosbench_env.language.status import Status
    from nosbench_env.results.key import ResultKey
    from nosbench_env.results.survey import Group
    from nosbench_env.results.transfer import ImportReport, Writable
    from nosbench_env.results.verify import NotVerifiable, Verified
    from nosbench_env.store import ResultStore, StoredRecord
    from nosbench_env.tasks.task import Progress

# Commands import torch and the database when they run, so that --help answers at once.

store_app = typer.Typer(
    name="store",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Inspects, exports, imports, verifies and cleans up the result store.\n\nStart with `nosbench store info`.",
    rich_markup_mode="markdown",
)

TaskFilter = Annotated[str | None, typer.Option(help="Only results of this task.", autocompletion=completion.tasks)]
IdentityFilter = Annotated[
    str | None,
    typer.Option(
        help="Only results of this identity: `paper` in any version, or `paper-1` in one.",
        autocompletion=completion.identities,
    ),
]


@store_app.command()
def info(store: StoreOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Lists the store's results by task, seed and identity, with origins.

    The origin is dates, devices, versions, and the number of results that disagree.

    For example:

    * `nosbench store info`
    * `nosbench store info --store results.sqlite --json`
    """
    with interruptible(lambda: "Interrupted."):
        from nosbench_env.results.survey import survey
        from nosbench_env.store.schema import SCHEMA_VERSION

        opened = _existing_store(store)
        with _progress(quiet or as_json) as tick:
            contents = survey(opened, tick)
    size = _size(opened)
    if as_json:
        data = {field.name: getattr(contents, field.name) for field in fields(contents)}
        data["groups"] = [
            asdict(group) | {"records": records, "keys": keys}
            for group, (records, keys) in sorted(contents.groups.items())
        ]
        _print_json({"store": opened.location, "bytes": size, "schema_version": SCHEMA_VERSION} | data)
        return
    lines = [
        f"store            {opened.location}",
        f"size             {'unknown' if size is None else f'{size:,} bytes'}, schema version {SCHEMA_VERSION}",
        f"results          {contents.records:,} under {contents.keys:,} keys",
        f"dates            {' to '.join(map(_plain, contents.dates)) if contents.dates[0] else 'none'}",
        f"devices          {_counts(contents.devices)}",
        f"nosbench_env     {_counts(contents.versions)}",
        f"torch            {_counts(contents.torch_versions)}",
        f"disagreements    {_disagreements(contents.disagreeing_keys, contents.largest_difference)}"
        + (f", {contents.disagreeing_beyond_noise:,} beyond the noise of 0.15" if contents.disagreeing_keys else ""),
    ]
    if contents.without_program:
        lines.append(f"without program  {contents.without_program:,} (they can't be verified or rekeyed)")
    if contents.other_keys:
        lines.append(
            f"other keys       {contents.other_keys:,} results under keys of another form (they can't be exported)"
        )
    if contents.groups:
        lines += [
            "",
            *_table({group: (f"{r:,}", f"{k:,}") for group, (r, k) in contents.groups.items()}, "results", "keys"),
        ]
    print("\n".join(lines))


@store_app.command("export")
def export_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, gzipped if named .gz; `-` prints.")],
    task: TaskFilter = None,
    identity: IdentityFilter = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Exports results as JSON lines: portable, exact and deterministic.

    The first line explains the fields and their units. The file appears when it is complete.

    For example:

    * `nosbench store export results.jsonl.gz`
    * `nosbench store export pfn.jsonl --task pfn --identity paper-1 --overwrite`
    * `nosbench store export - | head -3`
    """
    with interruptible(lambda: "Interrupted; nothing was written."):
        from nosbench_env.results.key import Selection
        from nosbench_env.results.transfer import export_results

        if file == "-" and as_json:
            raise ValueError("--json would print its report into the results; leave it out, or name a file")
        target: Path | Writable = sys.stdout.buffer if file == "-" else Path(file)
        chosen = Selection(task=task, identity=identity)
        with _progress(quiet or as_json) as tick:
            report = export_results(_existing_store(store), target, chosen, overwrite=overwrite, on_record=tick)
    if as_json:
        _print_json(asdict(report))
        return
    print(f"{_results(report.records)} written to {file}", file=sys.stderr if file == "-" else None)
    _say_left_out(report.left_out, report.reason)


@store_app.command("import")
def import_command(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="A file of `export`, gzipped or not; `-` reads standard input."),
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adds the results of an exported file to the store.

    The whole file is checked before the first result is added. The store's answers stay the same: results already there
    are skipped, and results that disagree are kept beside them. A file can't prove that its results are true:
    `nosbench store verify` trains some of them again.

    For example:

    * `nosbench store import results.jsonl.gz`
    * `nosbench store import - --store other.sqlite < results.jsonl`
    """
    with interruptible(lambda: "Interrupted. Run the same command again to continue."):
        from nosbench_env.results.transfer import import_results
        from nosbench_env.store import ResultStore

        source = cast("io.BufferedReader", sys.stdin.buffer) if file == "-" else Path(file)
        with _progress(quiet or as_json) as tick:
            report = import_results(
                source, ResultStore(store), "standard input" if file == "-" else None, on_record=tick
            )
    _print_import(report, as_json)


@store_app.command()
def merge(
    others: Annotated[list[str], typer.Argument(metavar="STORE...", help="Other stores; they stay unchanged.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adds the results of other stores, as `import` does a file's.

    For example:

    * `nosbench store merge laptop.sqlite cluster.sqlite`
    * `nosbench store merge old.sqlite --store all.sqlite`
    """
    with interruptible(lambda: "Interrupted. Run the same command again to continue."):
        from nosbench_env.results.transfer import merge_stores
        from nosbench_env.store import ResultStore

        opened = [_existing_store(other, read_only=True) for other in others]
        with _progress(quiet or as_json) as tick:
            report = merge_stores(opened, ResultStore(store), on_record=tick)
    _print_import(report, as_json)


@store_app.command()
def verify(
    sample: Annotated[int, typer.Option(help="Number of results to train again, drawn at random.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Allowed difference of losses. Default: 0.15, the noise of a training; 1e-6 for the first ten steps "
            "and for programs that ignore the gradient. Relative for losses above 1."
        ),
    ] = None,
    task: TaskFilter = None,
    identity: IdentityFilter = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Trains a random sample of results again and compares them.

    The exit code is 2 if one differs beyond the noise. Each program's identity is computed anew, too, and must match
    its key. A training on the pfn task takes up to two minutes on a CPU. Ctrl-C shows the results compared so far.

    For example:

    * `nosbench store verify --sample 5`
    * `nosbench store verify --sample 100 --seed 1 --task toy --tolerance 0.01`
    """
    done: list[Verified | NotVerifiable] = []
    records: list[StoredRecord] = []
    with interruptible(lambda: _verification_text(done, len(records))):
        from nosbench_env.results.key import Selection
        from nosbench_env.results.verify import draw_sample
        from nosbench_env.results.verify import verify as train_again

        opened = _existing_store(store)
        records = draw_sample(opened, sample, seed, Selection(task=task, identity=identity))
        hidden = quiet or as_json or not on_terminal()
        with tqdm(total=len(records), unit="result", leave=False, disable=hidden) as bar:

            def on_verified(outcome: Verified | NotVerifiable) -> None:
                done.append(outcome)
                bar.update()

            def on_step(progress: Progress) -> None:
                bar.set_postfix_str(f"training {progress.step}/{progress.steps}")

            train_again(
                records,
                on_verified,
                device=device,
                tolerance=tolerance,
                identity_value_of=_identity_value_of,
                on_step=on_step,
            )
    if as_json:
        _print_json(_verification_json(done))
    else:
        print(_verification_text(done, len(records)))
    if any(not getattr(outcome, "right", True) for outcome in done):
        raise typer.Exit(EXIT_WRONG)


@store_app.command()
def prune(
    identity: IdentityFilter = None,
    task: Annotated[str | None, typer.Option(help="Results of this task.", autocompletion=completion.tasks)] = None,
    task_version: Annotated[int | None, typer.Option(help="Results of this version of the task.")] = None,
    nosbench_version: Annotated[
        str | None, typer.Option(help="Results trained by this version of nosbench_env.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, the command only lists the results.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Deletes results by their keys; without --yes it only lists them.

    Several options together select the results that satisfy all of them. If a deleted result was the first under its
    key, the next one answers from then on. Deletion is final: `nosbench store export` makes a copy.

    For example:

    * `nosbench store prune --identity paper-1`
    * `nosbench store prune --task toy --task-version 1 --yes`
    """
    with interruptible(lambda: "Interrupted. Run the same command again to continue."):
        from nosbench_env.results.key import Selection
        from nosbench_env.results.prune import plan_pruning

        if task_version is not None and task is None:
            raise ValueError("--task-version needs --task: each task counts its versions on its own")
        if yes and identity in IDENTITIES:
            raise ValueError(
                f"--yes needs the version of --identity {identity}, such as {identity}-1; "
                "without --yes the command lists the versions in the store"
            )
        opened = _existing_store(store)
        with _progress(quiet or as_json) as tick:
            plan = plan_pruning(opened, Selection(task, task_version, identity, nosbench_version), tick)
        deleted = opened.delete(plan.ids) if yes else 0
    if as_json:
        _print_json(
            {
                "deleted": deleted,
                "chosen": [asdict(group) | {"records": n} for group, n in sorted(plan.chosen.items())],
                "remaining": [asdict(group) | {"records": n} for group, n in sorted(plan.remaining.items())],
                "other_keys": plan.other_keys,
            }
        )
        return
    lines = [f"Deleted {_results(deleted)}:" if yes else f"{_results(len(plan.ids))} would be deleted:"]
    lines += _table({group: (f"{count:,}",) for group, count in plan.chosen.items()}, "results")
    lines.append("Remaining:" if yes else "Remaining would be:")
    lines += _table({group: (f"{count:,}",) for group, count in plan.remaining.items()}, "results")
    if plan.other_keys:
        lines.append(f"and {plan.other_keys:,} under keys of another form")
    if not yes and plan.ids:
        lines.append("Nothing was deleted. Add --yes to delete.")
    print("\n".join(lines))


@store_app.command()
def rekey(
    to: Annotated[
        str,
        typer.Option(
            metavar="IDENTITY",
            help="The new identity: `fingerprint`, `canonical` or `paper`.",
            autocompletion=completion.identities,
        ),
    ],
    prune: Annotated[bool, typer.Option("--prune", help="Delete old results that have a new key.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copies results to keys of another identity or version, without training.

    Old results stay unless --prune is given. Programs that diverge under the new identity need no key and are skipped.
    A second run adds nothing.

    For example:

    * `nosbench store rekey --to fingerprint`
    """
    with interruptible(lambda: "Interrupted. Run the same command again to continue."):
        from nosbench_env.identity.identify import check_identity
        from nosbench_env.results.rekey import rekey as rekey_store

        identity = check_identity(cast("Identity", to))
        opened = _existing_store(store)
        with _progress(quiet or as_json) as tick:
            report = rekey_store(opened, partial(_identified, identity), prune=prune, on_record=tick)
    if as_json:
        _print_json(asdict(report))
        return
    print(
        f"{_results(report.records)} in the store; {report.current:,} under keys of this identity already\n"
        f"added     {report.added:,} under new keys ({report.there:,} were there)\n"
        f"skipped   {report.diverged:,} of programs known to diverge, "
        f"{report.unknown:,} that do not say their program or are of unknown tasks\n"
        f"deleted   {report.pruned:,} old ones"
    )


def _identified(identity: Identity, program: Program, task: str) -> tuple[str, Status] | None:
    """Returns a program's identity value and status; None for unknown tasks."""
    from nosbench_env.identity.identify import identify
    from nosbench_env.tasks import check_task_name, task_class
    from nosbench_env.tasks.task import probe_of

    try:
        check_task_name(task)
    except ValueError:
        return None
    return identify(program, identity, probe_of(task_class(task)))


def _identity_value_of(program: Program, key: ResultKey) -> str | None:
    """Computes a program's identity value as in `key`; None if unknown."""
    from nosbench_env.identity.identify import identity_of

    try:
        identified = _identified(identity_of(key.identity), program, key.task)
    except ValueError:
        return None
    if identified is None or identified[0].partition(":")[0] != key.identity:
        return None
    return identified[0]


def _existing_store(location: str | None, read_only: bool = False) -> ResultStore:
    """Opens an existing store; rejects other paths and creates nothing."""
    from nosbench_env.store import ResultStore

    store = ResultStore(location, read_only)
    if store.path is not None and not store.path.exists():
        raise ValueError(f"there is no store {store.path}; name one with --store or NOSBENCH_STORE")
    return store


def _size(store: ResultStore) -> int | None:
    """Returns the bytes on disk, write-ahead log included; None for servers."""
    if store.path is None:
        return None
    files = [store.path, store.path.with_name(f"{store.path.name}-wal")]
    return sum(file.stat().st_size for file in files if file.exists())


@contextmanager
def _progress(hidden: bool) -> Iterator[Callable[[], None]]:
    with tqdm(unit=" results", leave=False, disable=hidden or not on_terminal(), mininterval=0.2) as bar:

        def tick() -> None:
            bar.update()

        yield tick


def _print_import(report: ImportReport, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(report))
        return
    print(
        f"{_results(report.records)} read\n"
        f"added      {report.added:,}\n"
        f"skipped    {report.duplicates:,} already there\n"
        f"disagree   {_disagreements(report.disagreeing, report.largest_difference)}"
        + ("; they are kept, and the earlier results answer" if report.disagreeing else "")
    )
    _say_left_out(report.left_out, report.reason)


def _say_left_out(count: int, reason: str) -> None:
    if count:
        print(f"left out   {_results(count)}; the first: {_plain(reason)}", file=sys.stderr)


def _disagreements(count: int, largest: float) -> str:
    if not count:
        return "none"
    by = f"by up to {largest:.3g}" if math.isfinite(largest) else "at worst one is finite and the other is not"
    return f"{count:,} ({by})"


def _results(count: int) -> str:
    return f"{count:,} result" if count == 1 else f"{count:,} results"


def _plain(text: str) -> str:
    """Escapes control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _counts(counter: dict[str, int]) -> str:
    most = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{_plain(name[:80])} ({count:,})" for name, count in most[:8]]
    return ", ".join(parts + [f"{len(most) - 8} others"] * (len(most) > 8)) or "none"


def _table(rows: dict[Group, tuple[str, ...]], *columns: str) -> list[str]:
    """Returns groups and their counts as aligned lines."""
    heads = ("task", "version", "seed", "arithmetic", "identity", *columns)
    lines = [heads] + [
        (g.task, str(g.task_version), str(g.seed), g.arithmetic, g.identity, *rows[g]) for g in sorted(rows)
    ]
    return aligned(lines, left=(0, 3, 4)) if rows else ["    none"]


def _verification_text(done: list[Verified | NotVerifiable], asked: int) -> str:
    from nosbench_env.results.verify import Verified

    compared = [outcome for outcome in done if isinstance(outcome, Verified)]
    lines = []
    if compared:
        rows: list[tuple[str, ...]] = [
            ("record", "task", "seed", "epochs", "stored", "again", "difference", "allowed", "identity", "verdict")
        ]
        for verified in compared:
            task, _, rest = verified.stored.key.partition("/")
            record = verified.stored.record
            rows.append(
                (
                    str(verified.stored.id),
                    task,
                    rest.partition("/")[0].removeprefix("seed="),
                    str(record.first_epoch + len(record.epoch_means)),
                    f"{record.epoch_means[-1]:.6f}",
                    f"{verified.again.epoch_means[-1]:.6f}",
                    f"{verified.difference:.1e}",
                    f"{verified.tolerance:.1e}",
                    verified.identity,
                    "ok" if verified.right else "BEYOND" if not verified.within else "OTHER PROGRAM",
                )
            )
        lines += [*aligned(rows, left=(1, 8, 9)), ""]
    lines += [
        f"record {outcome.stored.id} is not verifiable: {_plain(outcome.reason)}"
        for outcome in done
        if not isinstance(outcome, Verified)
    ]
    wrong = sum(not verified.right for verified in compared)
    if any(verified.identity == "other" for verified in compared):
        lines.append(
            "OTHER PROGRAM: the trained program has another identity than its key. Either the result belongs to "
            "another program, or this machine rounds differently from the one that trained it."
        )
    lines.append(
        f"{len(compared)} of {_results(asked)} compared, {len(compared) - wrong} agree, {wrong} do not; "
        f"{len(done) - len(compared)} not verifiable"
    )
    return "\n".join(lines)


def _verification_json(done: list[Verified | NotVerifiable]) -> dict[str, Any]:
    from nosbench_env.results.verify import Verified

    compared = [outcome for outcome in done if isinstance(outcome, Verified)]
    return {
        "compared": [
            {
                "record": verified.stored.id,
                "key": verified.stored.key,
                "program": verified.program.to_json(),
                "stored": list(verified.stored.record.epoch_means),
                "again": list(verified.again.epoch_means),
                "difference": verified.difference,
                "tolerance": verified.tolerance,
                "within": verified.within,
                "identity": verified.identity,
                "right": verified.right,
            }
            for verified in compared
        ],
        "not_verifiable": [
            {"record": verified.stored.id, "key": verified.stored.key, "reason": verified.reason}
            for verified in done
            if not isinstance(verified, Verified)
        ],
    }


def _print_json(data: Any) -> None:
    """Prints JSON, with 'nan', 'inf' and '-inf' as in exports."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return repr(value)
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    print(json.dumps(plain(data), allow_nan=False))
