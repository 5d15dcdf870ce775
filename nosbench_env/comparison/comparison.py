"""`compare`: statistics of several search methods' runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.agents import HistoryEntry
from nosbench_env.agents.history import SOURCES, shown
from nosbench_env.agents.run_folder import CONDITIONS
from nosbench_env.comparison.curves import AnytimeCurve, Floats, anytime_curve
from nosbench_env.comparison.reference import Reference
from nosbench_env.comparison.runs import AXES, Axis, Run, RunGroup, different_conditions, group_runs
from nosbench_env.comparison.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Kruskal,
    PairTest,
    interquartile_mean,
    iqm_interval,
    kruskal,
    pair_tests,
)
from nosbench_env.comparison.trade_offs import FRONT_FIELDS, TRADE_OFF_FIELDS, TradeOffs, trade_offs
from nosbench_env.evaluation import Source
from nosbench_env.versions import installed_versions

AXIS_NAMES: Mapping[Axis, str] = {
    "queries": "queries",
    "distinct": "distinct programs",
    "seconds": "simulated seconds",
}
_FEW_RUNS = 5
_BEST_PROGRAMS = 3

# The columns of the tables. Losses are in the task's unit (nats for "pfn" and "toy").
TABLE_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "runs": "Number of runs, which differ in the seed of the method.",
    "best": "Lowest loss of all runs within the budget.",
    "iqm": "Interquartile mean over the runs of their lowest losses within the budget.",
    "iqm_low": "Lower end of its 95 % bootstrap interval.",
    "iqm_high": "Upper end of its 95 % bootstrap interval.",
    "median": "Median over the runs of their lowest losses.",
    "worst": "Highest over the runs of their lowest losses.",
    "queries": "Queries within the budget; mean over the runs.",
    "distinct": "Programs new to the run; mean over the runs.",
    "trained": "Trainings done, which depend on the content of the store before; mean over the runs.",
    "simulated_seconds": "Cost of the distinct programs in seconds, independent of the store; mean over the runs.",
    "hit_rate": "Share of queries answered without training.",
    "repeat_rate": "Share of queries whose answer the run already had; independent of the store.",
    "failed_rate": "Share of queries without a finite loss.",
    **{
        f"from_{source}": f"Queries answered by {origin}; mean over the runs."
        for source, origin in (
            ("trained", "training"),
            ("store", "the store"),
            ("shipped", "the results shipped with the package"),
            ("probe", "the probe, on which the program diverges"),
        )
    },
}
RUN_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "folder": "The run folder.",
    "seed": "Seed of the method.",
    "all_queries": "Queries of the whole run.",
    "queries": "Queries within the budget.",
    "loss": "Lowest loss within the budget; empty if none was finite.",
    "found_at": "Number of the first query with this loss.",
    "program": "The program with this loss, in the form of `Program.parse`, or an optimizer in that of "
    "`OptimizerConfig.parse`.",
}
PAIR_FIELDS: Mapping[str, str] = {
    "a": "Name of the first method.",
    "b": "Name of the second method.",
    "improvement": "Probability that a run of a is better than one of b; ties count half.",
    "low": "Lower end of its 95 % bootstrap interval.",
    "high": "Upper end of its 95 % bootstrap interval.",
    "u": "Mann-Whitney's U: the number of pairs of runs in which a's loss is higher; ties count half.",
    "p": "Two-sided p-value.",
    "p_holm": "The p-value after Holm's correction for the number of pairs.",
    "least_p": "The lowest p-value possible with this number of runs.",
}
CURVE_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "axis": "Meaning of x: queries, distinct programs, or simulated seconds.",
    "x": "Amount spent so far; the values hold from here to the next x.",
    "iqm": "Interquartile mean over the runs of their lowest losses so far.",
    "low": "Lower end of its 95 % bootstrap interval.",
    "high": "Upper end of its 95 % bootstrap interval.",
    "median": "Median over the runs.",
    "lowest": "Lowest loss of the best run.",
    "highest": "Lowest loss of the worst run.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The results of comparing several search methods.

    Attributes:
        groups: The runs of each method.
        conditions: The common conditions of all runs that losses depend on: task, epochs and so on.
        axis: The unit of the budget.
        budget: The part of each run that tables and tests use.
        seed: Seed of the bootstrap and of permutations.
        table: A row for each method; see `TABLE_FIELDS`.
        runs: A row for each run; see `RUN_FIELDS`.
        kruskal: The test over all methods; None for fewer than three methods or if all losses are equal.
        pairs: The test of each pair of methods.
        curves: For each axis the curve of each method.
        reference: The known program shown beside the methods.
        trade_offs: The fronts of loss and costs, if asked for.
        notes: Remarks on the reliability of the results.
    """

    groups: tuple[RunGroup, ...]
    conditions: Mapping[str, Any]
    axis: Axis
    budget: float
    seed: int
    table: tuple[Mapping[str, Any], ...]
    runs: tuple[Mapping[str, Any], ...]
    kruskal: Kruskal | None
    pairs: tuple[PairTest, ...]
    curves: Mapping[Axis, tuple[AnytimeCurve, ...]]
    reference: Reference | None
    trade_offs: TradeOffs | None
    notes: tuple[str, ...]

    @property
    def all_runs(self) -> list[Run]:
        """The runs of all methods."""
        return [run for group in self.groups for run in group.runs]

    @property
    def pair_rows(self) -> list[dict[str, Any]]:
        """A row for each pair of methods; see `PAIR_FIELDS`."""
        labels = [group.label for group in self.groups]
        return [asdict(pair) | {"a": labels[pair.a], "b": labels[pair.b]} for pair in self.pairs]

    @property
    def curve_rows(self) -> list[dict[str, Any]]:
        """A row for each step of each curve; see `CURVE_FIELDS`."""
        return [
            {"method": group.label, "axis": axis}
            | {name: float(getattr(curve, name)[place]) for name in list(CURVE_FIELDS)[2:]}
            for axis, curves in self.curves.items()
            for group, curve in zip(self.groups, curves, strict=True)
            for place in range(len(curve.x))
        ]

    @property
    def tables(self) -> dict[str, tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]]:
        """All tables by name: the descriptions of columns, and the rows."""
        tables: dict[str, tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]] = {
            "table": (TABLE_FIELDS, self.table),
            "runs": (RUN_FIELDS, self.runs),
            "pairs": (PAIR_FIELDS, self.pair_rows),
            "curves": (CURVE_FIELDS, self.curve_rows),
        }
        if self.trade_offs is not None:
            tables["trade_offs"] = (TRADE_OFF_FIELDS, self.trade_offs.table)
            tables["fronts"] = (FRONT_FIELDS, self.trade_offs.front_rows)
        return tables

    def best_programs(self, group: RunGroup) -> list[tuple[Run, HistoryEntry]]:
        """Returns the best programs of a method's runs within the budget.

        There are at most three, with different results.
        """
        best = [(run, entry) for run in group.runs if (entry := run.best_within(self.axis, self.budget)) is not None]
        distinct: dict[str, tuple[Run, HistoryEntry]] = {}
        for run, entry in sorted(best, key=lambda pair: pair[1].loss or 0.0):
            distinct.setdefault(entry.key, (run, entry))
        return list(distinct.values())[:_BEST_PROGRAMS]

    def to_json(self) -> dict[str, Any]:
        """Returns the comparison as JSON data.

        Numbers that are not finite are None.
        """
        data = {
            "format": "nosbench-comparison",
            "version": 1,
            "made_by": made_by(),
            "conditions": dict(self.conditions),
            "axis": self.axis,
            "budget": self.budget,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": self.seed,
            "reference": None if self.reference is None else asdict(self.reference),
            "notes": list(self.notes),
            "methods": [{"method": group.label, "config": dict(group.config)} for group in self.groups],
            "table": [dict(row) for row in self.table],
            "runs": [dict(row) for row in self.runs],
            "kruskal_wallis": None if self.kruskal is None else asdict(self.kruskal),
            "pairs": self.pair_rows,
            "curves": self.curve_rows,
            "trade_offs": None if self.trade_offs is None else self.trade_offs.to_json(),
            "fields": {name: dict(fields) for name, (fields, _) in self.tables.items()},
        }
        finite: dict[str, Any] = _finite(data)
        return finite


