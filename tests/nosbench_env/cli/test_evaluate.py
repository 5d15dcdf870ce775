import json
from pathlib import Path

from nosbench_env import Program

TOY = ["--task", "toy", "--device", "cpu"]


def test_evaluate_trains_once_and_then_tells_a_hit(nosbench) -> None:
    first = nosbench("evaluate", "adam", *TOY, "--epochs", "2")
    assert first.code == 0
    assert "r11 = square(grad)" in first.out
    assert "epoch   2  loss 1.1" in first.out
    assert "toy task, 2 epochs, seed 0: final loss 1.1" in first.out
    assert "trained in" in first.out
    second = nosbench("evaluate", "Adam", *TOY, "--epochs", "2")
    assert "a hit: trained on 20" in second.out
    shorter = nosbench("evaluate", "Adam", *TOY, "--epochs", "1")
    assert "a hit: trained on 20" in shorter.out


def test_evaluate_takes_names_texts_and_files(nosbench, tmp_path: Path) -> None:
    (tmp_path / "program.txt").write_text("# SGD\nr9 = mul(grad, 0.01)\n")
    (tmp_path / "mark.txt").write_text("\ufeffr9 = mul(grad, 0.01)\r\n")
    (tmp_path / "program.json").write_text('[["mul", [1, 6], 9]]')
    (tmp_path / "SGD").write_text("a known name wins over a file of that name")
    losses = set()
    for argument in ("SGD", "sgd", "r9 = mul(grad, 0.01)", "program.txt", "program.json", "./program.txt", "mark.txt"):
        run = nosbench("evaluate", argument, *TOY, "--epochs", "1", "--json")
        assert run.code == 0
        data = json.loads(run.out)
        losses.add(data["loss"])
    assert len(losses) == 1
    assert Program.from_json(data["program"]) == Program.parse("r9 = mul(grad, 0.01)")
    assert data["hit"] is True
    assert data["status"] == "ok"


def test_evaluate_says_that_a_program_diverges(nosbench) -> None:
    run = nosbench("evaluate", "r9 = log(r9); r9 = mul(r9, r10)", *TOY)
    assert run.code == 0
    assert "final loss nan (nan)" in run.out
    assert "diverges on the probe" in run.out
