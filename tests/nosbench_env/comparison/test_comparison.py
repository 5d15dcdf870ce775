import json
import math
from pathlib import Path

import numpy as np
import pytest
from run_folders import write_run

from nosbench_env.agents.run_folder import CONDITIONS
from nosbench_env.comparison import Comparison, compare, read_run
from nosbench_env.comparison.comparison import CURVE_FIELDS, PAIR_FIELDS, RUN_FIELDS, TABLE_FIELDS, spent
from nosbench_env.comparison.reference import Reference


@pytest.fixture
def runs(tmp_path: Path) -> list:
    """Five runs of random search, and four, of which one is shorter, of another method."""
    folders = [write_run(tmp_path / f"rs-{k}", [9.0, None, 5.0 + k, 5.0 + k, 4.0], seed=k) for k in range(5)]
    folders += [write_run(tmp_path / f"ppo-{k}", [9.0, 9.0, 1.0 + k, 0.5], "ppo", k, known=1) for k in range(4)]
    return [read_run(folder) for folder in folders]


def test_the_table_at_the_common_budget(runs: list) -> None:
    comparison = compare(runs)
    assert comparison.budget == 4  # all of the shortest
    rs, ppo = comparison.table
    assert rs["method"] == "random search"
    assert rs["runs"] == 5
    assert (rs["best"], rs["iqm"], rs["median"], rs["worst"]) == (5.0, 7.0, 7.0, 9.0)
    assert (rs["queries"], rs["distinct"], rs["repeat_rate"]) == (4, pytest.approx(2.8), pytest.approx(0.3))
    assert rs["failed_rate"] == 0.25
    assert rs["from_probe"] == 1
    assert (ppo["trained"], ppo["hit_rate"]) == (2, 0.5)
    assert ppo["from_store"] == 2
    assert ppo["simulated_seconds"] == 4.5
    assert [run["loss"] for run in comparison.runs] == [5.0, 6.0, 7.0, 8.0, 9.0, 0.5, 0.5, 0.5, 0.5]
    assert [run["found_at"] for run in comparison.runs][:5] == [3, 3, 3, 3, 1]
    (pair,) = comparison.pair_rows
    assert (pair["a"], pair["b"], pair["improvement"]) == ("random search", "ppo", 0.0)


def test_a_budget_on_another_axis(runs: list) -> None:
    rs, ppo = compare(runs, axis="seconds", budget=1.5).table
    assert (rs["best"], ppo["best"]) == (9.0, 9.0)
    assert rs["queries"] == pytest.approx((2 * 4 + 4) / 5)  # failures and repeats cost nothing
    rs, ppo = compare(runs, axis="distinct", budget=2).table
    assert (rs["best"], rs["queries"]) == (9.0, pytest.approx((2 * 4 + 4) / 5))
    assert ppo["best"] == 1.0


def test_unequal_lengths_and_few_runs_are_noted(runs: list) -> None:
    notes = "\n".join(compare(runs).notes)
    assert "unequal length: 4 to 5 queries" in notes
    assert "the first 4 queries of each" in notes
    assert "Few runs: ppo (4)" in notes
    assert "no p-value is below" not in notes
    assert "no p-value is below 0.05" in "\n".join(compare([*runs[:2], *runs[5:7]]).notes)
    assert "the first 2 queries" in "\n".join(compare(runs[:5], budget=2).notes)
    assert compare(runs[:5]).notes == ()


def test_runs_without_a_finite_loss_count_as_worst(tmp_path: Path) -> None:
    good = [read_run(write_run(tmp_path / f"a{k}", [1.0 + k], "a", k)) for k in range(3)]
    bad = [read_run(write_run(tmp_path / f"b{k}", [None], "b", k)) for k in range(3)]
    comparison = compare([*good, *bad])
    assert comparison.table[1]["iqm"] == math.inf
    assert comparison.pairs[0].improvement == 1
    assert any("3 of 3 runs had no finite loss" in note for note in comparison.notes)
    text = json.dumps(comparison.to_json(), allow_nan=False)
    assert json.loads(text)["table"][1]["iqm"] is None
    assert comparison.best_programs(comparison.groups[1]) == []


