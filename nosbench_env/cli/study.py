"""The commands `nosbench study`: measurements of the benchmark, and the paper's figures."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nosbench_env.cli import completion
from nosbench_env.cli.options import DeviceOption, JsonOption, QuietOption, aligned, interruptible, with_options

if TYPE_CHECKING:
    from nosbench_env.studies.settings import Resources

# The commands import torch and its users when they run, so that --help answers at once.

study_app = typer.Typer(
    name="study",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Measure the benchmark itself, and repeat figures of the paper.",
    rich_markup_mode="markdown",
)

_PARTS = ("growth", "hits", "false-positives", "false-splits", "diverged")
_METHODS = ("rs", "re-adamw", "re-adadelta", "smac-nos", "smac-hpo")
Part = StrEnum("Part", [(name, name) for name in _PARTS])  # type: ignore[misc]  # mypy reads literals only
CacheSize = StrEnum("CacheSize", ["afternoon", "paper"])
CacheMethod = StrEnum("CacheMethod", ["rs", "re"])
IdentityName = StrEnum("IdentityName", ["paper", "canonical", "fingerprint"])
FigureSize = StrEnum("FigureSize", ["minutes", "machine", "paper"])
FigureMethod = StrEnum("FigureMethod", [(name, name) for name in _METHODS])  # type: ignore[misc]

StoreOption = Annotated[str | None, typer.Option(help="The result store. Default: one in the output folder.")]
InstructionsOption = Annotated[
    int, typer.Option(help="Largest length of a program: 20 in the paper's text, 14 in its code.")
]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """The options of all studies; None stands for the study's default."""

    task: Annotated[
        str | None, typer.Option(help="`pfn`, the paper's task, or `toy`.", autocompletion=completion.tasks)
    ] = None
    epochs: Annotated[int | None, typer.Option(help="Length of training.")] = None
    seeds: Annotated[
        int | None, typer.Option(help="Number of seeds: runs of each method, trainings with each optimizer.")
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for everything: runs, trainings, tables, plots. Default: one in studies/."),
    ] = None
    workers: Annotated[
        int | None, typer.Option(help="Runs or trainings at once, on the CPU. Default: one for each core.")
    ] = None
    device: DeviceOption = "auto"
    plot: Annotated[bool, typer.Option(help="Draw plots. Needs the extra `plot`.")] = True
    as_json: JsonOption = False
    quiet: QuietOption = False

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that replace those of a size."""
        return {name: getattr(self, name) for name in ("task", "epochs", "seeds")}

    def resources(self, store: str | None = None) -> Resources:
        """Returns the resources of the study."""
        from nosbench_env.studies.settings import Resources
        from nosbench_env.tasks.worker_pool import available_cores

        workers = available_cores() if self.workers is None else self.workers
        silent = self.quiet or self.as_json
        return Resources(store, self.device, workers, (lambda text: None) if silent else _report)


@study_app.callback()
def _study() -> None:
    """Measures the benchmark itself, and repeats figures of the paper."""


@study_app.command()
@with_options
def cache(
    options: StudyOptions,
    part: Annotated[list[Part] | None, typer.Option(help="Only this part. Repeatable.")] = None,
    size: Annotated[
        CacheSize,
        typer.Option(
            help="`afternoon`: 3 seeds, 1 epoch; an afternoon on a CPU. `paper`: 18 seeds, 20 epochs, as in "
            "Appendix D. Other options override it."
        ),
    ] = CacheSize.afternoon,
    queries: Annotated[int | None, typer.Option(help="Queries of a run. Default: 8000.")] = None,
    max_instructions: InstructionsOption = 14,
    method: Annotated[
        list[CacheMethod] | None,
        typer.Option(help="Only `rs` (random search) or `re` (regularized evolution from random programs)."),
    ] = None,
    identity: Annotated[
        list[IdentityName] | None,
        typer.Option(
            help="Only this identity: `paper` (its proxy), `canonical` form, or `fingerprint`. Repeatable. "
            "Default: all; `canonical` only in the parts where it needs no training."
        ),
    ] = None,
    search_identity: Annotated[
        IdentityName, typer.Option(help="Identity in the runs of evolution; `paper` as in the paper.")
    ] = IdentityName.fingerprint,
    pairs: Annotated[
        int | None, typer.Option(help="Hits: pairs of runs, one filling the cache, one querying it. Default: 9.")
    ] = None,
    merged_pairs: Annotated[
        int | None, typer.Option(help="False positives: pairs of programs for each method and identity.")
    ] = None,
    split_programs: Annotated[
        int | None, typer.Option(help="False splits: programs of different keys for each method and identity.")
    ] = None,
    diverged_programs: Annotated[
        int | None, typer.Option(help="Diverged: programs that are trained nevertheless, for each identity.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Measures the cache's savings and errors by identity (Appendix D).

    Ctrl-C loses nothing finished. Run the same command again to continue; a larger study reuses a smaller one.

    For example:

    * `nosbench study cache --task toy --queries 500`
    * `nosbench study cache --part growth --part hits --method rs --seeds 10` (needs no training)
    * `nosbench study cache --part false-positives --merged-pairs 1000 --workers 8`
    * `nosbench study cache --size paper --output studies/cache-20-epochs --device cuda`
    """
    output = options.output or Path("studies/cache")
    parts = [str(name) for name in part or Part]
    plot = options.plot and "growth" in parts
    with interruptible(_stopped(output)):
        from nosbench_env.plotting import check_matplotlib, png
        from nosbench_env.studies.cache import CAPTIONS, SIZES, CacheStudy
        from nosbench_env.studies.cache_plots import plot_growth

        if plot:
            check_matplotlib()
        settings = SIZES[size].changed(
            **options.changes,
            queries=queries,
            max_instructions=max_instructions,
            methods=_names(method),
            identities=_names(identity),
            search_identity=search_identity.value,
            seed_pairs=pairs,
            merged_pairs=merged_pairs,
            split_programs=split_programs,
            diverged_programs=diverged_programs,
        )
        study = CacheStudy(output, settings, options.resources(store))
        tables = study.run(parts)
        for name, runs in (("growth-within-runs", 1), ("growth-across-runs", 3)) if plot else ():
            study.files.write(f"{name}.png", png(plot_growth(output / f"{name}.csv", runs=runs)))
    if options.as_json:
        print((output / "summary.json").read_text(), end="")
        return
    for name, rows in tables.items():
        print(f"{textwrap.fill(CAPTIONS[name], 110)}\n\n{_table(rows)}\n")
    print(f"Written to {output}, with the programs that differ")


