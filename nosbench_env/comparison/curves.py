"""Anytime curves: the best loss so far against what was spent, over the runs of a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nosbench_env.comparison.runs import Axis, Run
from nosbench_env.comparison.statistics import interquartile_mean, iqm_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class AnytimeCurve:
    """The best losses so far of a method's runs, as steps: each value holds from its `x` to the next.

    It begins where every run has a finite loss, and ends with the shortest run. Without such a place it is empty.

    Attributes:
        x: What a run has spent, on the axis.
        iqm: Interquartile mean over the runs.
        low: Lower end of its bootstrap interval; NaN for a single run.
        high: The upper end.
        median: Median over the runs.
        lowest: The best run's.
        highest: The worst run's.
    """

    x: Floats
    iqm: Floats
    low: Floats
    high: Floats
    median: Floats
    lowest: Floats
    highest: Floats


def anytime_curve(runs: Sequence[Run], axis: Axis, seed: int) -> AnytimeCurve:
    """The curve of runs of one method; `seed` is that of the bootstrap."""
    spent = [run.spent(axis) for run in runs]
    end = min(of_run[-1] for of_run in spent)
    finite = [np.isfinite(run.best) for run in runs]
    if not all(of_run.any() for of_run in finite):
        return AnytimeCurve(*[np.empty(0)] * 7)
    start = max(of_run[first.argmax()] for of_run, first in zip(spent, finite, strict=True))
    if start > end:
        return AnytimeCurve(*[np.empty(0)] * 7)
    changes = [of_run[[entry.number - 1 for entry in run.incumbents]] for of_run, run in zip(spent, runs, strict=True)]
    x = np.unique(np.concatenate([*changes, [start, end]]))
    x = x[(x >= start) & (x <= end)]
    values = np.array([best_at(run, axis, x) for run in runs])
    low, high = iqm_interval(values, seed)
    return AnytimeCurve(
        x, interquartile_mean(values), low, high, np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    )


def best_at(run: Run, axis: Axis, budgets: Floats) -> Floats:
    """The best loss of a run within each budget; inf where it has none."""
    places = np.searchsorted(run.spent(axis), budgets, side="right")
    return np.concatenate(([math.inf], run.best))[places]
