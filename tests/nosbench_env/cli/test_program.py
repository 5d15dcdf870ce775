import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.candidates.tuned_program import TunedProgram
from nosbench_env.tasks.task import Curve
from nosbench_env.tasks.toy import ToyTask

SGD = "r9 = mul(grad, 0.01); r10 = mul(r9, 1.0)"
QUICK = ["--task", "toy", "--device", "cpu", "--epochs", "1", "--seeds", "2", "--workers", "1", "--output", "out"]
COMMANDS = ["shorten", "ablate", "sensitivity", "lr", "tune"]


def test_help_teaches(nosbench) -> None:
    listed = nosbench("program", "--help").out
    assert all(name in listed for name in COMMANDS)
    for name in COMMANDS:
        text = nosbench("program", name, "--help").out
        assert f"nosbench program {name}" in text
        assert all(option in text for option in ("--seeds", "--epochs", "--json", "--quiet", "--output", "--store"))


def test_help_needs_no_torch() -> None:
    code = "import sys; from nosbench_env.cli import program; assert not {'torch', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shorten_gives_the_proof_of_each_removal(nosbench, tmp_path: Path) -> None:
    run = nosbench("program", "shorten", "Incumbent", *QUICK, "--seeds", "1")
    assert run.code == 0
    text = " ".join(run.out.split())
    assert "Incumbent, toy task, 1 epoch, seed 0" in text
    assert "14 make a difference; the rest certainly makes none" in text
    assert "12 give the same fingerprint, and in training losses are equal to the last bit" in text
    assert "r13 = maximum(r9, r17) -> r17" in text
    data = json.loads((tmp_path / "out/shortening.json").read_text())
    assert data["original"] == KNOWN_PROGRAMS["Incumbent"].to_json()
    assert len(data["probed"]) == 12


def test_shorten_names_approximations(nosbench) -> None:
    text = " ".join(nosbench("program", "shorten", "SGD", *QUICK, "--tolerance", "0.5").out.split())
    assert "left approximately: not equal, the loss at most 0.5 higher" in text
    assert "change +0." in text


def test_shorten_leaves_a_simple_program(nosbench) -> None:
    out = nosbench("program", "shorten", SGD, *QUICK).out
    assert "1 make a difference" in out
    assert "Without any further instruction the fingerprint" in out
    assert "\n    r9 = mul(grad, 0.01)\n" in out
    assert "# the empty program" in nosbench("program", "shorten", "r9 = sub(0.1, 0.1)", *QUICK).out
    assert "training diverges (nan)" in nosbench("program", "shorten", "r9 = log(r9); r9 = mul(r9, r10)", *QUICK).out


def test_ablate_shows_a_table_and_a_plot(nosbench, tmp_path: Path) -> None:
    run = nosbench("program", "ablate", "SGD", *QUICK)
    assert run.code == 0
    assert "r19 = mul(r12, 0.01)" in run.out
    assert "change of loss" in run.out
    assert (tmp_path / "out/ablation.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out/ablation.json").read_text())["seeds"] == [0, 1]


def test_sensitivity_shows_a_column_for_each_factor(nosbench, tmp_path: Path) -> None:
    run = nosbench("program", "sensitivity", SGD, *QUICK, "--factor", "0.5", "--factor", "2")
    assert run.code == 0
    header = next(line.split() for line in run.out.splitlines() if line.startswith("    use"))
    assert header == ["use", "instruction", "constant", "x0.5", "x1", "x2", "best"]
    assert (tmp_path / "out/sensitivity.png").exists()
    none = nosbench("program", "sensitivity", "r9 = sign(grad)", *QUICK)
    assert none.out.endswith("The program reads no constant.\n")


def test_lr_says_whether_the_programs_own_is_good(nosbench) -> None:
    far = nosbench("program", "lr", "r9 = mul(grad, 0.001)", *QUICK, "--factor", "10", "--factor", "100").out
    assert "lr = 100 is the best of these" in far
    assert "it may lie beyond" in far
    own = nosbench("program", "lr", SGD, *QUICK, "--factor", "0.1").out
    assert "lr = 1, the program's own, is the best of these." in own


