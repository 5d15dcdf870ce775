"""The commands `nosbench study`: measurements of the benchmark itself, and the paper's figures."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nosbench_env.cli import completion
from nosbench_env.cli.options import DeviceOption, JsonOption, QuietOption, aligned, interruptible

# The commands import torch and what needs it when they run, so that --help answers at once.

study_app = typer.Typer(
    name="study",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measurements of the benchmark itself.",
    rich_markup_mode="markdown",
)


class Part(StrEnum):
    """The parts of the study of the cache."""

    growth = "growth"
    hits = "hits"
    false_positives = "false-positives"
    false_splits = "false-splits"
    diverged = "diverged"


class Size(StrEnum):
    """How large a study is."""

    afternoon = "afternoon"
    paper = "paper"


class Method(StrEnum):
    """The search methods whose runs are looked at."""

    rs = "rs"
    re = "re"


class IdentityName(StrEnum):
    """The ways to tell whether programs are the same."""

    paper = "paper"
    canonical = "canonical"
    fingerprint = "fingerprint"


class FigureSize(StrEnum):
    """How large a figure of the paper is repeated."""

    minutes = "minutes"
    machine = "machine"
    paper = "paper"


class FigureMethod(StrEnum):
    """The search methods of Figure 1."""

    rs = "rs"
    re_adamw = "re-adamw"
    re_adadelta = "re-adadelta"
    smac_nos = "smac-nos"
    smac_hpo = "smac-hpo"


@study_app.callback()
def _study() -> None:
    """Measurements of the benchmark itself."""


@study_app.command()
def cache(
    part: Annotated[list[Part] | None, typer.Option(help="Only this part; may be given several times.")] = None,
    size: Annotated[
        Size,
        typer.Option(
            help="`afternoon`: 3 seeds, 1 epoch; an afternoon on a CPU. `paper`: 18 seeds, 20 epochs, as in "
            "Appendix D. The options below override it."
        ),
    ] = Size.afternoon,
    seeds: Annotated[int | None, typer.Option(help="Runs of each method.")] = None,
    queries: Annotated[int | None, typer.Option(help="Programs that a run asks for. Default: 8000.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of trainings.")] = None,
    task: Annotated[
        str, typer.Option(help="`pfn`, the paper's task, or `toy`.", autocompletion=completion.tasks)
    ] = "pfn",
    max_instructions: Annotated[
        int,
        typer.Option(help="Length of the longest programs: 14 in the paper's code, 20 in its text."),
    ] = 14,
    method: Annotated[
        list[Method] | None,
        typer.Option(help="Only `rs` (random search) or `re` (regularized evolution from random programs)."),
    ] = None,
    identity: Annotated[
        list[IdentityName] | None,
        typer.Option(
            help="Only this way to tell programs apart: `paper`'s proxy, `canonical` form, `fingerprint`; may be given "
            "several times. Default: all, side by side; `canonical` only where that needs no training."
        ),
    ] = None,
    search_identity: Annotated[
        IdentityName,
        typer.Option(help="How programs are told apart in the runs of evolution. `paper` for its own search."),
    ] = IdentityName.fingerprint,
    pairs: Annotated[
        int | None, typer.Option(help="Hits: pairs of runs, one filling the cache, one querying it. Default: 9.")
    ] = None,
    merged_pairs: Annotated[
        int | None, typer.Option(help="False positives: pairs of programs drawn, for each method and identity.")
    ] = None,
    split_programs: Annotated[
        int | None, typer.Option(help="False splits: programs of different keys compared, for each of those.")
    ] = None,
    diverged_programs: Annotated[
        int | None, typer.Option(help="Diverged: programs trained all the same, for each identity.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where everything is kept: runs, trainings, tables, pictures.")] = Path(
        "studies/cache"
    ),
    store: Annotated[
        str | None, typer.Option(help="The store of the runs of evolution. Default: one in the folder.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs or trainings at once, on the CPU. Default: one for each core.")
    ] = None,
    device: DeviceOption = "auto",
    plots: Annotated[bool, typer.Option(help="Draw pictures; they need the extra `plot`.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What the cache saves and what it gets wrong, as in the paper's Appendix D, for several ways to identify programs.

    Ctrl-C stops it with nothing lost; the same command goes on from there, and a larger study builds on a smaller one.

    For example:

    * `nosbench study cache --task toy --queries 500`
    * `nosbench study cache --part growth --part hits --method rs --seeds 10` (no training needed)
    * `nosbench study cache --part false-positives --merged-pairs 1000 --workers 8`
    * `nosbench study cache --size paper --folder studies/cache-20-epochs --device cuda`
    """
    with interruptible(_stopped(folder)):
        from nosbench_env.plotting import check_matplotlib
        from nosbench_env.studies.cache import CAPTIONS, SIZES, CacheStudy
        from nosbench_env.studies.cache_plots import plot_growth
        from nosbench_env.tasks.worker_pool import available_cores

        parts = [Part(name).value for name in part or Part]
        plots = plots and Part.growth.value in parts
        if plots:
            check_matplotlib()
        chosen: dict[str, Any] = {
            "seeds": seeds,
            "queries": queries,
            "epochs": epochs,
            "seed_pairs": pairs,
            "merged_pairs": merged_pairs,
            "split_programs": split_programs,
            "diverged_programs": diverged_programs,
            "methods": tuple(name.value for name in method) if method else None,
            "identities": tuple(name.value for name in identity) if identity else None,
        }
        settings = replace(
            SIZES[size.value],
            task=task,
            max_instructions=max_instructions,
            search_identity=search_identity.value,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        study = CacheStudy(
            folder,
            settings,
            store=store,
            device=device,
            workers=available_cores() if workers is None else workers,
            report=_report(silent=quiet or as_json),
        )
        tables = study.run(parts)
        if plots:
            for name, runs in (("growth-within-runs", 1), ("growth-across-runs", 3)):
                plot_growth(folder / f"{name}.csv", folder / f"{name}.png", runs=runs)
    if as_json:
        print((folder / "summary.json").read_text(), end="")
        return
    for name, rows in tables.items():
        print(f"{textwrap.fill(CAPTIONS[name], 110)}\n\n{_table(rows)}\n")
    print(f"All of it, with the programs that differ: {folder}")


@study_app.command()
def figure1(
    size: Annotated[
        FigureSize,
        typer.Option(
            help="`minutes`: a check on the toy task. `machine`: the PFN task, 1 epoch, 200 queries, 3 seeds; an hour "
            "on two CPU cores. `paper`: 20 epochs, 10,000 queries, 5 seeds. The options below override it."
        ),
    ] = FigureSize.machine,
    task: Annotated[
        str | None, typer.Option(help="`pfn`, the paper's task, or `toy`.", autocompletion=completion.tasks)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of trainings.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each method, and trainings with each baseline.")] = None,
    queries: Annotated[int | None, typer.Option(help="What a run asks for.")] = None,
    max_instructions: Annotated[int, typer.Option(help="Length of the longest programs.")] = 20,
    hpo_initial: Annotated[
        int | None,
        typer.Option(
            help="Optimizers that `smac-hpo` begins with before it learns; SMAC takes 90, but no more than a quarter "
            "of the queries."
        ),
    ] = None,
    method: Annotated[
        list[FigureMethod] | None,
        typer.Option(
            help="Only this method; may be given several times. `rs`: random search; `re-adamw`, `re-adadelta`: "
            "regularized evolution from these; `smac-nos`: SMAC on programs; `smac-hpo`: SMAC on PyTorch's optimizers "
            "and their hyperparameters (the last two need the extra `smac`)."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="A baseline or a group of them (`nosbench baselines --list`); may be given several times. Default: "
            "`program` and `schedule`, those of the paper.",
            autocompletion=completion.baselines,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where everything is kept: runs, tables, the picture.")] = Path(
        "studies/figure1"
    ),
    store: Annotated[
        str | None, typer.Option(help="The store that runs and baselines share. Default: one in the folder.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Runs at once. Default: one for each core.")] = None,
    device: DeviceOption = "auto",
    plots: Annotated[bool, typer.Option(help="Draw the picture; it needs the extra `plot`.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The paper's Figure 1: baselines, and the best loss so far of random search, evolution and SMAC.

    Ctrl-C stops it with nothing lost; the same command goes on from there, and a larger one builds on a smaller one.
    `figure1.md` in the folder says how it compares with the paper.

    For example:

    * `nosbench study figure1 --size minutes`
    * `nosbench study figure1 --method rs --method re-adamw --queries 500`
    * `nosbench study figure1 --size paper --output studies/figure1-20-epochs --workers 32`
    """
    with interruptible(_stopped(output)):
        from nosbench_env.plotting import check_matplotlib
        from nosbench_env.studies.figure1 import SIZES, Figure1Study
        from nosbench_env.studies.figure1_picture import draw_figure1
        from nosbench_env.studies.figure1_reading import baseline_cells, markdown, method_cells, reading
        from nosbench_env.tasks.worker_pool import available_cores

        if plots:
            check_matplotlib()
        chosen: dict[str, Any] = {
            "task": task,
            "epochs": epochs,
            "seeds": seeds,
            "queries": queries,
            "hpo_initial": hpo_initial,
            "methods": tuple(name.value for name in method) if method else None,
            "baselines": tuple(baseline) if baseline else None,
        }
        settings = replace(
            SIZES[size.value],
            max_instructions=max_instructions,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        study = Figure1Study(
            output,
            settings,
            store=store,
            device=device,
            workers=available_cores() if workers is None else workers,
            report=_report(silent=quiet or as_json),
        )
        figure = study.run()
        study.files.write_text("figure1.md", markdown(figure))
        if plots:
            study.files.write_bytes("figure1.png", draw_figure1(figure))
    if as_json:
        print((output / "figure1.json").read_text(), end="")
        return
    print(f"{_columns(method_cells(figure))}\n\n{_columns(baseline_cells(figure))}\n")
    for sentence in reading(figure):
        print(textwrap.fill(sentence, 110))
    for name, reason in figure.left_out.items():
        print(f"Left out: {name}, which {reason}")
    print(f"\nAll of it, beside what the paper states: {output / 'figure1.md'}")


@study_app.command()
def figure5(
    size: Annotated[
        FigureSize,
        typer.Option(
            help="`minutes`: a check on the toy task. `machine`: the PFN task, 20 epochs, 3 seeds; a quarter of an "
            "hour on two CPU cores. `paper`: the same with 10 seeds. The options below override it."
        ),
    ] = FigureSize.machine,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="An optimizer: a baseline (`nosbench baselines --list`), a program or an optimizer as in `nosbench "
            "plot`; may be given several times. Default: Incumbent, AdamW and Adadelta, as in the paper.",
            autocompletion=completion.candidates,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="`pfn`, the paper's task, or `toy`.", autocompletion=completion.tasks)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Length of trainings.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Trainings with each optimizer, and draws of the proxy.")] = None,
    proxy_steps: Annotated[
        int | None, typer.Option(help="Steps on the proxy; the paper's fingerprint looks at 10. Default: 100.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where everything is kept: trainings, tables, the picture.")] = Path(
        "studies/figure5"
    ),
    workers: Annotated[int | None, typer.Option(help="Trainings at once. Default: one for each core.")] = None,
    device: DeviceOption = "auto",
    plots: Annotated[bool, typer.Option(help="Draw the picture; it needs the extra `plot`.")] = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The paper's Figure 5: how far optimizers move in each step, and their curves on the proxy and on the task.

    Ctrl-C loses the trainings in progress and nothing else; the same command goes on from there.

    For example:

    * `nosbench study figure5 --size minutes`
    * `nosbench study figure5 --candidate Incumbent --candidate torch.AdamW --candidate runs/my-run`
    """
    with interruptible(_stopped(output)):
        from nosbench_env.cli.candidate_argument import named_candidates
        from nosbench_env.plotting import check_matplotlib
        from nosbench_env.studies.figure5 import SIZES, Figure5Study
        from nosbench_env.studies.figure5_picture import draw_figure5
        from nosbench_env.studies.figure5_reading import markdown, summary_cells
        from nosbench_env.tasks.worker_pool import available_cores

        if plots:
            check_matplotlib()
        chosen = {"task": task, "epochs": epochs, "seeds": seeds, "proxy_steps": proxy_steps}
        settings = replace(
            SIZES[size.value],
            **{name: value for name, value in chosen.items() if value is not None},  # type: ignore[arg-type]  # of several types
        )
        study = Figure5Study(
            output,
            settings,
            named_candidates(candidate or ()) or None,
            device=device,
            workers=available_cores() if workers is None else workers,
            report=_report(silent=quiet or as_json),
        )
        summary = study.run()
        study.files.write_text("figure5.md", markdown(settings, summary))
        if plots:
            study.files.write_bytes("figure5.png", draw_figure5(output, settings.task))
    if as_json:
        print((output / "figure5.json").read_text(), end="")
        return
    print(_columns(summary_cells(summary)))
    print(f"\nAll of it, beside what the paper states: {output / 'figure5.md'}")


def _stopped(folder: Path) -> Callable[[], str]:
    return lambda: f"Stopped; all that was done is kept in {folder}.\nTo go on, run the same command again."


def _report(*, silent: bool) -> Callable[[str], None]:
    """Where a study tells how far it is."""
    return (lambda text: None) if silent else (lambda text: print(text, file=sys.stderr, flush=True))


def _columns(cells: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal names, in columns; the first to the left."""
    return "\n".join(aligned([list(cells[0]), *(list(row.values()) for row in cells)], left=(0,)))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal names, in columns; a standard deviation stands beside its mean."""
    if not rows:
        return "    nothing to show"
    cells = [[name for name in rows[0] if not name.endswith(" std")]]
    for row in rows:
        deviations = {name: f" ±{_cell(row[f'{name} std'])}" for name in row if f"{name} std" in row}
        cells.append([_cell(row[name]) + deviations.get(name, "") for name in cells[0]])
    return "\n".join(aligned(cells))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
