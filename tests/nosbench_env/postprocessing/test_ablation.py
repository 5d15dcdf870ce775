import json

import pytest

from nosbench_env import Oracle, Program
from nosbench_env.postprocessing import Evaluator, ablate

# Momentum, and a weight decay that its learning rate makes nearly nothing.
PROGRAM = Program.parse("""
    r9 = sub(1.0, 0.1)
    r12 = exp(step)
    r10 = interpolate(r10, grad, r9)
    r11 = mul(param, 1e-6)
    r10 = add(r10, r11)
    r13 = mul(r10, 0.1)
""")


def test_each_live_instruction_is_measured_by_what_best_stands_for_it(oracle: Oracle) -> None:
    evaluator = Evaluator(oracle, 1, (0, 1))
    found = ablate(PROGRAM, evaluator)
    assert [effect.line for effect in found.effects] == [1, 3, 4, 5, 6]
    for effect in found.effects:
        assert effect.instruction == PROGRAM[effect.line - 1]
        sure = [variant.change.verdict in ("better", "the same") for variant in effect.variants]
        means = [variant.change.mean for variant in effect.variants]
        assert sure == sorted(sure, reverse=True)
        assert means[: sum(sure)] == sorted(means[: sum(sure)])
        assert means[sum(sure) :] == sorted(means[sum(sure) :])
        assert effect.change == effect.variants[0].change
        for variant in effect.variants:
            (losses,) = evaluator.losses([variant.replacement.program])
            assert tuple(losses) == variant.losses
            expected = [after - before for after, before in zip(losses, found.losses, strict=True)]
            assert variant.change.differences == tuple(expected)


def test_what_matters_is_told_from_what_does_not(oracle: Oracle) -> None:
    effects = {effect.line: effect for effect in ablate(PROGRAM, Evaluator(oracle, 3, (0, 1))).effects}
    decay, rate = effects[4].change, effects[6]
    assert abs(decay.mean) < 1e-4
    constant = next(variant for variant in rate.variants if variant.replacement.by == "0.1")
    assert constant.change.verdict.startswith("worse")
    assert constant.change.mean > 0.1


def test_an_instruction_that_only_repeats_a_value_is_worth_nothing(oracle: Oracle) -> None:
    program = Program.parse("r9 = mul(grad, 1.0); r10 = mul(r9, 0.1)")
    first, second = ablate(program, Evaluator(oracle, 1, (0,))).effects
    assert (first.line, first.change.verdict, first.variants[0].replacement.by) == (1, "the same", "grad")
    assert second.change.verdict != "the same"


def test_what_was_known_is_not_trained_again(oracle: Oracle) -> None:
    evaluator = Evaluator(oracle, 1, (0,))
    first = ablate(PROGRAM, evaluator)
    trained = oracle.statistics.trained
    assert ablate(PROGRAM, evaluator) == first
    assert oracle.statistics.trained == trained


def test_it_is_json_data(oracle: Oracle) -> None:
    program = Program.parse("r9 = sub(grad, grad); r9 = exp(r9); r10 = div(grad, r9)")
    data = ablate(program, Evaluator(oracle, 1, (0, 1))).to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert any(v["change"]["verdict"] == "diverges" for i in data["instructions"] for v in i["variants"])


def test_a_diverging_program_has_nothing_to_compare_with(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="nothing to compare with"):
        ablate(Program.parse("r9 = log(r9); r9 = mul(r9, r10)"), Evaluator(oracle, 1, (0,)))


def test_the_empty_program_has_no_instructions(oracle: Oracle) -> None:
    assert ablate(Program(), Evaluator(oracle, 1, (0,))).effects == ()
