import json
from pathlib import Path

import pytest
from run_folders import write_run

from nosbench_env.agents.history import shown

TOY = ["--task", "toy", "--device", "cpu", "--epochs", "1", "-q"]


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return [
        str(write_run(tmp_path / "runs" / f"{agent}-{seed}", [9.0, low + seed, low], agent, seed))
        for agent, low in (("rs", 3.0), ("ppo", 2.0))
        for seed in range(3)
    ]


def test_real_runs_are_compared(nosbench, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        for agent in ("rs", "re"):
            run = nosbench(
                "search", *TOY, "--agent", agent, "--seed", seed, "--budget", "4", "--run", f"{agent}-{seed}"
            )
            assert run.code == 0
    run = nosbench("compare", "rs-0", "rs-1", "re-0", "re-1")
    assert run.code == 0, run.err
    assert "Lowest losses within 4 queries, toy task, 1 epoch" in run.out
    assert "regularized evolution from AdamW" in run.out
    loss = json.loads(nosbench("evaluate", "AdamW", *TOY, "--json").out)["loss"]
    assert f"AdamW, for reference: {loss:.4f}" in run.out  # the searches looked at it, so it is known
    assert "Report: comparison/report.html" in run.out
    assert (tmp_path / "comparison" / "curves-queries.png").exists()


def test_the_table_is_printed(nosbench, runs: list[str]) -> None:
    run = nosbench("compare", *runs, "--no-plot", "--reference", "none", "--output", "there")
    lines = run.out.splitlines()
    assert lines[0] == "Lowest losses within 3 queries, toy task, 5 epochs"
    header, rs, ppo = lines[2:5]
    assert " ".join(header.split()) == "method runs best IQM 95 % interval median distinct trainings hits"
    assert " ".join(rs.split()) == "random search 3 3.0000 3.0000 3.0000 to 3.0000 3.0000 2.7 2.7 11.1%"
    assert ppo.split()[0] == "ppo"
    assert "random search  ppo           0%  0.1       0.1" in run.out
    assert "for reference" not in run.out
    assert sorted(path.name for path in Path("there").iterdir()) == [
        "comparison.json",
        "curves.csv",
        "pairs.csv",
        "report.html",
        "runs.csv",
        "table.csv",
    ]


def test_json_is_printed_alone(nosbench, runs: list[str]) -> None:
    run = nosbench("compare", *runs, "--no-plot", "--json", "--x", "seconds", "--budget", "1.5", "--seed", "3")
    data = json.loads(run.out, parse_constant=pytest.fail)
    assert (data["axis"], data["budget"], data["seed"]) == ("seconds", 1.5, 3)
    assert [row["best"] for row in data["table"]] == [9.0, 9.0]
    assert data == json.loads(Path("comparison/comparison.json").read_text())
    assert data["reference"]["loss"] is None
    assert not Path("results.sqlite").exists()


def test_fronts_are_shown_if_asked_for(nosbench, runs: list[str]) -> None:
    run = nosbench("compare", *runs, "--no-plot", "--reference", "none", "--pareto")
    lines = [" ".join(line.split()) for line in run.out.splitlines()]
    title = "Hypervolumes of loss, memory, operations, up to the point loss 9.7, memory 1, operations 3.1"
    header, rs, ppo = lines[lines.index(title) + 2 :][:3]
    assert header.startswith("method runs hypervolume 95 % interval all runs together")
    assert rs.endswith("2 1")
    assert ppo.endswith("2 2")
    front = lines[lines.index("The common front") + 2 :][:3]
    assert front[0] == "loss memory operations method query"
    assert front[1] == "2.0000 0 3 ppo 2 in " + shown(runs[3])
    assert front[2] == "9.0000 0 2 random search 1 in " + shown(runs[0])
    assert {"fronts.csv", "trade_offs.csv"} <= {path.name for path in Path("comparison").iterdir()}


def test_costs_and_the_reference_point_can_be_chosen(nosbench, runs: list[str]) -> None:
    options = ["--pareto", "--cost", "instructions", "--reference-point", "10,8", "--json", "--no-plot"]
    data = json.loads(nosbench("compare", *runs, *options).out)["trade_offs"]
    assert (data["objectives"], data["reference"]) == (["loss", "instructions"], [10.0, 8.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cost", "memory"], "--cost and --reference-point need --pareto"),
        (["--reference-point", "1,2,3"], "--cost and --reference-point need --pareto"),
        (["--pareto", "--cost", "time"], "a cost must be one of memory, operations, instructions, got 'time'"),
        (["--pareto", "--reference-point", "1,x"], "must be numbers separated by commas, such as 1.5,4,20, got '1,x'"),
        (["--pareto", "--reference-point", "1,2"], "must be 3 finite numbers"),
    ],
)
def test_wrong_use_of_fronts_is_told(nosbench, runs: list[str], options: list[str], message: str) -> None:
    run = nosbench("compare", *runs, *options, "--no-plot")
    assert run.code == 2
    assert message in run.err
    assert not Path("comparison").exists()


def test_methods_can_be_renamed(nosbench, runs: list[str]) -> None:
    labels = ["--label", "random search=RS=uniform", "--label", "ppo=ours"]
    run = nosbench("compare", *runs, *labels, "--no-plot", "--json")
    assert [row["method"] for row in json.loads(run.out)["table"]] == ["RS=uniform", "ours"]
    for wrong in ("rs=RS", "ppo", "ppo=", "ppo= "):
        run = nosbench("compare", *runs, "--label", wrong)
        assert run.code == 2
        assert "'random search', 'ppo'" in run.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no run folder: it has no config.json"),
        (["RUNS", "--budget", "4"], "budget must be more than 0 and at most 3 queries"),
        (["RUNS", "--reference", "Adan"], "reference must be one of SGD"),
        (["RUNS", "OTHER"], "these runs can't be compared: epochs is 5 in"),
        (["RUNS", "RUNS"], "are the same run"),
    ],
)
def test_wrong_use_is_told(nosbench, tmp_path: Path, runs: list[str], arguments: list[str], message: str) -> None:
    other = str(write_run(tmp_path / "other", [1.0], epochs=20))
    given = []
    for argument in arguments:
        given += runs if argument == "RUNS" else [other if argument == "OTHER" else argument]
    run = nosbench("compare", *given, "--no-plot")
    assert run.code == 2
    assert message in run.err
    assert not Path("comparison").exists()


def test_forced_runs_are_compared_with_a_warning(nosbench, tmp_path: Path, runs: list[str]) -> None:
    other = str(write_run(tmp_path / "other", [1.0, 1.0, 1.0], epochs=20))
    run = nosbench("compare", *runs, other, "--force", "--no-plot")
    assert run.code == 0
    assert "Note: These runs are not comparable: epochs is 5 in" in run.out


def test_help_teaches(nosbench) -> None:
    text = " ".join(nosbench("compare", "--help").out.split())
    assert "nosbench compare runs/*" in text
    assert "Run folders are only read" in text
