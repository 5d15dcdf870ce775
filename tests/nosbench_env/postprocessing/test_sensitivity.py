import json

import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program
from nosbench_env.candidates.tuned_program import ConstantUse
from nosbench_env.postprocessing import Evaluator, Sweep, lr_scale, sensitivity

SGD = Program.parse("r12 = exp(0.1); r9 = mul(grad, 0.01)")


def test_a_constant_multiplied_is_another_hyperparameter(oracle: Oracle) -> None:
    (sweep,) = sensitivity(SGD, Evaluator(oracle, 2, (0, 1)), (0.3, 10.0))
    assert (sweep.use, sweep.value, sweep.factors) == (ConstantUse(2, 2), 0.01, (0.3, 1.0, 10.0))
    for factor, losses in zip(sweep.factors, sweep.losses, strict=True):
        for seed, loss in enumerate(losses):
            curve = oracle.task.train(lambda params: torch.optim.SGD(params, lr=0.01 * factor), 2, seed)  # noqa: B023
            assert loss == pytest.approx(curve.epoch_means[-1], abs=1e-6)
    assert sweep.best == 10.0
    assert sweep.gain.verdict == "better"
    data = sweep.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["best_factor"] == 10.0


def test_lr_multiplies_the_update(oracle: Oracle) -> None:
    sweep = lr_scale(SGD, Evaluator(oracle, 1, (0,)), (0.25, 4.0))
    assert (sweep.use, sweep.value, sweep.factors) == (None, 1.0, (0.25, 1.0, 4.0))
    for factor, (loss,) in zip(sweep.factors, sweep.losses, strict=True):
        curve = oracle.task.train(lambda params: torch.optim.SGD(params, lr=0.01 * factor), 1)  # noqa: B023
        assert loss == pytest.approx(curve.epoch_means[-1], abs=1e-6)


def test_each_use_of_a_constant_has_a_curve_of_its_own_through_the_same_middle(oracle: Oracle) -> None:
    program = KNOWN_PROGRAMS["HeroLion"]
    sweeps = sensitivity(program, Evaluator(oracle, 1, (0,)), (3,))
    assert [str(sweep.use) for sweep in sweeps] == ["1.1", "1.2", "2.1", "2.2", "7.2", "9.2"]
    assert {sweep.losses[0] for sweep in sweeps} == {sweeps[0].losses[0]}
    assert oracle.query(program, 1).loss == sweeps[0].losses[0][0]
    assert oracle.statistics.trained == 7


def test_the_best_is_the_nearest_to_one_of_equals_and_never_one_that_diverges() -> None:
    nan = float("nan")
    assert Sweep(None, 1.0, (0.1, 1.0, 3.0, 10.0), ((0.5,), (0.5,), (0.5,), (nan,))).best == 1.0
    assert Sweep(None, 1.0, (0.1, 1.0, 3.0), ((0.4,), (0.5,), (0.4,))).best == 3.0


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf"), "2", True])
def test_factors_are_positive_numbers(oracle: Oracle, factor: float) -> None:
    for sweep in (sensitivity, lr_scale):
        with pytest.raises(ValueError, match="factors must be positive, finite numbers"):
            sweep(SGD, Evaluator(oracle, 1, (0,)), (factor,))


def test_a_program_without_constants_has_no_curve(oracle: Oracle) -> None:
    assert sensitivity(Program.parse("r9 = sign(grad)"), Evaluator(oracle, 1, (0,))) == []


def test_a_diverging_program_has_nothing_to_compare_with(oracle: Oracle) -> None:
    for sweep in (sensitivity, lr_scale):
        with pytest.raises(ValueError, match="nothing to compare with"):
            sweep(Program.parse("r9 = log(r9); r9 = mul(r9, 0.1)"), Evaluator(oracle, 1, (0,)))
