"""The statistics of a comparison: interquartile means, bootstrap intervals, rank tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 5000
_SPLITS = 20_000  # with ties: all ways to split the runs in two; if there are more, as many random ones


def interquartile_mean(values: NDArray[np.float64], axis: int = 0) -> NDArray[np.float64]:
    """The mean without the lowest and the highest quarter (Agarwal et al., 2021), cut down to whole runs.

    Of 5 runs it is the mean of the middle three, of 4 that of the middle two; of fewer it is the plain mean.
    """
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


def iqm_interval(values: NDArray[np.float64], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A 95 % bootstrap interval of the interquartile mean over the first axis, as (low, high); NaN where there is none.

    It is the percentile bootstrap, as in Agarwal et al. (2021): whole runs are drawn anew, the same for all columns.
    BCa corrects it by a jackknife, which has five values for five runs, and none where runs agree, as the copies of a
    start program do; tried on five draws from a normal and a Gumbel distribution, it holds the true value no more often
    (88.5 % and 87 % of 400 times, against 90.5 % and 89.5 %). So intervals of five runs are rather those of 90 %.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        nothing = np.full(values.shape[1:], math.nan)
        return nothing, nothing
    resampled = stats.bootstrap(
        (values,),
        interquartile_mean,
        axis=0,
        vectorized=True,
        method="percentile",
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        batch=max(1, 4_000_000 // max(1, values.size)),
        rng=np.random.default_rng(seed),
    )
    return np.asarray(resampled.confidence_interval.low), np.asarray(resampled.confidence_interval.high)


@dataclass(frozen=True, slots=True)
class Kruskal:
    """The Kruskal-Wallis test of whether all methods' losses have one distribution.

    Attributes:
        statistic: H, corrected for ties.
        p: By its chi-squared approximation.
    """

    statistic: float
    p: float


def kruskal(groups: Sequence[NDArray[np.float64]]) -> Kruskal | None:
    """The test over all groups; None with fewer than three, where the pairwise one says more, or if all are equal."""
    if len(groups) < 3 or len(np.unique(np.concatenate(groups))) < 2:
        return None
    found = stats.kruskal(*groups)
    return Kruskal(float(found.statistic), float(found.pvalue))


@dataclass(frozen=True, slots=True)
class PairTest:
    """How two methods compare.

    Attributes:
        a: Place of the one.
        b: Place of the other.
        u: Mann-Whitney's U: of all pairs of runs, those in which a's loss is higher, equal ones half.
        p: Two-sided; exact, by permutations where there are ties.
        p_holm: The same after Holm's correction for the number of pairs.
        least_p: The lowest p that this many runs can give.
        improvement: Probability that a run of a is better than one of b, ties half (Agarwal et al., 2021): 1 - U / n.
        low: Lower end of its 95 % bootstrap interval, for which runs of both are drawn anew; NaN with single runs.
        high: The upper end.
    """

    a: int
    b: int
    u: float
    p: float
    p_holm: float
    least_p: float
    improvement: float
    low: float
    high: float


def pair_tests(groups: Sequence[NDArray[np.float64]], seed: int) -> list[PairTest]:
    """Compares all pairs of groups; inf stands for a run without a finite loss and is worse than any."""
    pairs = list(combinations(range(len(groups)), 2))
    found = [mann_whitney(groups[a], groups[b], seed) for a, b in pairs]
    corrected = holm([p for _, p in found])
    tests = []
    for (a, b), (u, p), p_holm in zip(pairs, found, corrected, strict=True):
        low, high = _improvement_interval(groups[a], groups[b], seed)
        least_p = min(1.0, 2 / math.comb(len(groups[a]) + len(groups[b]), len(groups[a])))
        improvement = probability_of_improvement(groups[a], groups[b])
        tests.append(PairTest(a, b, u, p, p_holm, least_p, improvement, low, high))
    return tests


def mann_whitney(a: NDArray[np.float64], b: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """U of the first, and the two-sided p."""
    both = np.concatenate((a, b))
    distinct = len(np.unique(both))
    if distinct == 1:
        return len(a) * len(b) / 2, 1.0
    ranks = stats.rankdata(both)  # of inf as well
    method: Any = "exact"
    if distinct < len(both):  # scipy's exact distribution knows no ties
        rng = np.random.default_rng(seed)
        method = stats.PermutationMethod(n_resamples=_SPLITS, rng=rng) if min(len(a), len(b)) > 1 else "asymptotic"
    found = stats.mannwhitneyu(ranks[: len(a)], ranks[len(a) :], method=method)
    return float(found.statistic), float(found.pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's (1979) correction of p-values for their number."""
    corrected = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda place: values[place])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def probability_of_improvement(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The share of pairs of runs in which a's loss is lower than b's; equal ones count half."""
    return float(np.mean((a[:, None] < b) + 0.5 * (a[:, None] == b)))


def _improvement_interval(a: NDArray[np.float64], b: NDArray[np.float64], seed: int) -> tuple[float, float]:
    if min(len(a), len(b)) < 2:
        return math.nan, math.nan
    better = (a[:, None] < b) + 0.5 * (a[:, None] == b)
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(a), size=(RESAMPLES, len(a), 1))
    columns = rng.integers(len(b), size=(RESAMPLES, 1, len(b)))
    shares = better[rows, columns].mean(axis=(1, 2))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(shares, (tail, 1 - tail))
    return float(low), float(high)