@study_app.command()
@with_options
def figure1(
    options: StudyOptions,
    size: Annotated[
        FigureSize,
        typer.Option(
            help="`minutes`: a check on the toy task. `machine`: the PFN task, 1 epoch, 200 queries, 3 seeds; an hour "
            "on two CPU cores. `paper`: 20 epochs, 10,000 queries, 5 seeds. Other options override it."
        ),
    ] = FigureSize.machine,
    queries: Annotated[int | None, typer.Option(help="Queries of a run.")] = None,
    max_instructions: InstructionsOption = 20,
    hpo_initial: Annotated[
        int | None,
        typer.Option(
            help="Optimizers with which `smac-hpo` begins before it learns; SMAC takes 90, but at most a quarter of "
            "the queries."
        ),
    ] = None,
    method: Annotated[
        list[FigureMethod] | None,
        typer.Option(
            help="Only this method. Repeatable. `rs`: random search; `re-adamw`, `re-adadelta`: regularized evolution "
            "from these; `smac-nos`: SMAC on programs; `smac-hpo`: SMAC on PyTorch's optimizers and their "
            "hyperparameters. The last two need the extra `smac`."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="A baseline or a group of baselines (`nosbench baselines --list`). Repeatable. Default: `program` and "
            "`schedule`, those of the paper.",
            autocompletion=completion.baselines,
        ),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Repeats the paper's Figure 1: baselines and the curves of search methods.

    Ctrl-C loses nothing finished. Run the same command again to continue; a larger study reuses a smaller one.

    For example:

    * `nosbench study figure1 --size minutes`
    * `nosbench study figure1 --method rs --method re-adamw --queries 500`
    * `nosbench study figure1 --size paper --output studies/figure1-20-epochs --workers 32`
    """
    output = options.output or Path("studies/figure1")
    with interruptible(_stopped(output)):
        from nosbench_env.plotting import check_matplotlib, png
        from nosbench_env.studies.figure1 import SIZES, Figure1Study
        from nosbench_env.studies.figure1_plot import plot_figure1
        from nosbench_env.studies.pages import baseline_cells, figure1_page, method_cells, rank_text

        if options.plot:
            check_matplotlib()
        settings = SIZES[size].changed(
            **options.changes,
            queries=queries,
            max_instructions=max_instructions,
            hpo_initial=hpo_initial,
            methods=_names(method),
            baselines=tuple(baseline) if baseline else None,
        )
        study = Figure1Study(output, settings, options.resources(store))
        figure = study.run()
        study.files.write("figure1.md", figure1_page(figure))
        if options.plot:
            study.files.write("figure1.png", png(plot_figure1(figure)))
    if options.as_json:
        print((output / "figure1.json").read_text(), end="")
        return
    print(f"{_columns(method_cells(figure))}\n\n{_columns(baseline_cells(figure))}\n")
    left_out = [f"Left out: {name}, which {reason}" for name, reason in figure.left_out.items()]
    print("\n".join(line for line in (rank_text(figure), *left_out, f"Written to {output}") if line))


@study_app.command()
@with_options
def figure5(
    options: StudyOptions,
    size: Annotated[
        FigureSize,
        typer.Option(
            help="`minutes`: a check on the toy task. `machine`: the PFN task, 20 epochs, 3 seeds; a quarter of an "
            "hour on two CPU cores. `paper`: the same with 10 seeds. Other options override it."
        ),
    ] = FigureSize.machine,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="An optimizer, as in `nosbench plot`. Repeatable. Default: Incumbent, AdamW and Adadelta, as in the "
            "paper.",
            autocompletion=completion.candidates,
        ),
    ] = None,
    proxy_steps: Annotated[
        int | None, typer.Option(help="Steps on the proxy; the paper's fingerprint uses 10. Default: 100.")
    ] = None,
) -> None:
    """Repeats the paper's Figure 5: update norms, proxy and task curves.

    Ctrl-C loses only the trainings in progress. Run the same command again to continue.

    For example:

    * `nosbench study figure5 --size minutes`
    * `nosbench study figure5 --candidate Incumbent --candidate torch.AdamW --candidate runs/my-run`
    """
    output = options.output or Path("studies/figure5")
    with interruptible(_stopped(output)):
        from nosbench_env.cli.arguments import named_candidates
        from nosbench_env.plotting import check_matplotlib, png
        from nosbench_env.studies.figure5 import SIZES, Figure5Study
        from nosbench_env.studies.figure5_plot import plot_figure5
        from nosbench_env.studies.pages import figure5_page, summary_cells

        if options.plot:
            check_matplotlib()
        settings = SIZES[size].changed(**options.changes, proxy_steps=proxy_steps)
        study = Figure5Study(output, settings, named_candidates(candidate or ()) or None, options.resources())
        summary = study.run()
        study.files.write("figure5.md", figure5_page(settings, summary))
        if options.plot:
            study.files.write("figure5.png", png(plot_figure5(output, settings.task)))
    if options.as_json:
        print((output / "figure5.json").read_text(), end="")
        return
    print(f"{_columns(summary_cells(summary))}\n\nWritten to {output}")


def _names(chosen: Sequence[StrEnum] | None) -> tuple[str, ...] | None:
    return tuple(name.value for name in chosen) if chosen else None


def _stopped(folder: Path) -> Callable[[], str]:
    return lambda: f"Stopped. Finished work is kept in {folder}. Run the same command again to continue."


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _columns(cells: Sequence[Mapping[str, str]]) -> str:
    """Aligns rows of equal names, the first column to the left."""
    return "\n".join(aligned([list(cells[0]), *(list(row.values()) for row in cells)], left=(0,)))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Aligns rows of equal names, with each standard deviation beside its mean."""
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