@pytest.mark.parametrize("name", CONDITIONS)
def test_runs_under_other_conditions_are_refused(tmp_path: Path, name: str) -> None:
    other = {"task": "pfn", "arithmetic": "tf32", "identity": "paper"}.get(name, 7)
    runs = [
        read_run(write_run(tmp_path / "a", [1.0])),
        read_run(write_run(tmp_path / "b", [1.0], seed=1, **{name: other})),
    ]
    with pytest.raises(ValueError, match=f"can't be compared: {name} is .* in .*/a, .* in .*/b.*--force"):
        compare(runs)
    assert f"not comparable: {name} is" in compare(runs, force=True).notes[0]


@pytest.mark.parametrize("budget", [0, -1, 6, math.nan, math.inf])
def test_a_budget_that_no_run_has_spent_is_refused(runs: list, budget: float) -> None:
    with pytest.raises(ValueError, match="at most 5 queries, the most that a run has spent"):
        compare(runs, budget=budget)


def test_of_a_run_that_ended_before_the_budget_counts_what_it_had_found(runs: list) -> None:
    comparison = compare(runs, budget=5)
    assert [run["loss"] for run in comparison.runs] == [4.0] * 5 + [0.5] * 4
    assert any("ppo: 4 of 4 runs ended before 5 queries, at 4, 4, 4, 4;" in note for note in comparison.notes)


def test_an_axis_on_which_a_run_spent_nothing_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "failed", [None, None])
    with pytest.raises(ValueError, match="failed has spent no simulated seconds: compare by another axis"):
        compare([read_run(folder)], axis="seconds")


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        compare([])


def test_one_method_alone_is_shown_without_tests(runs: list) -> None:
    comparison = compare(runs[:5])
    assert comparison.pairs == ()
    assert comparison.kruskal is None
    assert len(comparison.curves["queries"]) == 1


def test_best_programs_are_distinct_and_in_order(runs: list) -> None:
    comparison = compare(runs)
    rs, ppo = comparison.groups
    assert [entry.loss for _, entry in comparison.best_programs(rs)] == [5.0, 9.0]  # four have one key
    assert [run.seed for run, _ in comparison.best_programs(ppo)] == [0]
    compared = compare(runs, budget=3)
    assert [entry.loss for _, entry in compared.best_programs(ppo)] == [1.0]


def test_the_same_runs_give_the_same_data(runs: list) -> None:
    first, second = (json.dumps(compare(runs).to_json()) for _ in range(2))
    assert first == second
    assert json.dumps(compare(runs, seed=1).to_json()) != first


def test_json_is_strict_and_its_columns_are_described(runs: list) -> None:
    data = json.loads(json.dumps(compare(runs).to_json(), allow_nan=False))
    for name, fields in (
        ("table", TABLE_FIELDS),
        ("runs", RUN_FIELDS),
        ("pairs", PAIR_FIELDS),
        ("curves", CURVE_FIELDS),
    ):
        assert all(row.keys() == fields.keys() for row in data[name])
        assert data["fields"][name] == dict(fields)
        assert data[name]


def test_curves_in_rows_are_the_curves(runs: list) -> None:
    comparison = compare(runs)
    rows = [row for row in comparison.curve_rows if row["axis"] == "distinct" and row["method"] == "ppo"]
    assert [row["x"] for row in rows] == comparison.curves["distinct"][1].x.tolist()
    assert [row["iqm"] for row in rows] == comparison.curves["distinct"][1].iqm.tolist()


@pytest.mark.parametrize(
    ("axis", "amount", "text"),
    [
        ("queries", 150.0, "150 queries"),
        ("seconds", 1234.5, "1,234.5 simulated seconds"),
        ("distinct", 1e6, "1,000,000 distinct programs"),
    ],
)
def test_amounts_are_said_with_their_units(axis, amount: float, text: str) -> None:
    assert spent(axis, amount) == text


def test_a_reference_that_is_not_known_is_noted(runs: list) -> None:
    comparison = compare(runs, find_reference=lambda conditions: Reference("AdamW", None, "nobody asked"))
    assert "No line for AdamW: nobody asked." in comparison.notes
    known = compare(runs, find_reference=lambda conditions: Reference("AdamW", conditions["epochs"] / 2))
    assert known.to_json()["reference"] == {"name": "AdamW", "loss": 2.5, "why_not": ""}


def test_runs_that_still_go_on_are_noted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [2.0, 1.0])
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"number"')
    comparison: Comparison = compare([read_run(folder)])
    assert any("run: its last line or batch is incomplete" in note for note in comparison.notes)
    assert np.isfinite(comparison.table[0]["iqm"])
