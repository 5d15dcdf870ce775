"""Anytime curves: the lowest loss so far over the budget spent."""

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
    """A method's lowest losses so far, as a step curve.

    Each value holds from its `x` to the next. The curve begins where every run has a finite loss, and ends with the
    shortest run. It is empty if there is no such place.

    Attributes:
        x: The budget spent, on the axis.
        iqm: Interquartile mean over the runs.
        low: Lower end of its bootstrap interval; NaN for a single run.
        high: Upper end of the interval.
        median: Median over the runs.
        lowest: The loss of the best run.
        highest: The loss of the worst run.
    """

    x: Floats
    iqm: Floats
    low: Floats
    high: Floats
    median: Floats
    lowest: Floats
    highest: Floats


def anytime_curve(runs: Sequence[Run], axis: Axis, seed: int) -> AnytimeCurve:
    """Returns the curve of runs; `seed` seeds the bootstrap."""
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
    """Returns a run's lowest loss within each budget; inf if none."""
    places = np.searchsorted(run.spent(axis), budgets, side="right")
    return np.concatenate(([math.inf], run.best))[places]
