"""The commands `nosbench store ...`: what a store holds, its way elsewhere, and its upkeep."""

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
from nosbench_env.tasks.task import probe_of

if TYPE_CHECKING:
    import io

    from nosbench_env.identity.identify import Identity
    from nosbench_env.language.program import Program
    from nosbench_env.language.status import Status
    from nosbench_env.results.key import ResultKey
    from nosbench_env.results.survey import Group
    from nosbench_env.results.transfer import ImportReport, Writable
    from nosbench_env.results.verify import Comparison, NotVerifiable
    from nosbench_env.store import ResultStore, StoredRun
    from nosbench_env.tasks.task import Progress

# Commands import what needs torch or a database when they run, so that --help answers at once.

store_app = typer.Typer(
    name="store",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Looks into the store of results, exports and imports it, checks it, and tidies it up.\n\n"
    "Start with `nosbench store info`.",
    rich_markup_mode="markdown",
)

TaskFilter = Annotated[str | None, typer.Option(help="Only results of this task.", autocompletion=completion.tasks)]
MethodFilter = Annotated[
    str | None,
    typer.Option(help="Only results whose identity comes from this method, with its version, such as `paper-1`."),
]


@store_app.command()
def info(store: StoreOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Says what the store holds: results by task, seed and identity, dates, devices, versions, disagreements.

    For example:

    * `nosbench store info`
    * `nosbench store info --store results.sqlite --json`
    """
    with interruptible(lambda: "Interrupted."):
        from nosbench_env.results.survey import survey
        from nosbench_env.store.schema import SCHEMA_VERSION

        opened = _existing_store(store)
        with _progress(quiet or as_json) as tick:
            found = survey(opened, tick)
    size = _size(opened)
    if as_json:
        data = {field.name: getattr(found, field.name) for field in fields(found)}
        data["groups"] = [
            asdict(group) | {"records": records, "keys": keys}
            for group, (records, keys) in sorted(found.groups.items())
        ]
        _print_json({"store": opened.location, "bytes": size, "schema_version": SCHEMA_VERSION} | data)
        return
    lines = [
        f"store            {opened.location}",
        f"size             {'unknown' if size is None else f'{size:,} bytes'}, schema version {SCHEMA_VERSION}",
        f"results          {found.records:,} under {found.keys:,} keys",
        f"dates            {' to '.join(map(_plain, found.dates)) if found.dates[0] else 'none'}",
        f"devices          {_counts(found.devices)}",
        f"nosbench_env     {_counts(found.versions)}",
        f"torch            {_counts(found.torch_versions)}",
        f"disagreements    {_disagreements(found.disagreeing_keys, found.largest_difference)}"
        + (f", {found.disagreeing_beyond_noise:,} beyond the noise of 0.15" if found.disagreeing_keys else ""),
    ]
    if found.without_program:
        lines.append(f"without program  {found.without_program:,} (they can't be verified or rekeyed)")
    if found.other_keys:
        lines.append(
            f"other keys       {found.other_keys:,} results under keys of another form (they can't be exported)"
        )
    if found.groups:
        lines += [
            "",
            *_table({group: (f"{r:,}", f"{k:,}") for group, (r, k) in found.groups.items()}, "results", "keys"),
        ]
    print("\n".join(lines))


@store_app.command("export")
def export_command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to; gzipped if it ends with .gz; `-` prints it.")],
    task: TaskFilter = None,
    identity_method: MethodFilter = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Writes results as JSON lines: portable, exact, and the same text for the same results.

    The first line says what the fields mean, in which units. The file is there whole or not at all.

    For example:

    * `nosbench store export results.jsonl.gz`
    * `nosbench store export pfn.jsonl --task pfn --identity-method paper-1 --overwrite`
    * `nosbench store export - | head -3`
    """
    with interruptible(lambda: "Interrupted; nothing was written."):
        from nosbench_env.results.key import Selection
        from nosbench_env.results.transfer import export_results

        if file == "-" and as_json:
            raise ValueError("--json would print its report into the results; leave it out, or name a file")
        target: Path | Writable = sys.stdout.buffer if file == "-" else Path(file)
        chosen = Selection(task=task, identity_method=identity_method)
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
        str, typer.Argument(metavar="FILE", help="A file that `export` wrote, gzipped or not; `-` reads it.")
    ],
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adds the results of an exported file to the store.

    The file is checked to its end before the first result is added. What the store answers it goes on answering:
    results that are there already are skipped, and those that disagree are kept beside what is there. Whether the
    results are true nobody can see from the file: `nosbench store verify` trains some of them again.

    For example:

    * `nosbench store import results.jsonl.gz`
    * `nosbench store import - --store other.sqlite < results.jsonl`
    """
    with interruptible(lambda: "Interrupted; the same command goes on where it stopped."):
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
    others: Annotated[list[str], typer.Argument(metavar="STORE...", help="Other stores: files or URLs; not changed.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Adds the results of other stores to the store, as `import` does with a file.

    For example:

    * `nosbench store merge laptop.sqlite cluster.sqlite`
    * `nosbench store merge old.sqlite --store all.sqlite`
    """
    with interruptible(lambda: "Interrupted; the same command goes on where it stopped."):
        from nosbench_env.results.transfer import merge_stores
        from nosbench_env.store import ResultStore

        opened = [_existing_store(other, read_only=True) for other in others]
        with _progress(quiet or as_json) as tick:
            report = merge_stores(opened, ResultStore(store), on_record=tick)
    _print_import(report, as_json)