def compare(
    runs: Sequence[Run],
    *,
    axis: Axis = "queries",
    budget: float | None = None,
    seed: int = 0,
    labels: Mapping[str, str] | None = None,
    find_reference: Callable[[Mapping[str, Any]], Reference] | None = None,
    costs: Sequence[str] = (),
    reference_point: Sequence[float] | None = None,
    force: bool = False,
) -> Comparison:
    """Compares search methods by their runs.

    Runs that differ only in their seed are runs of one method.

    Args:
        runs: The runs of all methods.
        axis: The unit of the budget: "queries", "distinct" programs, or simulated "seconds". Trainings are no axis,
            because their number depends on the content of the store; simulated seconds are proportional to the
            trainings of a run with an empty store.
        budget: The part of each run to use; None for the length of the shortest. A run that ended earlier, such as one
            that finds nothing new, counts with its last result.
        seed: Seed of the bootstrap and of permutations.
        labels: New names of methods, by their default names.
        find_reference: Returns the reference for the conditions of the runs.
        costs: Names in `COSTS` for the trade-offs of loss and costs; empty for none.
        reference_point: The corner from which hypervolumes are measured; see `trade_offs`.
        force: True to compare runs whose losses are not comparable, with a note.

    Raises:
        ValueError: If the runs were made under different conditions, no run has spent the budget, labels or runs are
            not distinct (see `group_runs`), or costs or the reference point are invalid (see `trade_offs`).
    """
    if not runs:
        raise ValueError("runs must be at least one run, got none")
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    differences = different_conditions(runs)
    if differences and not force:
        raise ValueError(
            f"these runs can't be compared: {'; '.join(differences)}. Compare runs that agree in this, or pass --force "
            "to compare losses of different meaning"
        )
    groups = group_runs(runs, labels)
    shortest = min(runs, key=lambda run: run.spent(axis)[-1])
    common, most = float(shortest.spent(axis)[-1]), max(float(run.spent(axis)[-1]) for run in runs)
    if budget is None and common == 0:
        raise ValueError(f"{shortest.folder} has spent no {AXIS_NAMES[axis]}: compare by another axis or give a budget")
    budget = common if budget is None else float(budget)
    if not 0 < budget <= most:
        raise ValueError(
            f"budget must be more than 0 and at most {most:g} {AXIS_NAMES[axis]}, the most that a run has spent, "
            f"got {budget:g}"
        )
    conditions = {name: runs[0].config[name] for name in CONDITIONS}
    reference = find_reference(conditions) if find_reference is not None else None
    losses = [np.array([_loss(run.best_within(axis, budget)) for run in group.runs]) for group in groups]
    pairs = pair_tests(losses, seed)
    fronts = trade_offs(groups, axis, budget, costs, reference_point, seed) if costs else None
    return Comparison(
        groups=tuple(groups),
        conditions=conditions,
        axis=axis,
        budget=budget,
        seed=seed,
        table=tuple(_row(group, values, axis, budget, seed) for group, values in zip(groups, losses, strict=True)),
        runs=tuple(_run_row(group, run, axis, budget) for group in groups for run in group.runs),
        kruskal=kruskal(losses),
        pairs=tuple(pairs),
        curves={name: tuple(anytime_curve(group.runs, name, seed) for group in groups) for name in AXES},
        reference=reference,
        trade_offs=fronts,
        notes=(
            *(f"These runs are not comparable: {difference}." for difference in differences),
            *_notes_on_lengths(groups, axis, budget),
            *_notes_on_numbers(groups, losses, pairs),
            *_notes_on_reference(reference),
            *_notes_on_trade_offs(fronts),
        ),
    )


