import importlib.util
import json
from pathlib import Path

import pytest

from nosbench_env import Oracle, Program
from nosbench_env.candidates.tuned_program import ConstantUse, TunedProgram
from nosbench_env.postprocessing import Evaluator, tune

# Momentum with a learning rate that is far too small for the toy task.
PROGRAM = Program.parse("r9 = sub(1.0, 0.1); r10 = interpolate(r10, grad, r9); r11 = mul(r10, 0.01)")


def test_tuning_finds_the_learning_rate_and_shows_it_at_other_seeds(oracle: Oracle) -> None:
    evaluator = Evaluator(oracle, 2, (0, 1))
    found = tune(PROGRAM, evaluator, (5, 6), trials=10, uses=[ConstantUse(3, 2)])
    value, best = found.values[ConstantUse(3, 2)]
    assert value == 0.01
    assert 0.03 < best <= 0.1
    assert found.tuned == TunedProgram(PROGRAM, {ConstantUse(3, 2): best})
    assert (found.trials, found.tuning_seeds, found.test_seeds) == (10, (0, 1), (5, 6))
    untuned, tuned = evaluator.at((5, 6)).losses([PROGRAM, found.tuned])
    assert (found.losses, found.tuned_losses) == (tuple(untuned), tuple(tuned))
    assert found.change.differences == tuple(tuned - untuned)
    assert found.change.mean < -0.05
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert TunedProgram.from_json(data["tuned"]) == found.tuned


def test_what_was_interrupted_goes_on_as_if_it_had_not_been(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, evaluator = tmp_path / "tuning.journal", Evaluator(oracle, 1, (0,))
    whole = tune(PROGRAM, evaluator, (5,), trials=14, seed=3)
    calls, losses = 0, Evaluator.losses

    def interrupted(self, candidates):
        nonlocal calls
        calls += 1
        if calls == 13:  # the first is the program's own, before the trials
            raise KeyboardInterrupt
        return losses(self, candidates)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune(PROGRAM, evaluator, (5,), trials=14, seed=3, storage=file)
    assert tune(PROGRAM, evaluator, (5,), trials=14, seed=3, storage=file) == whole
    trained = oracle.statistics.trained
    assert tune(PROGRAM, evaluator, (5,), trials=14, seed=3, storage=file) == whole
    assert oracle.statistics.trained == trained
    assert tune(PROGRAM, evaluator, (5,), trials=12, seed=3, storage=file).trials == 12


def test_the_program_itself_is_the_first_trial(oracle: Oracle) -> None:
    found = tune(PROGRAM, Evaluator(oracle, 1, (0,)), (5,), trials=1)
    assert found.tuned == TunedProgram(PROGRAM)
    assert found.change.verdict == "the same"


def test_other_settings_are_another_study_of_the_same_file(oracle: Oracle, tmp_path: Path) -> None:
    file, evaluator = tmp_path / "tuning.journal", Evaluator(oracle, 1, (0,))
    tune(PROGRAM, evaluator, (5,), trials=2, storage=file)
    assert tune(PROGRAM, evaluator, (5,), trials=1, reach=3.0, storage=file).trials == 1
    assert tune(PROGRAM, evaluator, (5,), trials=2, storage=file).trials == 2


def test_values_that_diverge_are_no_obstacle(oracle: Oracle) -> None:
    program = Program.parse("r9 = sub(1.0, 0.5); r9 = log(r9); r9 = mul(grad, r9); r10 = mul(r9, 0.001)")
    found = tune(program, Evaluator(oracle, 1, (0,)), (5,), trials=6, uses=[ConstantUse(1, 2)])
    assert found.tuning_change.mean <= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"reach": 1.0}, "reach must be a number > 1"),
        ({"reach": float("nan")}, "reach must be a number > 1"),
        ({"test_seeds": (1, 0)}, r"test seeds \(1, 0\) must not be among the tuning seeds \(0,\)"),
        ({"test_seeds": ()}, "seeds must be one or more"),
        ({"uses": [ConstantUse(2, 1)]}, r"no constant at 2\.1"),
        ({"uses": []}, "no constants to tune"),
        ({"program": Program.parse("r9 = sign(grad)")}, "no constants to tune"),
        ({"program": Program.parse("r9 = log(r9); r9 = mul(r9, 0.1)")}, "nothing to compare with"),
    ],
)
def test_wrong_arguments_are_said(oracle: Oracle, arguments: dict, message: str) -> None:
    asked = {"program": PROGRAM, "evaluator": Evaluator(oracle, 1, (0,)), "test_seeds": (5,)} | arguments
    with pytest.raises(ValueError, match=message):
        tune(**asked)


@pytest.mark.parametrize("text", ["not a journal\n", '{"op_code": 77}\n', "[]\n"])
def test_a_file_that_is_no_journal_is_named(oracle: Oracle, tmp_path: Path, text: str) -> None:
    (tmp_path / "tuning.journal").write_text(text)
    with pytest.raises(ValueError, match=r"tuning\.journal is no journal of Optuna, or damaged"):
        tune(PROGRAM, Evaluator(oracle, 1, (0,)), (5,), trials=1, storage=tmp_path / "tuning.journal")


def test_a_missing_optuna_is_named(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "nosbench_env.postprocessing.tuning.find_spec", lambda name: None if name == "optuna" else find(name)
    )
    with pytest.raises(ValueError, match=r"pip install 'nosbench_env\[tune\]'"):
        tune(PROGRAM, Evaluator(oracle, 1, (0,)), (5,))
