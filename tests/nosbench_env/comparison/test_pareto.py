import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nosbench_env.comparison.pareto import hypervolume, pareto_front


def point_lists(max_size: int, values: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, ...]]]:
    """Points of one to four objectives."""
    return st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[values] * n), min_size=1, max_size=max_size))


FEW_VALUES = st.integers(0, 4).map(float)  # so that points are often equal in some objective
NUMBERS = st.one_of(FEW_VALUES, st.floats(allow_nan=False))


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(point_lists(25, NUMBERS))
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    front = pareto_front(points).tolist()
    expected = [point for point in points if not any(dominates(other, point) for other in points)]
    assert [points[place] for place in front] == sorted(set(expected))
    assert all(place == points.index(points[place]) for place in front)  # the first of equal ones


def by_inclusion_and_exclusion(points: list[tuple[float, ...]], corner: float) -> float:
    """The volume of a union of boxes, by those of all intersections."""
    return sum(
        (-1) ** (size + 1) * math.prod(max(0.0, corner - max(values)) for values in zip(*some, strict=True))
        for size in range(1, len(points) + 1)
        for some in itertools.combinations(points, size)
    )


@given(point_lists(8, FEW_VALUES))
def test_the_hypervolume_is_that_of_the_union_of_boxes(points: list[tuple[float, ...]]) -> None:
    assert hypervolume(points, [3.0] * len(points[0])) == pytest.approx(by_inclusion_and_exclusion(points, 3.0))


@given(point_lists(6, st.floats(-10, 10)))
def test_the_hypervolume_of_any_numbers(points: list[tuple[float, ...]]) -> None:
    expected = by_inclusion_and_exclusion(points, 5.0)
    assert hypervolume(points, [5.0] * len(points[0])) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(point_lists(12, FEW_VALUES), st.randoms())
def test_only_the_front_counts_and_no_order_does(points: list[tuple[float, ...]], random) -> None:
    corner = [5.0] * len(points[0])
    volume = hypervolume(points, corner)
    assert hypervolume([points[place] for place in pareto_front(points)], corner) == pytest.approx(volume)
    random.shuffle(points)
    assert hypervolume(points, corner) == pytest.approx(volume)


def test_points_on_or_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[0.0, 2.0], [2.0, 0.0], [math.inf, -5.0], [1.0, 1.0]], [2.0, 2.0]) == 1.0
    assert hypervolume(np.empty((0, 3)), [1.0, 1.0, 1.0]) == 0.0


def test_an_empty_front_is_empty() -> None:
    assert pareto_front(np.empty((0, 2))).tolist() == []


def test_many_points_are_no_trouble() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.normal(size=100_000), rng.integers(0, 11, 100_000), rng.integers(0, 60, 100_000)])
    front = pareto_front(points)
    assert 0 < len(front) < 1000
    assert hypervolume(points[front], [5.0, 12.0, 61.0]) == pytest.approx(hypervolume(points, [5.0, 12.0, 61.0]))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([1.0, 2.0], "shape"),
        ([[]], "shape"),
        ([[1.0, math.nan]], "NaN"),
    ],
)
def test_what_are_no_points_is_refused(points: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pareto_front(points)
    with pytest.raises(ValueError, match=message):
        hypervolume(points, [3.0, 3.0])


@pytest.mark.parametrize("reference", [[1.0], [1.0, math.inf], 1.0, [[1.0, 2.0]]])
def test_a_reference_that_does_not_fit_is_refused(reference: object) -> None:
    with pytest.raises(ValueError, match="reference must be 2 finite numbers"):
        hypervolume([[0.0, 0.0]], reference)