def made_by() -> dict[str, str]:
    """Returns the versions of the packages that a comparison uses."""
    return installed_versions(("nosbench_env", "numpy", "scipy", "matplotlib"))


def spent(axis: Axis, amount: float) -> str:
    """Returns an amount with its unit, such as "150 queries"."""
    return f"{amount:,.6g} {AXIS_NAMES[axis]}" if amount < 1e5 else f"{amount:,.0f} {AXIS_NAMES[axis]}"


def _loss(entry: HistoryEntry | None) -> float:
    return math.inf if entry is None or entry.loss is None else float(entry.loss)


def _row(group: RunGroup, losses: Floats, axis: Axis, budget: float, seed: int) -> dict[str, Any]:
    """Returns the row of a method; see `TABLE_FIELDS`."""
    last = [run.queries_within(axis, budget) - 1 for run in group.runs]
    low, high = iqm_interval(losses, seed)

    def mean(totals: Callable[[Run], Floats | NDArray[np.int64]]) -> float:
        return float(np.mean([totals(run)[at] if at >= 0 else 0 for run, at in zip(group.runs, last, strict=True)]))

    queries = mean(lambda run: run.spent("queries"))
    distinct = mean(lambda run: run.distinct)
    failed = mean(lambda run: run.failed)
    answered = {source: mean(partial(_answered_by, source)) for source in SOURCES}
    return {
        "method": group.label,
        "runs": len(group.runs),
        "best": float(losses.min()),
        "iqm": float(interquartile_mean(losses)),
        "iqm_low": float(low),
        "iqm_high": float(high),
        "median": float(np.median(losses)),
        "worst": float(losses.max()),
        "queries": queries,
        "distinct": distinct,
        "trained": answered["trained"],
        "simulated_seconds": mean(lambda run: run.simulated_seconds),
        "hit_rate": 1 - answered["trained"] / queries if queries else math.nan,
        "repeat_rate": 1 - distinct / queries if queries else math.nan,
        "failed_rate": failed / queries if queries else math.nan,
        **{f"from_{source}": count for source, count in answered.items()},
    }


