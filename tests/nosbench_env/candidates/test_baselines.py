import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nosbench_env import BASELINES, KNOWN_PROGRAMS, OptimizerConfig, Oracle, Program, ProgramOptimizer
from nosbench_env.candidates.baselines import GROUPS, named_baselines
from nosbench_env.cli.candidate_argument import named_candidates, read_candidate
from nosbench_env.language.program import InvalidProgram
from nosbench_env.studies.baselines import score, score_rows, write_tables

TOY = ["--task", "toy", "--device", "cpu", "--epochs", "2"]
FAILS = Program.parse("r9 = sub(grad, grad); r9 = div(grad, r9)")


def test_all_known_programs_and_the_optimizers_of_pytorch_are_baselines() -> None:
    assert {name for name, baseline in BASELINES.items() if baseline.group == "program"} == set(KNOWN_PROGRAMS)
    assert {baseline.group for baseline in BASELINES.values()} == set(GROUPS)
    assert {f"torch.{name}" for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta")} <= set(BASELINES)
    assert all(name == baseline.name for name, baseline in BASELINES.items())


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if baseline.group == "torch"])
def test_pytorchs_have_pytorchs_defaults(name: str) -> None:
    config = BASELINES[name].candidate
    assert isinstance(config, OptimizerConfig)
    params = [nn.Parameter(torch.zeros(2))]
    found = config.make_optimizer(params, 1, 1)
    assert found.defaults == type(found)(params).defaults


@pytest.mark.parametrize("name", [name for name, found in BASELINES.items() if found.group in ("recent", "schedule")])
def test_the_others_optimize(name: str) -> None:
    config = BASELINES[name].candidate
    assert isinstance(config, OptimizerConfig)
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = torch.randn(64, 3, generator=generator), torch.randn(64, 2, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    optimizer = config.make_optimizer(model.parameters(), 4, 50)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), outputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"])
def test_the_program_of_a_name_is_pytorchs_optimizer(name: str) -> None:
    config = BASELINES[f"torch.{name}"].candidate
    assert isinstance(config, OptimizerConfig)
    ends = []
    for make in (
        lambda params: ProgramOptimizer(params, KNOWN_PROGRAMS[name]),
        lambda params: config.make_optimizer(params, 1, 1),
    ):
        param = nn.Parameter(torch.linspace(0.1, 1, 7))
        optimizer = make([param])
        for step in range(10):
            param.grad = torch.sin(torch.arange(1.0, 8.0) * (step + 1))  # of the parameter, rounding would grow
            optimizer.step()
        ends.append(param.detach())
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-6)


def test_names_and_groups_choose() -> None:
    assert named_baselines([]) == list(BASELINES.values())
    assert [found.name for found in named_baselines(["incumbent", "schedule", "AdamW-Cosine"])] == [
        "Incumbent",
        "AdamW-cosine",
        "AdamW-cosine-to-zero",
    ]
    with pytest.raises(ValueError, match=r"unknown baseline 'Adm'; known are SGD, .*groups of them: program, torch"):
        named_baselines(["Adm"])


def test_scores_are_ranked_and_tabulated(tmp_path: Path) -> None:
    oracle = Oracle("toy", tmp_path / "oracle.sqlite", "cpu", workers=1)
    candidates = {
        "fails": FAILS,
        "slow": OptimizerConfig("torch.optim.SGD", {"lr": 1e-6}),
        "Adam": KNOWN_PROGRAMS["Adam"],
    }
    scores = score(oracle, candidates, epochs=2, seeds=(0, 3), paper_losses={"Adam": 1.0})
    assert [found.name for found in scores] == ["Adam", "slow", "fails"]
    rows = score_rows(scores)
    losses = [oracle.query(KNOWN_PROGRAMS["Adam"], 2, seed).loss for seed in (0, 3)]
    assert rows[0]["mean"] == pytest.approx(sum(losses) / 2)
    assert rows[0]["sd"] == pytest.approx(abs(losses[0] - losses[1]) / math.sqrt(2))
    assert (rows[0]["paper"], rows[1]["paper"]) == (1.0, None)
    assert (rows[2]["failed"], rows[2]["mean"], rows[2]["sd"], rows[2]["rank"]) == (2, None, None, 3)
    table, curves = write_tables(scores, tmp_path / "out")
    with table.open() as file:
        read = list(csv.DictReader(file))
    assert [(row["name"], row["failed"], row["mean"] == "") for row in read] == [
        ("Adam", "0", False),
        ("slow", "0", False),
        ("fails", "2", True),
    ]
    with curves.open() as file:
        points = list(csv.DictReader(file))
    adam = oracle.query(KNOWN_PROGRAMS["Adam"], 2, 3).curve
    assert [float(row["loss"]) for row in points if (row["name"], row["seed"]) == ("Adam", "3")] == list(adam)
    with pytest.raises(ValueError, match="one candidate and one seed or more, got 0 and 1"):
        score(oracle, {}, seeds=[0])


