"""Trade-offs of loss and costs: Pareto fronts and hypervolumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.agents import HistoryEntry
from nosbench_env.comparison.pareto import hypervolume, pareto_front
from nosbench_env.comparison.runs import Axis, Run, RunGroup, entries_of
from nosbench_env.comparison.statistics import interquartile_mean, iqm_interval
from nosbench_env.language.costs import COSTS
from nosbench_env.language.program import Program

USUAL_COSTS = ("memory", "operations")
_MARGIN = 0.1  # distance of the reference point from the front's worst values, in extents of the front

# The columns of the tables; losses are in the task's unit.
TRADE_OFF_FIELDS: Mapping[str, str] = {
    "method": "Name of the method.",
    "runs": "Number of runs.",
    "front": "Number of programs on the common front of its runs.",
    "reached": "Number of points of the common front of all methods that its front reaches.",
    "hypervolume": "Interquartile mean over the runs of the share of the box between ideal and reference point that "
    "a run's front dominates; higher is better.",
    "low": "Lower end of its 95 % bootstrap interval.",
    "high": "Upper end of its 95 % bootstrap interval.",
    "together": "The share that the common front of its runs dominates.",
}
FRONT_FIELDS: Mapping[str, str] = {
    "method": "Name of the method with the program on its front.",
    "common": "True if the program is also on the common front of all methods.",
    "loss": "Its loss.",
    "memory": "State per parameter, in floats.",
    "operations": "Element operations per parameter and step.",
    "instructions": "Instructions of the simplified program.",
    "folder": "The run folder.",
    "number": "Number of the query.",
    "program": "The program, in the form of `Program.parse`.",
}


@dataclass(frozen=True, slots=True, eq=False)
class FrontProgram:
    """A program on a front.

    Attributes:
        method: Name of the method.
        run: The run that proposed it.
        entry: The query.
        point: The objectives: the loss, then the costs.
    """

    method: str
    run: Run
    entry: HistoryEntry
    point: tuple[float, ...]

    def row(self, common: bool) -> dict[str, Any]:
        """Returns the row of the program; see `FRONT_FIELDS`."""
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
        without_costs: Names of methods that proposed optimizers other than programs; these are on no front.
        fronts: The front of each method over all its runs, in ascending order of loss.
        common: The front of all methods.
        ideal: The best value of each objective on the common front.
        reference: The corner from which hypervolumes are measured.
        table: A row for each method; see `TRADE_OFF_FIELDS`.
    """

    costs: tuple[str, ...]
    without_costs: tuple[str, ...]
    fronts: tuple[tuple[FrontProgram, ...], ...]
    common: tuple[FrontProgram, ...]
    ideal: tuple[float, ...]
    reference: tuple[float, ...]
    table: tuple[Mapping[str, Any], ...]

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the objectives: the loss and the costs."""
        return ("loss", *self.costs)

    @property
    def front_rows(self) -> list[dict[str, Any]]:
        """A row for each program on a method's front; see `FRONT_FIELDS`."""
        common = {id(program) for program in self.common}
        return [program.row(id(program) in common) for front in self.fronts for program in front]

    def to_json(self) -> dict[str, Any]:
        """Returns the trade-offs as JSON data."""
        return {
            "objectives": list(self.objectives),
            "ideal": list(self.ideal),
            "reference": list(self.reference),
            "table": [dict(row) for row in self.table],
            "fronts": self.front_rows,
        }


def trade_offs(
    groups: Sequence[RunGroup],
    axis: Axis,
    budget: float,
    costs: Sequence[str] = USUAL_COSTS,
    reference: Sequence[float] | None = None,
    seed: int = 0,
) -> TradeOffs:
    """Returns the fronts of methods by loss and costs within a budget.

    The front of a run holds its programs with a finite loss that no other of its programs dominates. The hypervolume of
    a run is the share of a box that its front dominates. The box is the same for all methods. It extends from the best
    value of each objective on the common front of all runs to a tenth of the front's extent beyond the worst, unless
    the reference point is given. So it depends on the runs, and shares of two comparisons can't be compared. Volumes,
    which are the share times the box, can, if the reference point is the same.

    Args:
        groups: The runs of each method.
        axis: The unit of the budget.
        budget: The part of each run to use.
        costs: Names in `COSTS`.
        reference: The reference point: the loss, then the costs in their order.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: If a cost is unknown or named twice, or the reference point does not match the costs.
        RunError: If a history can't be read again.
    """
    costs, given = _check_costs(costs), _check_reference(reference, costs)
    without_costs: dict[str, None] = {}
    of_runs: list[list[tuple[FrontProgram, ...]]] = []
    for group in groups:
        of_runs.append([])
        for run in group.runs:
            entries = _distinct(run, axis, budget)
            programs = [entry for entry in entries if isinstance(entry.program, Program)]
            of_runs[-1].append(_front(_front_program(group, run, entry, costs) for entry in programs))
            if len(programs) < len(entries):
                without_costs[group.label] = None
    fronts = [_front(program for front in runs for program in front) for runs in of_runs]
    common = _front(program for front in fronts for program in front)
    ideal, corner = _box(_points(common, 1 + len(costs)), given)

    def share(front: Sequence[FrontProgram]) -> float:
        return hypervolume(_points(front, len(corner)), corner) / float(np.prod(corner - ideal))

    table = []
    for group, runs, front in zip(groups, of_runs, fronts, strict=True):
        shares = np.array([share(run) for run in runs])
        low, high = iqm_interval(shares, seed)
        row = {
            "method": group.label,
            "runs": len(runs),
            "front": len(front),
            "reached": len({program.point for program in front} & {program.point for program in common}),
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
    """Returns the first finite query of each optimizer within the budget."""
    entries: dict[str, HistoryEntry[Any]] = {}
    for entry in entries_of(run)[: run.queries_within(axis, budget)]:
        if entry.loss is not None:
            entries.setdefault(str(entry.program), entry)
    return list(entries.values())


def _front_program(group: RunGroup, run: Run, entry: HistoryEntry, costs: Sequence[str]) -> FrontProgram:
    assert entry.loss is not None
    return FrontProgram(group.label, run, entry, (float(entry.loss), *(float(COSTS[c](entry.program)) for c in costs)))


def _front(programs: Iterable[FrontProgram]) -> tuple[FrontProgram, ...]:
    candidates = list(programs)
    if not candidates:
        return ()
    return tuple(candidates[place] for place in pareto_front([candidate.point for candidate in candidates]))


def _points(front: Sequence[FrontProgram], objectives: int) -> NDArray[np.float64]:
    return np.array([program.point for program in front], dtype=np.float64).reshape(len(front), objectives)


def _box(
    points: NDArray[np.float64], given: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the ideal point and the reference point."""
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
