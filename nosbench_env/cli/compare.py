"""The command `nosbench compare`: a comparison of search methods by their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from nosbench_env.cli import completion
from nosbench_env.cli.options import JsonOption, StoreOption, aligned, counted_epochs, interruptible

if TYPE_CHECKING:
    from nosbench_env.comparison import Comparison, RunGroup
    from nosbench_env.comparison.runs import Axis
    from nosbench_env.comparison.trade_offs import TradeOffs

_FRONT_SHOWN = 20  # programs of the common front in the terminal

# The command imports torch and its users when it runs, so that --help answers at once.


AxisName = StrEnum("AxisName", ["queries", "distinct", "seconds"])


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders of any number of methods and seeds.",
            autocompletion=completion.run_folders,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the report, its data and its plots.")] = Path("comparison"),
    x: Annotated[
        AxisName,
        typer.Option(
            "--x",
            help="The unit of the budget: `queries`, `distinct` programs, or simulated `seconds` of training. Curves "
            "are drawn over all three.",
        ),
    ] = AxisName.queries,
    budget: Annotated[
        float | None,
        typer.Option(help="The part of each run that tables and tests use. Default: the length of the shortest."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="`NAME=LABEL` renames the method NAME. Repeatable."),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            help="A known program to show beside the methods, or `none`. It is looked up and never trained.",
            autocompletion=completion.reference_programs,
        ),
    ] = "AdamW",
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Also compare by loss and costs: Pareto fronts and their hypervolumes."),
    ] = False,
    cost: Annotated[
        list[str] | None,
        typer.Option(
            help="With --pareto, a cost: `memory` (floats of state per parameter), `operations` (per parameter and "
            "step), or `instructions`. Repeatable. Default: memory and operations."
        ),
    ] = None,
    reference_point: Annotated[
        str | None,
        typer.Option(
            help="With --pareto, the corner from which hypervolumes are measured: a loss and a number for each cost, "
            "such as `1.5,4,20`. Default: a tenth beyond the worst of the common front."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    plot: Annotated[bool, typer.Option(help="Draw plots. Needs the extra `plot`.")] = True,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also compare runs of different tasks, epochs, training seeds or identities, with a warning.",
        ),
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compares search methods: anytime curves, tables, rank tests, best programs.

    Runs that differ only in their seed are runs of one method. Run folders are only read, also while their search is
    running. Runs are truncated to the shortest one. Runs with different tasks, epochs, training seeds or identities are
    rejected. All files are written to one folder; its `report.html` is self-contained.

    For example:

    * `nosbench compare runs/*`
    * `nosbench compare runs/re-adamw-* runs/rs-* --x seconds --output report`
    * `nosbench compare runs/* --label 'random search=RS' --budget 500`
    * `nosbench compare runs/* --pareto`
    """
    with interruptible(lambda: "Interrupted. The run folders are unchanged."):
        from nosbench_env.comparison import compare as compare_runs
        from nosbench_env.comparison import group_runs, read_run
        from nosbench_env.comparison.reference import look_up
        from nosbench_env.comparison.report import write_report
        from nosbench_env.comparison.trade_offs import USUAL_COSTS
        from nosbench_env.plotting import check_matplotlib

        if not pareto and (cost or reference_point is not None):
            raise ValueError("--cost and --reference-point need --pareto: add it, or leave them out")
        corner = None if reference_point is None else _numbers(reference_point)
        if plot:
            check_matplotlib()
        read = [read_run(folder) for folder in runs]
        comparison = compare_runs(
            read,
            axis=cast("Axis", x.value),
            budget=budget,
            seed=seed,
            labels=_labels(label or [], group_runs(read)),
            find_reference=None
            if reference.lower() == "none"
            else lambda conditions: look_up(reference, conditions, store),
            costs=tuple(cost or USUAL_COSTS) if pareto else (),
            reference_point=corner,
            force=force,
        )
        files = write_report(comparison, output, plot=plot)
    if as_json:
        print(json.dumps(comparison.to_json(), allow_nan=False))
    else:
        print(_text(comparison))
        print(f"\nReport: {files[0]}")