def test_arguments_may_be_optimizers(tmp_path: Path) -> None:
    config = OptimizerConfig("torch.optim.SGD", {"lr": 0.1})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.txt").write_text(f"# query 3, loss 0.1\n{config}\n")
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    (tmp_path / "bad.json").write_text('{"optimizer": "SGD", "hyperparameters": {}, "schedule": "constant"}')
    (tmp_path / "other").mkdir()
    assert read_candidate("torch.adam") == BASELINES["torch.Adam"].candidate
    assert read_candidate("adamw") == KNOWN_PROGRAMS["AdamW"]
    for argument in (str(config), tmp_path / "run", tmp_path / "run" / "best.txt", tmp_path / "config.json"):
        assert read_candidate(str(argument)) == config
    (tmp_path / "run" / "best.txt").write_text("# query 3, loss 0.1\nr9 = mul(grad, 0.1)\n")
    assert read_candidate(str(tmp_path / "run")) == Program.parse("r9 = mul(grad, 0.1)")
    for argument, words in (
        (tmp_path / "other", "no run folder that has found something"),
        (tmp_path / "bad.json", "bad.json: an optimizer is named like"),
        ("torch.optim.SGD(lr=", "expected an optimizer such as"),
    ):
        with pytest.raises(ValueError, match=words):
            read_candidate(str(argument))
    with pytest.raises(InvalidProgram):
        read_candidate("Adm\0")


def test_arguments_have_names_to_show_of_which_none_is_lost(tmp_path: Path) -> None:
    for folder, rate in (("a/run", "0.1"), ("b/run", "0.01")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "best.txt").write_text(f"r9 = mul(grad, {rate})")
    runs = [str(tmp_path / folder / "best.txt") for folder in ("a/run", "b/run")]
    texts = ["r9 = mul(grad,  0.01)\n", "r9 = mul(grad, 0.01)", f"r9 = mul(grad, 0.01){' ' * 9}# {'x' * 99}"]
    found = named_candidates(["torch.adam", *runs, *texts])
    assert list(found) == [
        "torch.Adam",
        "run",
        "run (2)",
        "r9 = mul(grad, 0.01)",
        "r9 = mul(grad, 0.01) (2)",
        f"r9 = mul(grad, 0.01) # {'x' * 16}…",
    ]
    assert found["run"] != found["run (2)"]


def test_the_command_shows_a_table_and_draws(nosbench, tmp_path: Path) -> None:
    arguments = ["baselines", "torch.Adam", "SGD", "AdamW-cosine", *TOY, "--seeds", "2", "--out", str(tmp_path / "out")]
    run = nosbench(*arguments)
    assert run.code == 0
    assert "toy task, 2 epochs, 2 seeds" in run.out
    assert "paper's code" not in run.out
    assert "torch.Adam, seed 1: 1." in run.err
    for name in ("scores.csv", "curves.csv", "final_losses.png", "learning_curves.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    again = nosbench(*arguments, "--json")
    assert again.err == ""
    data = json.loads(again.out)
    assert {score["name"] for score in data["scores"]} == {"torch.Adam", "SGD", "AdamW-cosine"}
    assert all(found["hit"] for score in data["scores"] for found in score["evaluations"])


def test_the_list_trains_nothing(nosbench) -> None:
    run = nosbench("baselines", "--list")
    assert run.code == 0
    assert all(name in run.out for name in BASELINES)
    listed = json.loads(nosbench("baselines", "torch", "--list", "--json").out)
    assert {found["group"] for found in listed} == {"torch"}


def test_what_is_not_installed_is_left_out_and_said(nosbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nosbench_env.candidates.optimizer_config.find_spec", lambda name: None)
    run = nosbench("baselines", "Lion", "SGD", *TOY, "--seeds", "1")
    assert run.code == 0
    assert "Left out: Lion (needs pytorch_optimizer: pip install 'nosbench_env[optimizers]')" in run.out
    run = nosbench("baselines", "Lion", *TOY)
    assert (run.code, "Traceback" in run.err) == (2, False)
    assert "pip install 'nosbench_env[optimizers]'" in run.err


def test_wrong_use_is_told(nosbench, tmp_path: Path) -> None:
    for arguments, words in (
        (["baselines", "Adm"], "unknown baseline 'Adm'"),
        (["baselines", "--seeds", "0"], "Invalid value"),
        (["plot", "AdamW", "--out", "x.bmp"], "--out must end in .png, .pdf, .svg"),
        (["plot", str(tmp_path)], "no run folder that has found something"),
        (["evaluate", "torch.optim.SGD(lr=0.1)", "--explain", *TOY], "--explain is for programs"),
        (["evaluate", "torch.optim.SGD(lr=-1)", *TOY], "Invalid learning rate"),
    ):
        run = nosbench(*arguments)
        assert (run.code, "Traceback" in run.err) == (2, False), arguments
        assert words in " ".join(run.err.split()), (arguments, run.err)


def test_plot_draws_programs_optimizers_and_runs(nosbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.txt").write_text("r9 = mul(grad, 0.1)\n")
    candidates = ["AdamW", "run", "torch.optim.SGD(lr=0.1)"]
    for suffix in ("png", "pdf", "svg"):
        run = nosbench("plot", *candidates, *TOY, "--out", f"new/curves.{suffix}")
        assert run.code == 0, run.err
        assert (tmp_path / "new" / f"curves.{suffix}").stat().st_size > 1000
    assert "Written: new/curves.svg" in run.out
    assert "\n       1  " in run.out


def test_evaluate_takes_an_optimizer(nosbench) -> None:
    run = nosbench("evaluate", "torch.optim.SGD(lr=0.1)", *TOY)
    assert run.code == 0
    assert run.out.startswith("torch.optim.SGD(lr=0.1)\n")
    assert "final loss" in run.out
    assert (
        json.loads(nosbench("evaluate", "Lion", *TOY, "--json").out)["program"]["optimizer"] == "pytorch_optimizer.Lion"
    )
