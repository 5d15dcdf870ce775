import json
from pathlib import Path

import pytest

from nosbench_env import BASELINES

TOY = ["--task", "toy", "--device", "cpu", "--epochs", "2"]


def test_the_command_shows_a_table_and_draws(nosbench, tmp_path: Path) -> None:
    arguments = [
        "baselines",
        "torch.Adam",
        "SGD",
        "AdamW-cosine",
        *TOY,
        "--seeds",
        "2",
        "--output",
        str(tmp_path / "out"),
    ]
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
    (left_out,) = [line for line in run.out.splitlines() if "Lion" in line]
    assert "pip install 'nosbench_env[optimizers]'" in left_out
    run = nosbench("baselines", "Lion", *TOY)
    assert (run.code, "Traceback" in run.err) == (2, False)
    assert "pip install 'nosbench_env[optimizers]'" in run.err


def test_wrong_use_is_told(nosbench, tmp_path: Path) -> None:
    for arguments, words in (
        (["baselines", "Adm"], "unknown baseline 'Adm'"),
        (["baselines", "--seeds", "0"], "Invalid value"),
        (["plot", "AdamW", "--output", "x.bmp"], ".png, .pdf, .svg"),
        (["plot", str(tmp_path)], "run folder"),
        (["evaluate", "torch.optim.SGD(lr=0.1)", "--explain", *TOY], "--explain"),
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
        run = nosbench("plot", *candidates, *TOY, "--output", f"new/curves.{suffix}")
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