@store_app.command()
def verify(
    sample: Annotated[int, typer.Option(help="How many results to train again, drawn at random.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="What losses may differ by. Default: 0.15, the noise of a training; 1e-6 for the first ten steps and "
            "for programs that ignore the gradient. Relative to losses greater than 1."
        ),
    ] = None,
    task: TaskFilter = None,
    identity_method: MethodFilter = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Trains a random sample of results again and compares; exits with 2 if one is beyond the noise.

    It also computes the identity of each program anew: a result must be that of a program with the identity its key
    names. A training on the pfn task takes up to a minute or two on a CPU. Ctrl-C shows what was compared before.

    For example:

    * `nosbench store verify --sample 5`
    * `nosbench store verify --sample 100 --seed 1 --task toy --tolerance 0.01`
    """
    done: list[Comparison | NotVerifiable] = []
    runs: list[StoredRun] = []
    with interruptible(lambda: _verification_text(done, len(runs))):
        from nosbench_env.results.key import Selection
        from nosbench_env.results.verify import draw_sample
        from nosbench_env.results.verify import verify as train_again

        opened = _existing_store(store)
        runs = draw_sample(opened, sample, seed, Selection(task=task, identity_method=identity_method))
        hidden = quiet or as_json or not on_terminal()
        with tqdm(total=len(runs), unit="result", leave=False, disable=hidden) as bar:

            def on_verified(found: Comparison | NotVerifiable) -> None:
                done.append(found)
                bar.update()

            def on_step(progress: Progress) -> None:
                bar.set_postfix_str(f"training {progress.step}/{progress.steps}")

            train_again(
                runs, on_verified, device=device, tolerance=tolerance, identity_like=_identity_like, on_step=on_step
            )
    if as_json:
        _print_json(_verification_json(done))
    else:
        print(_verification_text(done, len(runs)))
    if any(not getattr(found, "right", True) for found in done):
        raise typer.Exit(EXIT_WRONG)


@store_app.command()
def prune(
    identity_method: Annotated[
        str | None, typer.Option(help="Results whose identity comes from this method, such as `paper-1`.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Results of this task.", autocompletion=completion.tasks)] = None,
    task_version: Annotated[int | None, typer.Option(help="Results of this version of the task.")] = None,
    nosbench_version: Annotated[
        str | None, typer.Option(help="Results trained by this version of nosbench_env.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this, it only says what would go.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Deletes results by what their keys say; without --yes it only says what would go and what would remain.

    With several options, results that have all of it go. Where a deleted result was the first under its key, the next
    one answers from then on. There is no way back: `nosbench store export` makes a copy.

    For example:

    * `nosbench store prune --identity-method paper-1`
    * `nosbench store prune --task toy --task-version 1 --yes`
    """
    with interruptible(lambda: "Interrupted; the same command goes on where it stopped."):
        from nosbench_env.results.key import Selection
        from nosbench_env.results.prune import plan_pruning

        if task_version is not None and task is None:
            raise ValueError(
                "--task-version needs --task: versions of different tasks have nothing to do with each other"
            )
        opened = _existing_store(store)
        with _progress(quiet or as_json) as tick:
            plan = plan_pruning(opened, Selection(task, task_version, identity_method, nosbench_version), tick)
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
        lines.append("Nothing is deleted yet; --yes does it.")
    print("\n".join(lines))


@store_app.command()
def rekey(
    to: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help="What decides from now on: `fingerprint`, `canonical` or `paper`.",
            autocompletion=completion.identities,
        ),
    ],
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete old results once they are there under a new key.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Brings results of other identity methods, or other versions, under keys of a new one: nothing trains again.

    Old results stay unless --prune is given. Programs that diverge under the new method have no key there and are
    skipped. A second time it adds nothing.

    For example:

    * `nosbench store rekey --to fingerprint`
    """
    with interruptible(lambda: "Interrupted; the same command goes on where it stopped."):
        from nosbench_env.identity.identify import check_identity
        from nosbench_env.results.rekey import rekey as rekey_store

        identity = check_identity(cast("Identity", to))
        opened = _existing_store(store)
        with _progress(quiet or as_json) as tick:
            report = rekey_store(opened, partial(_identity_of, identity), prune=prune, on_record=tick)
    if as_json:
        _print_json(asdict(report))
        return
    print(
        f"{_results(report.records)} in the store; {report.current:,} under keys of this method already\n"
        f"added     {report.added:,} under new keys ({report.there:,} were there)\n"
        f"skipped   {report.diverged:,} of programs known to diverge, "
        f"{report.unknown:,} that do not say their program or are of unknown tasks\n"
        f"deleted   {report.pruned:,} old ones"
    )


def _identity_of(identity: Identity, program: Program, task: str) -> tuple[str, Status] | None:
    """The identity of a program on a task, as the oracle has it; None if the task is not known."""
    from nosbench_env.identity.identify import identify
    from nosbench_env.tasks import check_task_name, task_class

    try:
        check_task_name(task)
    except ValueError:
        return None
    return identify(program, identity, probe_of(task_class(task)))


def _identity_like(program: Program, key: ResultKey) -> str | None:
    """The identity of a program under the method of a key; None if that, or its version, is not known here."""
    from nosbench_env.identity.identify import identity_of

    try:
        found = _identity_of(identity_of(key.method), program, key.task)
    except ValueError:
        return None
    return found[0] if found is not None and found[0].partition(":")[0] == key.method else None


def _existing_store(location: str | None, read_only: bool = False) -> ResultStore:
    """A store that is there: a wrong path is a mistake, not a new store."""
    from nosbench_env.store import ResultStore

    store = ResultStore(location, read_only)
    if store.path is not None and not store.path.exists():
        raise ValueError(f"there is no store {store.path}; name one with --store or NOSBENCH_STORE")
    return store


def _size(store: ResultStore) -> int | None:
    """Bytes on disk, with what has not been moved into the database's file yet; None if it is not in a file."""
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
        f"skipped    {report.duplicates:,} that were there already\n"
        f"disagree   {_disagreements(report.disagreeing, report.largest_difference)}"
        + ("; they are kept, what was there answers" if report.disagreeing else "")
    )
    _say_left_out(report.left_out, report.reason)


