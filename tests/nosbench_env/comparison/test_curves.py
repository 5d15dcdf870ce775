import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import history, write_run

from nosbench_env.agents import HistoryEntry
from nosbench_env.comparison import AXES, Run, read_run
from nosbench_env.comparison.curves import anytime_curve, best_at


def runs_with(tmp_path: Path, *losses: list[float | None]) -> list[Run]:
    return [read_run(write_run(tmp_path / f"{i}", found, seed=i)) for i, found in enumerate(losses)]


def test_a_curve_by_hand(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, [None, 8.0, 8.0, 2.0], [6.0, 7.0, 4.0], [5.0, 5.0, 5.0, 5.0, 1.0])
    curve = anytime_curve(runs, "queries", seed=0)
    # From the first query at which all have a loss to the last of the shortest; the loss of 2 comes too late.
    assert curve.x.tolist() == [2, 3]
    assert curve.iqm.tolist() == [pytest.approx((8 + 6 + 5) / 3), pytest.approx((8 + 4 + 5) / 3)]
    assert curve.median.tolist() == [6, 5]
    assert curve.lowest.tolist() == [5, 4]
    assert curve.highest.tolist() == [8, 8]
    assert (curve.low <= curve.iqm).all()
    assert (curve.high >= curve.iqm).all()


def test_the_other_axes_by_hand(tmp_path: Path) -> None:
    runs = runs_with(tmp_path, [9.0, None, 9.0, 3.0], [4.0, 2.0])
    distinct = anytime_curve(runs, "distinct", seed=0)
    assert distinct.x.tolist() == [1, 2]
    assert distinct.iqm.tolist() == [6.5, 5.5]
    seconds = anytime_curve(runs, "seconds", seed=0)  # 1.5 for each that is trained
    assert seconds.x.tolist() == [1.5, 3.0]
    assert seconds.iqm.tolist() == [6.5, 2.5]


def test_without_a_place_where_all_runs_have_a_loss_a_curve_is_empty(tmp_path: Path) -> None:
    assert len(anytime_curve(runs_with(tmp_path / "a", [None, None], [1.0, 2.0]), "queries", 0).x) == 0
    assert len(anytime_curve(runs_with(tmp_path / "b", [None, None, 1.0], [1.0, 2.0]), "queries", 0).x) == 0


def test_a_single_run_has_a_curve_without_interval(tmp_path: Path) -> None:
    curve = anytime_curve(runs_with(tmp_path, [3.0, 1.0]), "queries", 0)
    assert curve.iqm.tolist() == [3.0, 1.0]
    assert np.isnan(curve.low).all()


def test_budgets_before_the_first_query_have_no_loss(tmp_path: Path) -> None:
    (run,) = runs_with(tmp_path, [3.0, 1.0])
    assert best_at(run, "seconds", np.array([0.0, 1.4, 1.5, 2.0, 3.0, 9.0])).tolist() == [
        math.inf,
        math.inf,
        3.0,
        3.0,
        1.0,
        1.0,
    ]


losses = st.lists(st.none() | st.sampled_from([math.inf, 0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=12)


def naive(lines: list[HistoryEntry], axis: str, budget: float) -> float:
    """The lowest loss of the queries that a budget allows for, counted one by one."""
    found, distinct = math.inf, 0
    for entry in lines:
        distinct += entry.new
        used = {"queries": entry.number, "distinct": distinct, "seconds": entry.simulated_seconds}[axis]
        if used <= budget and entry.loss is not None:
            found = min(found, entry.loss)
    return found


@given(st.lists(losses, min_size=1, max_size=4))
def test_every_point_of_a_curve_is_what_counting_gives(tmp_path_factory: pytest.TempPathFactory, drawn: list) -> None:
    runs = runs_with(tmp_path_factory.mktemp("runs"), *drawn)
    entries = [[HistoryEntry.from_json(line) for line in history(found)] for found in drawn]
    for axis in AXES:
        curve = anytime_curve(runs, axis, seed=0)
        end = min(run.spent(axis)[-1] for run in runs)
        for budget in np.arange(0, end + 0.5, 0.5):
            expected = [naive(lines, axis, budget) for lines in entries]
            place = np.searchsorted(curve.x, budget, side="right") - 1
            if place >= 0:
                assert curve.median[place] == np.median(expected)
                assert curve.highest[place] == max(expected)
            else:
                assert max(expected) == math.inf
