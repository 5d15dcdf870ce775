import math

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program
from nosbench_env.candidates.tuned_program import ConstantUse, TunedProgram
from nosbench_env.postprocessing import Change, Evaluator

SGD = Program.parse("r9 = mul(grad, 0.01)")
DIES = Program.parse("r9 = log(r9); r9 = mul(r9, r10)")


def test_losses_are_those_of_the_oracle_at_each_seed(oracle: Oracle) -> None:
    told = []
    evaluator = Evaluator(oracle, 2, (0, 3), lambda done, asked: told.append((done, asked)))
    tuned, candidates = TunedProgram(SGD, lr=0.5), [SGD, TunedProgram(SGD, lr=0.5), KNOWN_PROGRAMS["Adam"], DIES, SGD]
    losses = evaluator.losses(candidates)
    curves = evaluator.curves(candidates)
    assert losses.shape == (5, 2)
    assert curves.shape == (5, 2, 2)
    for column, seed in enumerate((0, 3)):
        assert oracle.query(SGD, 2, seed).curve == tuple(curves[0, column])
        assert oracle.query(tuned, 2, seed).loss == losses[1, column]
    np.testing.assert_array_equal(curves[:, :, -1], losses)
    assert np.isnan(losses[3]).all()
    assert told[-1] == (20, 20)
    assert told == sorted(told)


def test_a_tuned_program_of_the_language_is_a_program(oracle: Oracle) -> None:
    evaluator = Evaluator(oracle, 1, [0])
    evaluator.losses([Program.parse("r9 = mul(grad, 0.1)"), TunedProgram(SGD, {ConstantUse(1, 2): 0.1})])
    assert oracle.statistics.trained == 1


def test_epochs_are_the_tasks_unless_named(oracle: Oracle) -> None:
    assert Evaluator(oracle).epochs == 20
    assert Evaluator(oracle).at([7]).seeds == (7,)


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (True,)])
def test_seeds_must_be_some(oracle: Oracle, seeds: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, TypeError), match="seed"):
        Evaluator(oracle, 1, seeds)


def change(*differences: float) -> Change:
    return Change.between(np.full(len(differences), 0.5), 0.5 + np.array(differences))


def test_the_interval_is_students() -> None:
    found = change(0.1, 0.2, 0.3)
    assert found.mean == pytest.approx(0.2)
    assert found.deviation == pytest.approx(0.1)
    assert found.margin == pytest.approx(4.302653 * 0.1 / math.sqrt(3))  # from a table of t, two degrees of freedom
    assert str(found) == "+0.2000 ±0.2484"


@pytest.mark.parametrize(
    ("differences", "verdict", "text"),
    [
        ((0.0, 0.0), "the same", "+0.0000 ±0.0000"),
        ((0.30, 0.31, 0.32), "worse", "+0.3100 ±0.0248"),
        ((-0.30, -0.31, -0.32), "better", "-0.3100 ±0.0248"),
        ((0.1, 0.2, 0.9), "worse at each seed", "+0.4000 ±1.0828"),
        ((-0.1, -0.2, -0.9), "better at each seed", "-0.4000 ±1.0828"),
        ((0.1, -0.2, 0.9), "unclear", "+0.2667 ±1.4125"),
        ((0.1,), "worse at each seed", "+0.1000"),
        ((1e-6, -2e-6), "unclear", "-5e-07 ±1.9e-05"),
        ((1e6, 2e6), "worse at each seed", "+1.5e+06 ±6.4e+06"),
        ((0.1, math.nan, math.inf), "diverges", "diverges (2 of 3)"),
    ],
)
def test_a_change_is_put_in_words(differences: tuple[float, ...], verdict: str, text: str) -> None:
    found = change(*differences)
    assert found.verdict == verdict
    assert str(found) == text
    data = found.to_json()
    assert data["verdict"] == verdict
    assert all(value is None or math.isfinite(value) for value in (data["mean"], data["margin_95"]))


def test_there_must_be_something_to_compare_with() -> None:
    with pytest.raises(ValueError, match="nothing to compare with"):
        Change.between(np.array([0.5, math.nan]), np.array([0.5, 0.5]))
