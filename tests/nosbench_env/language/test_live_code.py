import pytest
import torch
from hypothesis import given
from strategies import any_programs

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.language.live_code import Kind, apply, carried_slots, live_code, live_places, result_kind, scalar


def test_carried_slots_are_those_that_the_next_step_reads() -> None:
    assert carried_slots(KNOWN_PROGRAMS["AdamW"]) == (12, 13)
    assert carried_slots(Program.parse("r9 = mul(grad, 0.01)")) == ()
    assert carried_slots(Program.parse("r9 = add(r10, r11); r10 = mul(r9, r12)")) == (10,)  # r11, r12: always 0
    # r9 is read through r10, a step later each time
    assert carried_slots(
        Program.parse("r11 = mul(r10, 1.0); r10 = add(r9, 0.1); r9 = add(r9, grad); r9 = mul(r11, 1.0)")
    ) == (9, 10)
    assert carried_slots(Program()) == ()


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("r9 = exp(step); r10 = mul(grad, 0.1)", (1,)),
        ("r9 = sign(grad); r9 = mul(grad, 0.1)", (1,)),  # overwritten
        ("r9 = sign(grad); r10 = mul(r9, 0.1)", (0, 1)),
        ("r10 = mul(r9, 0.1); r9 = sign(grad); r11 = mul(r10, 1.0)", (0, 1, 2)),  # read in the next step
        ("r12 = exp(r13); r13 = add(r12, param); r9 = mul(grad, 0.1)", (2,)),  # read by dead code only
        ("", ()),
    ],
)
def test_live_code_reaches_an_update(text: str, places: tuple[int, ...]) -> None:
    assert live_places(Program.parse(text))[0] == places


@given(any_programs())
def test_live_code_is_all_live(program: Program) -> None:
    code, carried = live_code(program)
    places, also_carried = live_places(program)
    assert code == tuple(program[place] for place in places)
    assert carried == also_carried == carried_slots(program)
    assert live_code(Program(code)) == (code, carried)


@pytest.mark.parametrize(
    ("op", "inputs", "kind"),
    [
        ("add", [Kind.CONST, Kind.CONST], Kind.CONST),
        ("add", [Kind.STEP, Kind.CONST], Kind.STEP),
        ("mul", [Kind.TENSOR, Kind.ARRAY], Kind.ARRAY),
        ("norm", [Kind.ARRAY], Kind.TENSOR),
        ("size", [Kind.ARRAY], Kind.TENSOR),
        ("mean", [Kind.STEP], Kind.STEP),
    ],
)
def test_results_have_the_greatest_kind_unless_they_are_reduced(op: str, inputs: list[Kind], kind: Kind) -> None:
    assert result_kind(op, inputs) == kind


def test_constants_are_computed_in_float32() -> None:
    assert apply("sub", scalar(1.0), scalar(0.1)).item() == torch.tensor(0.9).item() != 0.9
    assert apply("pow", scalar(2.0), scalar(3.0)).item() == 8.0