def _labels(options: Sequence[str], groups: Sequence[RunGroup]) -> dict[str, str]:
    """Returns labels by method; a method's name may contain "="."""
    labels = {}
    names = sorted((group.label for group in groups), key=len, reverse=True)
    for option in options:
        name = next((name for name in names if option.startswith(f"{name}=")), None)
        label = option.removeprefix(f"{name}=").strip()
        if name is None or not label:
            raise ValueError(
                f"--label must be NAME=LABEL with the name of a method, got {option!r}; "
                f"there are {', '.join(repr(group.label) for group in groups)}"
            )
        labels[name] = label
    return labels


def _numbers(text: str) -> list[float]:
    """Reads the numbers of a reference point."""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--reference-point must be numbers separated by commas, such as 1.5,4,20, got {text!r}"
        ) from None


def _text(comparison: Comparison) -> str:
    """Returns the tables for the terminal."""
    from nosbench_env.agents.history import shown
    from nosbench_env.comparison.comparison import spent
    from nosbench_env.comparison.report import interval_text, loss_text

    budget, conditions = spent(comparison.axis, comparison.budget), comparison.conditions
    title = f"Lowest losses within {budget}, {shown(conditions['task'])} task, {counted_epochs(conditions['epochs'])}"
    rows = [
        {
            "method": row["method"],
            "runs": str(row["runs"]),
            "best": loss_text(row["best"]),
            "IQM": loss_text(row["iqm"]),
            "95 % interval": interval_text(loss_text(row["iqm_low"]), loss_text(row["iqm_high"])),
            "median": loss_text(row["median"]),
            "distinct": f"{row['distinct']:,.1f}",
            "trainings": f"{row['trained']:,.1f}",
            "hits": f"{row['hit_rate']:.1%}",
        }
        for row in comparison.table
    ]
    parts = [title, "", _columns(rows)]
    if comparison.reference is not None and comparison.reference.loss is not None:
        parts.append(f"    {comparison.reference.name}, for reference: {loss_text(comparison.reference.loss)}")
    if comparison.pairs:
        parts += ["", "Probability that a run of a ends lower than a run of b; Mann-Whitney with Holm's correction", ""]
        parts.append(
            _columns(
                [
                    {
                        "a": pair["a"],
                        "b": pair["b"],
                        "a is better": f"{pair['improvement']:.0%}",
                        "p": f"{pair['p']:.3g}",
                        "p (Holm)": f"{pair['p_holm']:.3g}",
                    }
                    for pair in comparison.pair_rows
                ]
            )
        )
    if comparison.kruskal is not None:
        parts.append(f"    Kruskal-Wallis over all: p = {comparison.kruskal.p:.3g}")
    if comparison.trade_offs is not None:
        parts += ["", *_trade_offs(comparison.trade_offs)]
    if comparison.notes:
        parts += ["", *(f"Note: {note}" for note in comparison.notes)]
    return "\n".join(parts)


def _trade_offs(trade_offs: TradeOffs) -> list[str]:
    """Returns the tables of the trade-offs."""
    from nosbench_env.agents.history import shown
    from nosbench_env.comparison.report import interval_text, loss_text, point_text

    table = [
        {
            "method": row["method"],
            "runs": str(row["runs"]),
            "hypervolume": f"{row['hypervolume']:.1%}",
            "95 % interval": "-" if row["runs"] < 2 else interval_text(f"{row['low']:.1%}", f"{row['high']:.1%}"),
            "all runs together": f"{row['together']:.1%}",
            "programs on its front": str(row["front"]),
            "on the common front": str(row["reached"]),
        }
        for row in trade_offs.table
    ]
    front = [
        {"loss": loss_text(program.entry.loss)}
        | dict(zip(trade_offs.costs, (f"{cost:.0f}" for cost in program.point[1:]), strict=True))
        | {"method": program.method, "query": f"{program.entry.number} in {shown(str(program.run.folder))}"}
        for program in trade_offs.common[:_FRONT_SHOWN]
    ]
    limits = point_text(trade_offs.objectives, trade_offs.reference)
    lines = [f"Hypervolumes of loss, {', '.join(trade_offs.costs)}, up to the point {limits}", "", _columns(table)]
    if front:
        lines += ["", "The common front", "", _columns(front)]
    if len(trade_offs.common) > _FRONT_SHOWN:
        lines.append(f"    and {len(trade_offs.common) - _FRONT_SHOWN} more, in fronts.csv")
    return lines


def _columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Aligns rows of equal names: texts left, numbers right."""
    lines = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    left = [place for place, name in enumerate(rows[0]) if name in ("method", "a", "b", "query")]
    return "\n".join(aligned(lines, left))
