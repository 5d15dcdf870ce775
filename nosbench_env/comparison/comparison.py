"""`compare`: what runs of several search methods show, as one object that the tables, pictures and the report show."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from nosbench_env.agents import HistoryEntry
from nosbench_env.comparison.curves import AnytimeCurve, Floats, anytime_curve
from nosbench_env.comparison.reference import Reference
from nosbench_env.comparison.runs import (
    AXES,
    CONDITIONS,
    SOURCES,
    Axis,
    Method,
    Run,
    different_conditions,
    group_runs,
    shown,
)
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

AXIS_NAMES: Mapping[Axis, str] = {
    "queries": "queries",
    "distinct": "distinct programs",
    "seconds": "simulated seconds",
}
_FEW_RUNS = 5
_BEST_PROGRAMS = 3

# What the tables' columns mean, and their units; losses are in the task's unit (nats for "pfn" and "toy").
TABLE_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "runs": "Number of runs, which differ in the method's seed.",
    "best": "Lowest loss of all runs within the budget.",
    "iqm": "Interquartile mean over the runs of their lowest losses within the budget.",
    "iqm_low": "Lower end of its 95 % bootstrap interval.",
    "iqm_high": "Upper end of its 95 % bootstrap interval.",
    "median": "Median over the runs of their lowest losses.",
    "worst": "Highest over the runs of their lowest losses.",
    "queries": "Programs asked about within the budget; mean over the runs.",
    "distinct": "Programs new to the run; mean over the runs.",
    "trained": "Trainings done, which depends on what the store knew before; mean over the runs.",
    "simulated_seconds": "Cost of the distinct programs, whatever the store knew: seconds; mean over the runs.",
    "hit_rate": "Share of queries answered without training.",
    "repeat_rate": "Share of queries whose answer the run had got before: hits whatever the store knew.",
    "failed_rate": "Share of queries without a finite loss.",
    **{
        f"from_{source}": f"Queries whose answer was {what}; mean over the runs."
        for source, what in (
            ("trained", "trained for"),
            ("store", "in the store"),
            ("shipped", "in the results that come with the package"),
            ("probe", "that the program diverges on the probe"),
        )
    },
}
RUN_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "folder": "The run folder.",
    "seed": "Seed of the method.",
    "all_queries": "Queries of the whole run.",
    "queries": "Queries within the budget.",
    "loss": "Lowest loss within the budget; nothing if none was finite.",
    "found_at": "Number of the query that had it first.",
    "program": "The program that had it, as `Program.parse` reads it; an optimizer as `OptimizerConfig.parse` does.",
}
PAIR_FIELDS: Mapping[str, str] = {
    "a": "Name of the one method.",
    "b": "Name of the other.",
    "improvement": "Probability that a run of a is better than one of b; ties count half.",
    "low": "Lower end of its 95 % bootstrap interval.",
    "high": "Upper end of its 95 % bootstrap interval.",
    "u": "Mann-Whitney's U: pairs of runs in which a's loss is the higher one; ties count half.",
    "p": "Two-sided p-value.",
    "p_holm": "The p-value after Holm's correction for the number of pairs.",
    "least_p": "The lowest p-value that this many runs can give.",
}
CURVE_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "axis": "What x counts: queries, distinct programs, or simulated seconds.",
    "x": "Spent so far; the values hold from here to the next x.",
    "iqm": "Interquartile mean over the runs of their lowest losses so far.",
    "low": "Lower end of its 95 % bootstrap interval.",
    "high": "Upper end of its 95 % bootstrap interval.",
    "median": "Median over the runs.",
    "lowest": "The best run's.",
    "highest": "The worst run's.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What runs of several methods show.

    Attributes:
        methods: The methods, with their runs.
        conditions: What losses depend on beside the program, and the runs have in common: task, epochs and so on.
        axis: What the budget counts.
        budget: How much of each run is looked at, in the tables and tests.
        seed: Of the bootstrap and of permutations.
        table: A row for each method; see `TABLE_FIELDS`.
        runs: A row for each run; see `RUN_FIELDS`.
        kruskal: The test over all methods; None for fewer than three, or where all losses are equal.
        pairs: The test of each pair of methods.
        curves: For each axis a curve for each method.
        reference: The known program that the losses are shown beside.
        trade_offs: The fronts of loss and costs, if asked for.
        notes: What to keep in mind when reading this.
    """

    methods: tuple[Method, ...]
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
        return [run for method in self.methods for run in method.runs]

    @property
    def pair_rows(self) -> list[dict[str, Any]]:
        """A row for each pair of methods; see `PAIR_FIELDS`."""
        labels = [method.label for method in self.methods]
        return [asdict(pair) | {"a": labels[pair.a], "b": labels[pair.b]} for pair in self.pairs]

    @property
    def curve_rows(self) -> list[dict[str, Any]]:
        """A row for each step of each curve; see `CURVE_FIELDS`."""
        return [
            {"method": method.label, "axis": axis}
            | {name: float(getattr(curve, name)[place]) for name in list(CURVE_FIELDS)[2:]}
            for axis, curves in self.curves.items()
            for method, curve in zip(self.methods, curves, strict=True)
            for place in range(len(curve.x))
        ]

    @property
    def tables(self) -> dict[str, tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]]:
        """All tables by name: what their columns mean, and their rows."""
        found: dict[str, tuple[Mapping[str, str], Sequence[Mapping[str, Any]]]] = {
            "table": (TABLE_FIELDS, self.table),
            "runs": (RUN_FIELDS, self.runs),
            "pairs": (PAIR_FIELDS, self.pair_rows),
            "curves": (CURVE_FIELDS, self.curve_rows),
        }
        if self.trade_offs is not None:
            found["trade_offs"] = (TRADE_OFF_FIELDS, self.trade_offs.table)
            found["fronts"] = (FRONT_FIELDS, self.trade_offs.front_rows)
        return found

    def best_programs(self, method: Method) -> list[tuple[Run, HistoryEntry]]:
        """The best programs of a method's runs within the budget, no two with the same result; at most three."""
        found = [(run, entry) for run in method.runs if (entry := run.best_within(self.axis, self.budget)) is not None]
        distinct: dict[str, tuple[Run, HistoryEntry]] = {}
        for run, entry in sorted(found, key=lambda item: item[1].loss or 0.0):
            distinct.setdefault(entry.key, (run, entry))
        return list(distinct.values())[:_BEST_PROGRAMS]

    def to_json(self) -> dict[str, Any]:
        """As JSON data; numbers that are not finite are None."""
        data = {
            "format": "nosbench-comparison",
            "version": 1,
            "made_by": versions(),
            "conditions": dict(self.conditions),
            "axis": self.axis,
            "budget": self.budget,
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": self.seed,
            "reference": None if self.reference is None else asdict(self.reference),
            "notes": list(self.notes),
            "methods": [{"method": method.label, "config": dict(method.config)} for method in self.methods],
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
    """Compares methods by their runs, at a common budget.

    Args:
        runs: The runs, of any number of methods.
        axis: What is spent: "queries", "distinct" programs, or simulated "seconds". (Trainings are no axis: how many a
            run does depends on what the store knew. Those that it would have done on an empty store are the simulated
            seconds, but for a constant.)
        budget: How much of each run to look at; None for as much as the shortest has. Of a run that ended before, as
            one that finds nothing new does, counts what it had found.
        seed: Of the bootstrap and of permutations.
        labels: Names for methods, by the names that they would get.
        find_reference: Gets the conditions of the runs, and gives what to compare them with.
        costs: Names in `COSTS`, to compare by the loss and these together; none leaves that out.
        reference_point: What hypervolumes are measured from; see `trade_offs`.
        force: Whether to compare runs whose losses are not comparable, with a note.

    Raises:
        ValueError: If the runs were made under different conditions, no run has spent the budget, labels or runs are
            not distinct (see `group_runs`), or costs or the reference point are wrong (see `trade_offs`).
    """
    if not runs:
        raise ValueError("runs must be at least one run, got none")
    if axis not in AXES:
        raise ValueError(f"axis must be one of {', '.join(AXES)}, got {axis!r}")
    differences = different_conditions(runs)
    if differences and not force:
        raise ValueError(
            f"these runs can't be compared: {'; '.join(differences)}. Compare those that agree in it, or, knowing that "
            "the losses mean different things, use --force"
        )
    methods = group_runs(runs, labels)
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
    losses = [np.array([_loss(run.best_within(axis, budget)) for run in method.runs]) for method in methods]
    pairs = pair_tests(losses, seed)
    found = trade_offs(methods, axis, budget, costs, reference_point, seed) if costs else None
    return Comparison(
        methods=tuple(methods),
        conditions=conditions,
        axis=axis,
        budget=budget,
        seed=seed,
        table=tuple(_row(method, values, axis, budget, seed) for method, values in zip(methods, losses, strict=True)),
        runs=tuple(_run_row(method, run, axis, budget) for method in methods for run in method.runs),
        kruskal=kruskal(losses),
        pairs=tuple(pairs),
        curves={name: tuple(anytime_curve(method.runs, name, seed) for method in methods) for name in AXES},
        reference=reference,
        trade_offs=found,
        notes=(
            *(f"These runs are not comparable: {difference}." for difference in differences),
            *_notes_on_lengths(methods, axis, budget),
            *_notes_on_numbers(methods, losses, pairs),
            *_notes_on_reference(reference),
            *(_notes_on_trade_offs(found) if found is not None else ()),
        ),
    )


def versions() -> dict[str, str]:
    """The versions of what a comparison is made with."""
    found = {"python": platform.python_version()}
    for name in ("nosbench_env", "numpy", "scipy", "matplotlib"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a bare checkout, or no pictures
            found[name] = "unknown"
    return found


def spent(axis: Axis, amount: float) -> str:
    """An amount with its unit, as in "150 queries"."""
    return f"{amount:,.6g} {AXIS_NAMES[axis]}" if amount < 1e5 else f"{amount:,.0f} {AXIS_NAMES[axis]}"


def _loss(entry: HistoryEntry | None) -> float:
    return math.inf if entry is None or entry.loss is None else float(entry.loss)


def _row(method: Method, losses: Floats, axis: Axis, budget: float, seed: int) -> dict[str, Any]:
    """The row of a method; see `TABLE_FIELDS`."""
    last = [run.queries_within(axis, budget) - 1 for run in method.runs]
    low, high = iqm_interval(losses, seed)

    def mean(values: Callable[[Run, int], float]) -> float:
        of_runs = [values(run, place) if place >= 0 else 0 for run, place in zip(method.runs, last, strict=True)]
        return float(np.mean(of_runs))

    queries = mean(lambda run, place: place + 1)
    distinct = mean(lambda run, place: int(run.distinct[place]))
    trained = mean(partial(_from_source, "trained"))
    failed = mean(lambda run, place: int(run.failed[place]))
    return {
        "method": method.label,
        "runs": len(method.runs),
        "best": float(losses.min()),
        "iqm": float(interquartile_mean(losses)),
        "iqm_low": float(low),
        "iqm_high": float(high),
        "median": float(np.median(losses)),
        "worst": float(losses.max()),
        "queries": queries,
        "distinct": distinct,
        "trained": trained,
        "simulated_seconds": mean(lambda run, place: float(run.simulated_seconds[place])),
        "hit_rate": 1 - trained / queries if queries else math.nan,
        "repeat_rate": 1 - distinct / queries if queries else math.nan,
        "failed_rate": failed / queries if queries else math.nan,
        **{f"from_{source}": mean(partial(_from_source, source)) for source in SOURCES},
    }


def _from_source(source: Source, run: Run, place: int) -> int:
    return int(run.sources[source][place])


def _run_row(method: Method, run: Run, axis: Axis, budget: float) -> dict[str, Any]:
    """The row of a run; see `RUN_FIELDS`."""
    best = run.best_within(axis, budget)
    return {
        "method": method.label,
        "folder": str(run.folder),
        "seed": run.seed,
        "all_queries": run.queries,
        "queries": run.queries_within(axis, budget),
        "loss": None if best is None else best.loss,
        "found_at": None if best is None else best.number,
        "program": None if best is None else "; ".join(str(best.program).splitlines()),
    }


def _notes_on_lengths(methods: Sequence[Method], axis: Axis, budget: float) -> Iterator[str]:
    runs = [run for method in methods for run in method.runs]
    totals = {run.spent(axis)[-1] for run in runs}
    if len(totals) > 1:
        yield (
            f"The runs are of unequal length: {spent(axis, min(totals)).split()[0]} to {spent(axis, max(totals))}. "
            f"Tables and tests look at the first {spent(axis, budget)} of each; the curve of a method ends with its "
            "shortest run."
        )
    elif budget < min(totals):
        yield f"Tables and tests look at the first {spent(axis, budget)} of each run."
    for method in methods:
        if ended := [run.spent(axis)[-1] for run in method.runs if run.spent(axis)[-1] < budget]:
            amounts = ", ".join(f"{amount:g}" for amount in ended)
            yield (
                f"{method.label}: {len(ended)} of {len(method.runs)} runs ended before {spent(axis, budget)}, at "
                f"{amounts}; what they had found by then counts."
            )
    for run in runs:
        if run.torn:
            yield f"{shown(str(run.folder))}: its last line or batch is not complete and left out; is it going on?"


def _notes_on_numbers(methods: Sequence[Method], losses: Sequence[Floats], pairs: Sequence[PairTest]) -> Iterator[str]:
    if few := [f"{method.label} ({len(method.runs)})" for method in methods if len(method.runs) < _FEW_RUNS]:
        yield f"Few runs: {', '.join(few)}. Intervals of fewer than {_FEW_RUNS} runs say little."
    if pairs and min(pair.least_p for pair in pairs) * len(pairs) > 1 - CONFIDENCE:
        yield (
            "So few runs can't differ significantly: however far apart they are, no p-value gets below "
            f"{1 - CONFIDENCE:.2g} after correction for {len(pairs)} pair{'s' * (len(pairs) > 1)}."
        )
    for method, values in zip(methods, losses, strict=True):
        if failed := int(np.isinf(values).sum()):
            yield (
                f"{method.label}: {failed} of {len(values)} runs had no finite loss within the budget. They count as "
                "worse than any other; the curve begins where all have one."
            )


def _notes_on_reference(reference: Reference | None) -> Iterator[str]:
    if reference is not None and reference.loss is None:
        yield f"No line for {reference.name}: {shown(reference.why_not, 300)}."


def _notes_on_trade_offs(found: TradeOffs) -> Iterator[str]:
    for method in found.without_costs:
        yield f"{method} found optimizers that are no programs, whose costs are not known: they are on no front."


def _finite(data: Any) -> Any:
    """The same data, with None for numbers that JSON can't express."""
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data
