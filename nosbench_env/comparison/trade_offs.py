"""Trade-offs: which programs of several methods' runs are best at their cost, and how good that makes each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.agents import HistoryEntry
from nosbench_env.comparison.pareto import hypervolume, pareto_front
from nosbench_env.comparison.runs import Axis, Method, Run, read_history
from nosbench_env.comparison.statistics import interquartile_mean, iqm_interval
from nosbench_env.language.costs import COSTS
from nosbench_env.language.program import Program

USUAL_COSTS = ("memory", "operations")
_MARGIN = 0.1  # of the front's extent, by which the reference point is worse than its worst

# What the tables' columns mean; the loss is in the task's unit.
TRADE_OFF_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "runs": "Number of runs.",
    "front": "Programs on the front of all its runs together.",
    "reached": "Points of the common front that its front reaches.",
    "hypervolume": "Interquartile mean over the runs of the share of the box between ideal and reference point that "
    "the run's front dominates; more is better.",
    "low": "Lower end of its 95 % bootstrap interval.",
    "high": "Upper end of its 95 % bootstrap interval.",
    "together": "The share that the front of all its runs together dominates.",
}
FRONT_FIELDS: Mapping[str, str] = {
    "method": "Name of the method on whose front the program is.",
    "common": "Whether the program is on the common front of all methods, too.",
    "loss": "Its loss.",
    "memory": "State per parameter, in floats.",
    "operations": "Element operations per parameter and step.",
    "instructions": "Instructions of the simplified program.",
    "folder": "The run folder.",
    "number": "Number of the query.",
    "program": "The program, as `Program.parse` reads it.",
}


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A program on a front.

    Attributes:
        method: Name of the method.
        run: The run that found it.
        entry: The query.
        point: Its objectives: the loss, then the costs.
    """

    method: str
    run: Run
    entry: HistoryEntry
    point: tuple[float, ...]

    def row(self, common: bool) -> dict[str, Any]:
        """As a row of a table; see `FRONT_FIELDS`."""
        return {
            "method": self.method,
            "common": common,
            "loss": self.entry.loss,
            **{name: cost(self.entry.program) for name, cost in COSTS.items()},
            "folder": str(self.run.folder),
            "number": self.entry.number,
            "program": "; ".join(map(str, self.entry.program)),
        }


@dataclass(frozen=True, slots=True, eq=False)
class TradeOffs:
    """The fronts of several methods, by the loss and some costs.

    Attributes:
        costs: Names of the costs; see `COSTS`.
        without_costs: Names of methods that found optimizers which are no programs; those are on no front.
        fronts: Each method's front, of all its runs together, by rising loss.
        common: The front of all of them.
        ideal: The best value of each objective on the common front.
        reference: What hypervolumes are measured from.
        table: A row for each method; see `TRADE_OFF_FIELDS`.
    """

    costs: tuple[str, ...]
    without_costs: tuple[str, ...]
    fronts: tuple[tuple[Found, ...], ...]
    common: tuple[Found, ...]
    ideal: tuple[float, ...]
    reference: tuple[float, ...]
    table: tuple[Mapping[str, Any], ...]

    @property
    def objectives(self) -> tuple[str, ...]:
        """The loss and the costs, by name."""
        return ("loss", *self.costs)

    @property
    def front_rows(self) -> list[dict[str, Any]]:
        """A row for each program on a method's front; see `FRONT_FIELDS`."""
        common = {id(found) for found in self.common}
        return [found.row(id(found) in common) for front in self.fronts for found in front]

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "objectives": list(self.objectives),
            "ideal": list(self.ideal),
            "reference": list(self.reference),
            "table": [dict(row) for row in self.table],
            "fronts": self.front_rows,
        }


