import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from nosbench_env.comparison.statistics import (
    holm,
    interquartile_mean,
    iqm_interval,
    kruskal,
    mann_whitney,
    pair_tests,
    probability_of_improvement,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9, 1, 4, 2, 3], 3.0),  # the middle three
        ([9, 1, 4, 2], 3.0),  # the middle two
        ([9, 1, 2], 4.0),  # a quarter of three is less than one run
        ([5], 5.0),
        ([0, 0, 1, 2, 3, 4, 100, 100], 2.5),  # rliable's: without two of eight on either side
        ([1, 2, 3, 4, math.inf], 3.0),
        ([1, 2, 3, math.inf, math.inf], math.inf),
    ],
)
def test_the_interquartile_mean_leaves_out_a_quarter_on_either_side(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values, float)) == expected


def exact_percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """Of all n**n ways to draw anew."""
    n = len(values)
    grid = np.array(np.meshgrid(*[values] * n)).reshape(n, -1)
    low, high = np.quantile(stats.trim_mean(grid, 0.25, axis=0), (0.025, 0.975))
    return low, high


def test_intervals_are_those_of_all_ways_to_draw_runs_anew() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 4, 5):
        values = rng.normal(size=n)
        low, high = iqm_interval(values, seed=1)
        expected = exact_percentile_interval(values)
        spread = values.max() - values.min()
        assert low == pytest.approx(expected[0], abs=0.06 * spread)
        assert high == pytest.approx(expected[1], abs=0.06 * spread)


def test_intervals_of_columns_are_those_of_each_and_draw_the_same_runs() -> None:
    values = np.random.default_rng(0).normal(size=(5, 3))
    low, high = iqm_interval(np.column_stack((values, 2 * values[:, 0])), seed=0)
    for column in range(3):
        alone = iqm_interval(values[:, column], seed=0)
        assert (low[column], high[column]) == pytest.approx((float(alone[0]), float(alone[1])))
    assert (low[3], high[3]) == pytest.approx((2 * low[0], 2 * high[0]))


def test_large_tables_give_the_same_as_small_ones() -> None:
    """They are computed in pieces, which must not change the draws."""
    values = np.random.default_rng(0).normal(size=(5, 3000))
    low, _ = iqm_interval(values, seed=0)
    assert low[7] == pytest.approx(float(iqm_interval(values[:, 7], seed=0)[0]))


def test_intervals_depend_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=9)
    assert iqm_interval(values, 3) == iqm_interval(values, 3)
    assert iqm_interval(values, 3) != iqm_interval(values, 4)


def test_runs_that_agree_have_an_interval_of_no_width() -> None:
    assert iqm_interval(np.full(5, 2.0), 0) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[1.0], [1.0, math.inf, 2.0]])
def test_a_single_run_or_one_that_failed_has_no_interval(values: list[float]) -> None:
    assert np.isnan(iqm_interval(np.array(values), 0)).all()


def test_mann_whitney_by_hand() -> None:
    """Of the 20 ways to split six values in two threes, one has U = 0, one U = 1."""
    low, high = np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    assert mann_whitney(low, high, 0) == (0.0, pytest.approx(2 / 20))
    assert mann_whitney(high, low, 0) == (9.0, pytest.approx(2 / 20))
    assert mann_whitney(np.array([1.0, 2, 4]), np.array([3.0, 5, 6]), 0) == (1.0, pytest.approx(4 / 20))


def exact_p(a: np.ndarray, b: np.ndarray) -> float:
    """Twice the share of splits that are as extreme on the nearer side."""
    ranks = stats.rankdata(np.concatenate((a, b)))
    sums = np.array([ranks[list(chosen)].sum() for chosen in combinations(range(len(ranks)), len(a))])
    of_a = ranks[: len(a)].sum()
    return min(1.0, 2 * min((sums <= of_a + 1e-9).mean(), (sums >= of_a - 1e-9).mean()))


def test_mann_whitney_is_exact_with_ties_and_without() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        a, b = rng.integers(0, 6, 4).astype(float), rng.integers(0, 6, 5).astype(float)
        assert mann_whitney(a, b, 0)[1] == pytest.approx(exact_p(a, b))
    a, b = rng.normal(size=4), rng.normal(size=5)
    assert mann_whitney(a, b, 0)[1] == pytest.approx(exact_p(a, b))


def test_a_run_without_a_finite_loss_is_worse_than_any() -> None:
    a, b = np.array([1.0, 2, 3]), np.array([math.inf, 1e9, math.inf])
    assert mann_whitney(a, b, 0)[0] == 0
    assert probability_of_improvement(a, b) == 1
    assert probability_of_improvement(b, b) == 0.5


def test_equal_and_single_runs_show_nothing() -> None:
    same = np.ones(4)
    assert mann_whitney(same, same, 0) == (8.0, 1.0)
    assert mann_whitney(np.array([1.0]), np.array([2.0]), 0) == (0.0, 1.0)
    assert mann_whitney(np.array([1.0]), np.array([1.0, 2.0]), 0)[0] == 0.5
    (single,) = pair_tests([np.array([1.0]), np.array([2.0])], 0)
    assert math.isnan(single.low)
    assert single.least_p == 1


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.04, 0.06: times 4, 3, 2, 1, none less than one before.
    assert holm([0.04, 0.01, 0.06, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_kruskal_by_hand() -> None:
    """H = 12 / (9 * 10) * (6**2 + 15**2 + 24**2) / 3 - 3 * 10 = 7.2, with two degrees of freedom: p = exp(-3.6)."""
    found = kruskal([np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.array([7.0, 8, 9])])
    assert found.statistic == pytest.approx(7.2)
    assert found.p == pytest.approx(math.exp(-3.6))


def test_kruskal_needs_three_methods_that_differ() -> None:
    assert kruskal([np.ones(3), np.zeros(3)]) is None
    assert kruskal([np.ones(3)] * 3) is None


def test_the_probability_of_improvement_is_that_of_the_paper() -> None:
    """Agarwal et al. (2021): the mean over pairs of 1, or 1/2 for ties; here lower is better."""
    a, b = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0])
    # 1 < 2, 1 < 3, 2 = 2, 2 < 3: 3.5 of 6
    assert probability_of_improvement(a, b) == pytest.approx(3.5 / 6)
    assert probability_of_improvement(b, a) == pytest.approx(2.5 / 6)
    u, _ = mann_whitney(a, b, 0)
    assert probability_of_improvement(a, b) == pytest.approx(1 - u / 6)


def test_all_pairs_are_tested_and_corrected_together() -> None:
    groups = [np.arange(5.0), np.arange(5.0) + 10, np.arange(5.0) + 0.5]
    tests = pair_tests(groups, seed=0)
    assert [(test.a, test.b) for test in tests] == [(0, 1), (0, 2), (1, 2)]
    assert [test.least_p for test in tests] == [pytest.approx(2 / 252)] * 3
    assert [test.p for test in tests][::2] == [pytest.approx(2 / 252)] * 2
    assert tests[0].p_holm == pytest.approx(3 * 2 / 252)
    assert [test.improvement for test in tests] == [1.0, pytest.approx(15 / 25), 0.0]
    assert (tests[0].low, tests[0].high) == (1.0, 1.0)
    assert 0 <= tests[1].low < tests[1].improvement < tests[1].high <= 1