def _say_left_out(count: int, reason: str) -> None:
    if count:
        print(f"left out   {_results(count)}; the first: {_plain(reason)}", file=sys.stderr)


def _disagreements(count: int, largest: float) -> str:
    if not count:
        return "none"
    by = f"by up to {largest:.3g}" if math.isfinite(largest) else "one finite, one not, at the worst"
    return f"{count:,} ({by})"


def _results(count: int) -> str:
    return f"{count:,} result" if count == 1 else f"{count:,} results"


def _plain(text: str) -> str:
    """Text of a store for a terminal, which would obey some characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _counts(counter: dict[str, int]) -> str:
    most = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{_plain(name[:80])} ({count:,})" for name, count in most[:8]]
    return ", ".join(parts + [f"{len(most) - 8} others"] * (len(most) > 8)) or "none"


def _table(rows: dict[Group, tuple[str, ...]], *columns: str) -> list[str]:
    """Groups with their counts, as aligned lines."""
    heads = ("task", "version", "seed", "arithmetic", "identity", *columns)
    lines = [heads] + [
        (g.task, str(g.task_version), str(g.seed), g.arithmetic, g.method, *rows[g]) for g in sorted(rows)
    ]
    return aligned(lines, left=(0, 3, 4)) if rows else ["    none"]


def _verification_text(done: list[Comparison | NotVerifiable], asked: int) -> str:
    from nosbench_env.results.verify import Comparison

    compared = [found for found in done if isinstance(found, Comparison)]
    lines = []
    if compared:
        rows: list[tuple[str, ...]] = [
            ("record", "task", "seed", "epochs", "stored", "again", "difference", "allowed", "identity", "verdict")
        ]
        for found in compared:
            task, _, rest = found.run.key.partition("/")
            record = found.run.record
            rows.append(
                (
                    str(found.run.id),
                    task,
                    rest.partition("/")[0].removeprefix("seed="),
                    str(record.first_epoch + len(record.epoch_means)),
                    f"{record.epoch_means[-1]:.6f}",
                    f"{found.again.epoch_means[-1]:.6f}",
                    f"{found.difference:.1e}",
                    f"{found.tolerance:.1e}",
                    found.identity,
                    "ok" if found.right else "BEYOND" if not found.within else "OTHER PROGRAM",
                )
            )
        lines += [*aligned(rows, left=(1, 8, 9)), ""]
    lines += [
        f"record {found.run.id} is not verifiable: {_plain(found.reason)}"
        for found in done
        if not isinstance(found, Comparison)
    ]
    wrong = sum(not found.right for found in compared)
    if any(found.identity == "other" for found in compared):
        lines.append(
            "OTHER PROGRAM: the program trained has another identity than the key says. The result is not that of the "
            "key, or this machine rounds differently from the one that made it."
        )
    lines.append(
        f"{len(compared)} of {_results(asked)} compared, {len(compared) - wrong} agree, {wrong} do not; "
        f"{len(done) - len(compared)} not verifiable"
    )
    return "\n".join(lines)


def _verification_json(done: list[Comparison | NotVerifiable]) -> dict[str, Any]:
    from nosbench_env.results.verify import Comparison

    compared = [found for found in done if isinstance(found, Comparison)]
    return {
        "compared": [
            {
                "record": found.run.id,
                "key": found.run.key,
                "program": found.program.to_json(),
                "stored": list(found.run.record.epoch_means),
                "again": list(found.again.epoch_means),
                "difference": found.difference,
                "tolerance": found.tolerance,
                "within": found.within,
                "identity": found.identity,
                "right": found.right,
            }
            for found in compared
        ],
        "not_verifiable": [
            {"record": found.run.id, "key": found.run.key, "reason": found.reason}
            for found in done
            if not isinstance(found, Comparison)
        ],
    }


def _print_json(data: Any) -> None:
    """Prints JSON; numbers that are not finite as 'nan', 'inf' and '-inf', as exports have them."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return repr(value)
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    print(json.dumps(plain(data), allow_nan=False))