def trade_offs(
    methods: Sequence[Method],
    axis: Axis,
    budget: float,
    costs: Sequence[str] = USUAL_COSTS,
    reference: Sequence[float] | None = None,
    seed: int = 0,
) -> TradeOffs:
    """The fronts of methods by loss and costs, of what their runs found within a budget.

    A run's front are the programs with a finite loss than which no other of its programs is better in one objective
    and nowhere worse. Its hypervolume is the part of the box between an ideal and a reference point that lies behind
    them, as a share. The box is one for all methods: from the best to a tenth beyond the worst value that an objective
    has on the common front of all runs, unless the reference point is given. So it depends on the runs: shares of two
    comparisons can't be compared. Volumes, which are the share times the box, can, if the reference point is the same.

    Args:
        methods: The methods.
        axis: What the budget counts.
        budget: How much of each run to look at.
        costs: Names in `COSTS`.
        reference: The reference point, the loss first, then the costs in their order.
        seed: Of the bootstrap.

    Raises:
        ValueError: If a cost is not known or named twice, or the reference point does not fit.
        RunError: If a history can't be read again.
    """
    costs, given = _check_costs(costs), _check_reference(reference, costs)
    without_costs: dict[str, None] = {}
    of_runs: list[list[tuple[Found, ...]]] = []
    for method in methods:
        of_runs.append([])
        for run in method.runs:
            entries = _distinct(run, axis, budget)
            programs = [entry for entry in entries if isinstance(entry.program, Program)]
            of_runs[-1].append(_front(_found(method, run, entry, costs) for entry in programs))
            if len(programs) < len(entries):
                without_costs[method.label] = None
    fronts = [_front(found for front in runs for found in front) for runs in of_runs]
    common = _front(found for front in fronts for found in front)
    ideal, corner = _box(_points(common, 1 + len(costs)), given)

    def share(front: Sequence[Found]) -> float:
        return hypervolume(_points(front, len(corner)), corner) / float(np.prod(corner - ideal))

    table = []
    for method, runs, front in zip(methods, of_runs, fronts, strict=True):
        shares = np.array([share(run) for run in runs])
        low, high = iqm_interval(shares, seed)
        row = {
            "method": method.label,
            "runs": len(runs),
            "front": len(front),
            "reached": len({found.point for found in front} & {found.point for found in common}),
            "hypervolume": float(interquartile_mean(shares)),
            "low": float(low),
            "high": float(high),
            "together": share(front),
        }
        table.append(row)
    return TradeOffs(
        costs=costs,
        without_costs=tuple(without_costs),
        fronts=tuple(fronts),
        common=common,
        ideal=tuple(ideal.tolist()),
        reference=tuple(corner.tolist()),
        table=tuple(table),
    )


def _check_costs(costs: Sequence[str]) -> tuple[str, ...]:
    for name in costs:
        if name not in COSTS:
            raise ValueError(f"a cost must be one of {', '.join(COSTS)}, got {name!r}")
    if not costs or len(set(costs)) < len(costs):
        raise ValueError(
            f"costs must be one or more of {', '.join(COSTS)}, each once, got {', '.join(costs) or 'none'}"
        )
    return tuple(costs)


def _check_reference(reference: Sequence[float] | None, costs: Sequence[str]) -> NDArray[np.float64] | None:
    if reference is None:
        return None
    given = np.array(reference, dtype=np.float64)
    if given.shape != (1 + len(costs),) or not np.isfinite(given).all():
        raise ValueError(
            f"the reference point must be {1 + len(costs)} finite numbers (loss, {', '.join(costs)}), "
            f"got {', '.join(map(str, reference))}"
        )
    return given


def _distinct(run: Run, axis: Axis, budget: float) -> list[HistoryEntry[Any]]:
    """The first query of each program, or other optimizer, that had a finite loss within the budget."""
    entries: dict[str, HistoryEntry[Any]] = {}
    for entry in read_history(run)[: run.queries_within(axis, budget)]:
        if entry.loss is not None:
            entries.setdefault(str(entry.program), entry)
    return list(entries.values())


def _found(method: Method, run: Run, entry: HistoryEntry, costs: Sequence[str]) -> Found:
    paid = [float(COSTS[name](entry.program)) for name in costs]
    assert entry.loss is not None
    return Found(method.label, run, entry, (float(entry.loss), *paid))


def _front(found: Iterable[Found]) -> tuple[Found, ...]:
    candidates = list(found)
    if not candidates:
        return ()
    return tuple(candidates[place] for place in pareto_front([one.point for one in candidates]))


def _points(front: Sequence[Found], objectives: int) -> NDArray[np.float64]:
    return np.array([found.point for found in front], dtype=np.float64).reshape(len(front), objectives)


def _box(
    points: NDArray[np.float64], given: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ideal point and the reference point."""
    if not len(points):
        corner = np.ones(points.shape[1]) if given is None else given
        return corner - 1, corner
    best, worst = points.min(axis=0), points.max(axis=0)
    corner = worst + np.where(worst > best, _MARGIN * (worst - best), 1.0) if given is None else given
    if (best >= corner).any():
        raise ValueError(
            f"the reference point must be worse than the best of each objective, {', '.join(map(str, best.tolist()))}, "
            f"got {', '.join(map(str, corner.tolist()))}"
        )
    return best, corner