def _answered_by(source: Source, run: Run) -> NDArray[np.int64]:
    return run.sources[source]


def _run_row(group: RunGroup, run: Run, axis: Axis, budget: float) -> dict[str, Any]:
    """Returns the row of a run; see `RUN_FIELDS`."""
    best = run.best_within(axis, budget)
    return {
        "method": group.label,
        "folder": str(run.folder),
        "seed": run.seed,
        "all_queries": run.queries,
        "queries": run.queries_within(axis, budget),
        "loss": None if best is None else best.loss,
        "found_at": None if best is None else best.number,
        "program": None if best is None else "; ".join(str(best.program).splitlines()),
    }


def _notes_on_lengths(groups: Sequence[RunGroup], axis: Axis, budget: float) -> Iterator[str]:
    runs = [run for group in groups for run in group.runs]
    totals = {run.spent(axis)[-1] for run in runs}
    if len(totals) > 1:
        yield (
            f"The runs are of unequal length: {spent(axis, min(totals)).split()[0]} to {spent(axis, max(totals))}. "
            f"Tables and tests use the first {spent(axis, budget)} of each; the curve of a method ends with its "
            "shortest run."
        )
    elif budget < min(totals):
        yield f"Tables and tests use the first {spent(axis, budget)} of each run."
    for group in groups:
        if ended := [run.spent(axis)[-1] for run in group.runs if run.spent(axis)[-1] < budget]:
            amounts = ", ".join(f"{amount:g}" for amount in ended)
            yield (
                f"{group.label}: {len(ended)} of {len(group.runs)} runs ended before {spent(axis, budget)}, at "
                f"{amounts}; their last results count."
            )
    for run in runs:
        if run.torn:
            yield f"{shown(str(run.folder))}: its last line or batch is incomplete and left out; is it still running?"


def _notes_on_numbers(groups: Sequence[RunGroup], losses: Sequence[Floats], pairs: Sequence[PairTest]) -> Iterator[str]:
    if few := [f"{group.label} ({len(group.runs)})" for group in groups if len(group.runs) < _FEW_RUNS]:
        yield f"Few runs: {', '.join(few)}. Intervals of fewer than {_FEW_RUNS} runs are unreliable."
    if pairs and min(pair.least_p for pair in pairs) * len(pairs) > 1 - CONFIDENCE:
        yield (
            "Too few runs for significance: even for the largest difference, no p-value is below "
            f"{1 - CONFIDENCE:.2g} after correction for {len(pairs)} pair{'s' * (len(pairs) > 1)}."
        )
    for group, values in zip(groups, losses, strict=True):
        if failed := int(np.isinf(values).sum()):
            yield (
                f"{group.label}: {failed} of {len(values)} runs had no finite loss within the budget. They rank "
                "last; the curve begins where all runs have a finite loss."
            )


def _notes_on_reference(reference: Reference | None) -> Iterator[str]:
    if reference is not None and reference.loss is None:
        yield f"No line for {reference.name}: {shown(reference.why_not, 300)}."


def _notes_on_trade_offs(fronts: TradeOffs | None) -> Iterator[str]:
    for label in fronts.without_costs if fronts is not None else ():
        yield f"{label} proposed optimizers that are not programs. Their costs are unknown, so they are on no front."


def _finite(data: Any) -> Any:
    """Returns JSON data with None for numbers that are not finite."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data
