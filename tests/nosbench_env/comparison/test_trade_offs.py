"""Fronts and hypervolumes of runs whose programs and losses are given."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from run_folders import write_run

from nosbench_env import Program
from nosbench_env.agents import RunError
from nosbench_env.comparison import Comparison, compare, read_run
from nosbench_env.comparison.plots import plot_trade_offs
from nosbench_env.comparison.reference import Reference
from nosbench_env.comparison.report import render, write_report
from nosbench_env.comparison.trade_offs import FRONT_FIELDS, TRADE_OFF_FIELDS
from nosbench_env.language.costs import COSTS

# Programs by their memory and operations.
NOTHING = ""  # 0, 0
STEP = "r9 = mul(grad, 0.1)"  # 0, 2
LONGER = "r9 = exp(grad); r9 = mul(r9, 0.1)"  # 0, 3
MOMENTUM = "r10 = add(r10, grad); r9 = mul(r10, 0.1)"  # 1, 3
TWO = "r10 = add(r10, grad); r11 = maximum(r11, r10); r9 = mul(r11, 0.1)"  # 2, 4


def write(folder: Path, found: Sequence[tuple[str, float | None]], agent: str = "a", seed: int = 0) -> Path:
    """A run that found these programs with these losses."""
    losses = [loss for _, loss in found]
    assert len(set(losses)) == len(losses)  # each has a key of its own
    write_run(folder, losses, agent, seed)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line, (text, _) in zip(lines, found, strict=True):
        line["program"] = Program.parse(text).to_json()
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


A = [(NOTHING, 2.0), (STEP, 1.0), (LONGER, 1.5), (MOMENTUM, 0.5)]
B = [(TWO, 0.25), (STEP, 0.75), (LONGER, None), (MOMENTUM, 3.0)]


def compared(tmp_path: Path, **arguments: object) -> Comparison:
    runs = [read_run(write(tmp_path / "a", A)), read_run(write(tmp_path / "b", B, "b"))]
    return compare(runs, **({"costs": ("memory", "operations")} | arguments))


def test_fronts_hold_what_nothing_beats_at_its_cost(tmp_path: Path) -> None:
    found = compared(tmp_path).trade_offs
    points = [[one.point for one in front] for front in found.fronts]
    assert points == [[(0.5, 1, 3), (1.0, 0, 2), (2.0, 0, 0)], [(0.25, 2, 4), (0.75, 0, 2)]]
    assert [one.point for one in found.common] == [(0.25, 2, 4), (0.5, 1, 3), (0.75, 0, 2), (2.0, 0, 0)]
    assert [one.method for one in found.common] == ["b", "a", "b", "a"]
    assert found.objectives == ("loss", "memory", "operations")


def test_hypervolumes_are_shares_of_the_box(tmp_path: Path) -> None:
    found = compared(tmp_path, reference_point=[2.25, 3.0, 5.0]).trade_offs
    assert found.ideal == (0.25, 0.0, 0.0)
    box = 2.0 * 3 * 5
    # b: a slab of (0.75, 0, 2) and what (0.25, 2, 4) adds to it
    assert found.table[1]["hypervolume"] == pytest.approx((1.5 * 3 * 3 + 0.5 * 1 * 1) / box)
    # a, by the number of operations: from 0 on one program, from 2 on two, from 3 on three
    assert found.table[0]["hypervolume"] == pytest.approx((0.25 * 3 * 2 + 1.25 * 3 + 2 * (1.25 * 3 + 0.5 * 2)) / box)
    assert [row["together"] for row in found.table] == [row["hypervolume"] for row in found.table]
    assert [row["reached"] for row in found.table] == [2, 2]
    assert all(math.isnan(row["low"]) for row in found.table)  # single runs


def test_the_usual_reference_lies_a_tenth_beyond_the_common_front(tmp_path: Path) -> None:
    found = compared(tmp_path).trade_offs
    assert found.reference == pytest.approx((2.0 + 0.175, 2.2, 4.4))
    single = compare([read_run(tmp_path / "a")], costs=["memory"], budget=1).trade_offs
    assert (single.ideal, single.reference) == ((2.0, 0.0), (3.0, 1.0))
    assert single.table[0]["hypervolume"] == 1.0


def test_the_budget_holds_for_fronts_too(tmp_path: Path) -> None:
    found = compared(tmp_path, budget=2).trade_offs
    assert [one.point[0] for one in found.fronts[0]] == [1.0, 2.0]


def test_intervals_come_from_the_runs(tmp_path: Path) -> None:
    runs = [read_run(write(tmp_path / f"a{k}", [(STEP, 1.0 + k), (NOTHING, 9.0)], "a", k)) for k in range(5)]
    (row,) = compare(runs, costs=["operations"]).trade_offs.table
    assert row["runs"] == 5
    assert row["low"] < row["hypervolume"] < row["high"] <= row["together"] < 1
    assert compare(runs, costs=["operations"]).trade_offs.table == (row,)


def test_instructions_can_count_too(tmp_path: Path) -> None:
    found = compared(tmp_path, costs=["instructions"]).trade_offs
    assert [one.point for one in found.common] == [(0.25, 3), (0.5, 2), (0.75, 1), (2.0, 0)]


def test_runs_without_a_finite_loss_have_no_front(tmp_path: Path) -> None:
    failed = read_run(write(tmp_path / "a", [(STEP, None)]))
    comparison = compare([failed], costs=["memory"])
    assert comparison.trade_offs.common == ()
    assert comparison.trade_offs.table[0]["hypervolume"] == 0.0
    assert "No program had a finite loss" in render(comparison, {})
    assert plot_trade_offs(comparison).axes


def test_optimizers_of_libraries_are_compared_but_on_no_front(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "hpo", [3.0, 0.125, 0.5], "hpo")
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        config = {"optimizer": "torch.optim.AdamW", "hyperparameters": {"lr": line["loss"]}, "schedule": "constant"}
        line["program"] = config
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = compare([read_run(folder), read_run(write(tmp_path / "a", A))], costs=["memory"], budget=3)
    assert [len(front) for front in comparison.trade_offs.fronts] == [1, 1]
    assert comparison.trade_offs.without_costs == ("hpo",)
    assert any("hpo proposed optimizers that are not programs" in note for note in comparison.notes)
    assert comparison.runs[0]["program"] == "torch.optim.AdamW(lr=0.125)"
    files = write_report(comparison, tmp_path / "out", plot=False)
    assert "torch.optim.AdamW(lr=0.125)" in files[0].read_text()


def test_without_costs_there_are_none(tmp_path: Path) -> None:
    comparison = compared(tmp_path, costs=())
    assert comparison.trade_offs is None
    assert comparison.to_json()["trade_offs"] is None
    assert "Trade-offs" not in render(comparison, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"costs": ["time"]}, "a cost must be one of memory, operations, instructions, got 'time'"),
        ({"costs": ["memory", "memory"]}, "each once, got memory, memory"),
        ({"reference_point": [1.0]}, r"must be 3 finite numbers \(loss, memory, operations\), got 1.0"),
        ({"reference_point": [1.0, 2.0, math.inf]}, "must be 3 finite numbers"),
        ({"reference_point": [0.25, 3.0, 5.0]}, "must be worse than the best of each objective, 0.25, 0.0, 0.0"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared(tmp_path, **arguments)


def test_a_history_that_shrinks_meanwhile_is_refused(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", A))
    history = tmp_path / "a" / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:2]))
    with pytest.raises(RunError, match="had 4 queries and now has 2"):
        compare([run], costs=["memory"])


def test_a_search_that_goes_on_adds_nothing(tmp_path: Path) -> None:
    run = read_run(write(tmp_path / "a", A[:2]))
    (tmp_path / "a" / "history.jsonl").unlink()
    (tmp_path / "a" / "config.json").unlink()
    (tmp_path / "a").rmdir()
    write(tmp_path / "a", A)
    assert len(compare([run], costs=["memory"]).trade_offs.common) == 1


def test_all_of_it_is_written(tmp_path: Path) -> None:
    comparison = compared(tmp_path, find_reference=lambda _: Reference("AdamW", 1.25))
    files = write_report(comparison, tmp_path / "out")
    assert {path.name for path in files} >= {"trade_offs.csv", "fronts.csv", "trade_offs.png"}
    data = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert data["trade_offs"]["reference"] == list(comparison.trade_offs.reference)
    assert data["fields"]["fronts"] == FRONT_FIELDS
    for name, fields, rows in (
        ("trade_offs", TRADE_OFF_FIELDS, data["trade_offs"]["table"]),
        ("fronts", FRONT_FIELDS, data["trade_offs"]["fronts"]),
    ):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as file:
            header, *lines = csv.reader(file)
        assert header == list(fields)
        assert len(lines) == len(rows)
        assert all(set(row) == set(fields) for row in rows)
    for row in data["trade_offs"]["fronts"]:
        program = Program.parse(row["program"])
        assert all(row[name] == cost(program) for name, cost in COSTS.items())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The common front" in page
    assert 'alt="Loss against each cost, by method"' in page
