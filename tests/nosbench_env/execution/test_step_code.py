import torch
from hypothesis import given
from strategies import any_programs

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.execution.step_code import step_codes
from nosbench_env.language.live_code import Kind, carried_slots


def ops(text: str) -> list[str]:
    return [node.op for node in step_codes(Program.parse(text)).steps[-1].nodes]


def test_what_does_not_reach_the_update_is_gone() -> None:
    assert ops("r9 = exp(grad); r10 = mul(r9, r9); r11 = sin(param)") == ["param", "sin"]
    assert ops("r9 = add(r9, 1.0); r10 = sign(grad)") == ["grad", "sign"]  # r9 counts on, for nobody
    assert "square" in ops("r9 = square(grad); r10 = mul(r11, 0.1); r11 = add(r9, 1.0); r12 = mul(r10, 1.0)")


def test_constants_are_folded_and_equal_values_computed_once() -> None:
    (code,) = step_codes(Program.parse("r9 = sub(1.0, 0.1); r10 = sub(1.0, 0.1); r11 = mul(r9, r10)")).steps
    assert [node.op for node in code.nodes] == ["const"]
    assert code.nodes[0].detail == (torch.tensor(1.0) - torch.tensor(0.1)).square().item()
    assert ops("r9 = square(grad); r10 = square(grad); r11 = add(r9, r10)") == ["grad", "square", "add"]


def test_signed_zeros_and_nan_stay_apart() -> None:
    # -0.0 = 0 * (0 - 1): 1 / -0.0 is -inf
    (code,) = step_codes(Program.parse("r10 = sub(r15, 1.0); r10 = mul(r15, r10); r11 = div(1.0, r10)")).steps
    assert [node.detail for node in code.nodes] == [float("-inf")]
    (code,) = step_codes(Program.parse("r9 = div(r15, r15); r10 = add(r9, grad)")).steps
    assert any(node.detail != node.detail for node in code.nodes)


def test_kinds_grow_from_step_to_step_until_they_stay() -> None:
    codes = step_codes(
        Program.parse("r11 = mul(r10, 1.0); r10 = add(r9, 0.1); r9 = square(grad); r12 = mul(r11, 0.01)")
    )
    kinds = [code.kinds_before for code in codes.steps]
    assert kinds == [
        {9: Kind.STEP, 10: Kind.STEP},
        {9: Kind.ARRAY, 10: Kind.STEP},
        {9: Kind.ARRAY, 10: Kind.ARRAY},
    ]
    assert codes.at(1) is codes.steps[0]
    assert codes.at(1000) is codes.steps[-1]


def test_reductions_of_scalars_are_scalars() -> None:
    assert "std" not in ops("r9 = std(step); r10 = add(grad, r9)")
    assert ops("r9 = mean(step)") == ["step", "const", "add"]  # + 0, for the sign of -0
    assert ops("r9 = size(step)") == ["const"]
    assert ops("r9 = size(grad)") == ["numel"]


def test_which_programs_read_the_gradient() -> None:
    for name, program in KNOWN_PROGRAMS.items():
        assert step_codes(program).reads_gradient, name
    assert not step_codes(Program.parse("r9 = square(grad); r10 = mul(param, 0.01)")).reads_gradient
    assert not step_codes(Program.parse("r9 = size(grad)")).reads_gradient  # the size is known without it
    assert not step_codes(Program()).reads_gradient
    # Only the second step's update has it: it comes through a slot.
    assert step_codes(Program.parse("r10 = mul(r9, 0.1); r9 = add(grad, 1.0); r11 = mul(r10, 1.0)")).reads_gradient


@given(any_programs())
def test_any_program_gives_code_in_order(program: Program) -> None:
    codes = step_codes(program)
    assert len(codes.steps) <= 2 + 2 * len(carried_slots(program))
    for before, after in zip(codes.steps, codes.steps[1:], strict=False):
        assert before.kinds_after == after.kinds_before
    code = codes.steps[-1]
    assert code.kinds_after == code.kinds_before
    for index, node in enumerate(code.nodes):
        assert all(source < index for source in node.inputs)
