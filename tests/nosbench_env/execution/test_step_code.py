from pathlib import Path

import pytest
import torch
from hypothesis import given
from strategies import any_programs

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.execution.gpu import bytecode
from nosbench_env.execution.gpu.bytecode import MAX_REGISTERS, MAX_SCALARS, TooLarge, assemble
from nosbench_env.execution.stages import schedule
from nosbench_env.execution.step_code import lower
from nosbench_env.language.live_code import Kind, carried_slots
from nosbench_env.language.program import Instruction


def ops(text: str) -> list[str]:
    return [node.op for node in lower(Program.parse(text)).steps[-1].nodes]


def test_what_does_not_reach_the_update_is_gone() -> None:
    assert ops("r9 = exp(grad); r10 = mul(r9, r9); r11 = sin(param)") == ["param", "sin"]
    assert ops("r9 = add(r9, 1.0); r10 = sign(grad)") == ["grad", "sign"]  # r9 counts on, for nobody
    assert "square" in ops("r9 = square(grad); r10 = mul(r11, 0.1); r11 = add(r9, 1.0); r12 = mul(r10, 1.0)")


def test_carried_slots_are_those_that_the_next_step_reads() -> None:
    assert carried_slots(KNOWN_PROGRAMS["AdamW"]) == (12, 13)
    assert carried_slots(Program.parse("r9 = mul(grad, 0.01)")) == ()
    assert carried_slots(Program.parse("r9 = add(r10, r11); r10 = mul(r9, r12)")) == (10,)  # r11, r12: always 0
    # r9 is read through r10, a step later each time
    assert carried_slots(
        Program.parse("r11 = mul(r10, 1.0); r10 = add(r9, 0.1); r9 = add(r9, grad); r9 = mul(r11, 1.0)")
    ) == (9, 10)
    assert carried_slots(Program()) == ()


def test_constants_are_folded_and_equal_values_computed_once() -> None:
    (code,) = lower(Program.parse("r9 = sub(1.0, 0.1); r10 = sub(1.0, 0.1); r11 = mul(r9, r10)")).steps
    assert [node.op for node in code.nodes] == ["const"]
    assert code.nodes[0].detail == (torch.tensor(1.0) - torch.tensor(0.1)).square().item()
    assert ops("r9 = square(grad); r10 = square(grad); r11 = add(r9, r10)") == ["grad", "square", "add"]


def test_signed_zeros_and_nan_stay_apart() -> None:
    # -0.0 = 0 * (0 - 1): 1 / -0.0 is -inf
    (code,) = lower(Program.parse("r10 = sub(r15, 1.0); r10 = mul(r15, r10); r11 = div(1.0, r10)")).steps
    assert [node.detail for node in code.nodes] == [float("-inf")]
    (code,) = lower(Program.parse("r9 = div(r15, r15); r10 = add(r9, grad)")).steps
    assert any(node.detail != node.detail for node in code.nodes)


def test_kinds_grow_from_step_to_step_until_they_stay() -> None:
    lowered = lower(Program.parse("r11 = mul(r10, 1.0); r10 = add(r9, 0.1); r9 = square(grad); r12 = mul(r11, 0.01)"))
    kinds = [dict(code.signature) for code in lowered.steps]
    assert kinds == [
        {9: Kind.STEP, 10: Kind.STEP},
        {9: Kind.ARRAY, 10: Kind.STEP},
        {9: Kind.ARRAY, 10: Kind.ARRAY},
    ]
    assert lowered.at(1) is lowered.steps[0]
    assert lowered.at(1000) is lowered.steps[-1]


def test_reductions_of_scalars_are_scalars() -> None:
    assert "std" not in ops("r9 = std(step); r10 = add(grad, r9)")
    assert ops("r9 = mean(step)") == ["step", "const", "add"]  # + 0, for the sign of -0
    assert ops("r9 = size(step)") == ["const"]
    assert ops("r9 = size(grad)") == ["numel"]


def test_which_programs_read_the_gradient() -> None:
    for name, program in KNOWN_PROGRAMS.items():
        assert lower(program).reads_gradient, name
    assert not lower(Program.parse("r9 = square(grad); r10 = mul(param, 0.01)")).reads_gradient
    assert not lower(Program.parse("r9 = size(grad)")).reads_gradient  # the size is known without it
    assert not lower(Program()).reads_gradient
    # Only the second step's update has it: it comes through a slot.
    assert lower(Program.parse("r10 = mul(r9, 0.1); r9 = add(grad, 1.0); r11 = mul(r10, 1.0)")).reads_gradient


@given(any_programs())
def test_any_program_is_lowered_to_code_in_order(program: Program) -> None:
    lowered = lower(program)
    assert len(lowered.steps) <= 2 + 2 * len(carried_slots(program))
    for before, after in zip(lowered.steps, lowered.steps[1:], strict=False):
        assert before.next_signature == after.signature
    code = lowered.steps[-1]
    assert code.next_signature == code.signature
    for index, node in enumerate(code.nodes):
        assert all(source < index for source in node.inputs)
    computed = [i for stage in schedule(code) for i in (*stage.scalars, *stage.fused, *stage.barriers)]
    assert sorted(computed) == [index for index, node in enumerate(code.nodes) if node.inputs]


def test_bytecode_of_a_huge_program_is_refused_by_name() -> None:
    # As many different scalars of a step as do not fit: step + 1, step + 2, ...
    instructions = [Instruction("add", (2, 3), 9)] + [Instruction("add", (9, 3), 9) for _ in range(MAX_SCALARS)]
    program = Program((*instructions, Instruction("mul", (9, 1), 10)))
    with pytest.raises(TooLarge, match=f"more than {MAX_SCALARS} scalars"):
        assemble(program)


def test_the_kernels_have_room_for_what_the_bytecode_may_use() -> None:
    source = Path(bytecode.__file__).with_name("interpreter.cu").read_text()
    assert f"#define MAX_REGISTERS {MAX_REGISTERS}\n" in source
    assert f"#define MAX_SCALARS {MAX_SCALARS}\n" in source