def test_tune_compares_at_seeds_of_its_own(nosbench, tmp_path: Path) -> None:
    arguments = ["program", "tune", SGD, *QUICK, "--trials", "5", "--test-seeds", "2", "--use", "1.2"]
    run = nosbench(*arguments)
    assert run.code == 0
    assert "at seeds 2, 3, which took no part" in run.out
    data = json.loads((tmp_path / "out/tuning.json").read_text())
    assert TunedProgram.from_json(data["tuned"]).program == Program.parse(SGD)
    assert nosbench(*arguments).out == run.out


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_printed_alone_and_written(nosbench, tmp_path: Path, command: str) -> None:
    extra = ["--trials", "2"] if command == "tune" else []
    run = nosbench("program", command, SGD, *QUICK, *extra, "--json")
    assert run.code == 0
    (file,) = (tmp_path / "out").glob("*.json")
    assert json.loads(run.out) == json.loads(file.read_text())


def test_the_folder_is_named_after_the_program(nosbench, tmp_path: Path) -> None:
    plain = QUICK[:-2]
    nosbench("program", "lr", "sgd", *plain, "--factor", "2", "--no-plot")
    nosbench("program", "lr", SGD, *plain, "--factor", "2", "--no-plot")
    names = {path.name for path in (tmp_path / "postprocessing").iterdir()}
    assert "sgd-toy-e1" in names
    assert len(names) == 2
    assert not list(tmp_path.glob("postprocessing/*/*.png"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate", "AdamX"], "'AdamX' is no known program"),
        (["ablate", "r9 = mul(grad)"], "'mul' takes 2 inputs, got 1"),
        (["ablate", "SGD", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["ablate", "SGD", "--seeds", "0"], "'--seeds'"),
        (["ablate", "SGD", "--task", "mnist"], "unknown task 'mnist'"),
        (["shorten", "SGD", "--tolerance", "-1"], "tolerance must be a number >= 0"),
        (["sensitivity", "SGD", "--factor", "-1"], "factors must be positive, finite numbers, got -1.0"),
        (["lr", "SGD", "--factor", "nan"], "factors must be positive"),
        (["lr", "r9 = log(r9); r9 = mul(r9, 0.1)"], "nothing to compare with"),
        (["tune", "SGD", "--use", "4"], "expected LINE.INPUT"),
        (["tune", "SGD", "--use", "1.3"], "no constant at 1.3"),
        (["tune", "SGD", "--reach", "1"], "reach must be a number > 1"),
    ],
)
def test_wrong_use_gets_one_message_and_exit_code_2(nosbench, arguments: list[str], message: str) -> None:
    run = nosbench("program", *arguments[:2], *QUICK, *arguments[2:])
    assert run.code == 2
    assert message in " ".join(run.err.replace("│", " ").split())


@pytest.mark.parametrize(("command", "module"), [("ablate", "matplotlib"), ("tune", "optuna")])
def test_a_missing_extra_is_named(nosbench, monkeypatch: pytest.MonkeyPatch, command: str, module: str) -> None:
    place = "nosbench_env.plotting" if module == "matplotlib" else "nosbench_env.postprocessing.tuning"
    monkeypatch.setattr(f"{place}.find_spec", lambda name: None)
    run = nosbench("program", command, "SGD", *QUICK)
    assert run.code == 2
    assert "pip install 'nosbench_env[" in run.err


def test_ctrl_c_loses_nothing_finished(nosbench, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, train = [], ToyTask.train

    def counted(self: ToyTask, *arguments: Any, **options: Any) -> Curve:
        if len(trained) == 5:
            trained.append(None)
            raise KeyboardInterrupt
        curve = train(self, *arguments, **options)
        trained.append(curve)
        return curve

    monkeypatch.setattr(ToyTask, "train", counted)
    run = nosbench("program", "lr", SGD, *QUICK)
    assert run.code == 130
    assert "Finished trainings are kept" in run.err
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert nosbench("program", "lr", SGD, *QUICK).code == 0
    assert len(trained) == 2 * 9 + 1
