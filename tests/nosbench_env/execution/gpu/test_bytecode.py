import re
from pathlib import Path

import pytest

from nosbench_env import Program
from nosbench_env.execution.gpu import bytecode
from nosbench_env.execution.gpu.bytecode import (
    MAX_REGISTERS,
    MAX_SCALARS,
    OPCODES,
    REDUCTION_CODES,
    TooLarge,
    bytecodes,
)
from nosbench_env.language.program import Instruction

KERNELS = Path(bytecode.__file__).with_name("interpreter.cu").read_text()


def enum(name: str) -> list[str]:
    body = re.search(rf"enum {name} {{(.*?)}}", KERNELS, re.DOTALL)
    assert body is not None
    return [member.strip().lower() for member in body.group(1).split(",")]


def test_the_kernels_number_operations_as_the_bytecode_does() -> None:
    assert enum("Opcode") == list(OPCODES)
    assert enum("ReductionKind") == [f"reduce_{name}" for name in REDUCTION_CODES]
    for codes in (OPCODES, REDUCTION_CODES):
        assert list(codes.values()) == list(range(len(codes)))


def test_the_kernels_have_room_for_all_registers_and_scalars() -> None:
    assert f"#define MAX_REGISTERS {MAX_REGISTERS}\n" in KERNELS
    assert f"#define MAX_SCALARS {MAX_SCALARS}\n" in KERNELS


def test_each_level_of_reductions_takes_a_launch() -> None:
    levels = {"r9 = mul(grad, 0.1)": 1, "r9 = norm(grad); r9 = div(grad, r9)": 2}
    levels["r9 = norm(grad); r9 = div(grad, r9); r10 = std(r9); r9 = mul(r9, r10)"] = 3
    for text, expected in levels.items():
        assert [code.num_levels for code in bytecodes(Program.parse(text))] == [expected], text


def test_bytecode_of_a_huge_program_is_refused_by_name() -> None:
    # As many different scalars of a step as do not fit: step + 1, step + 2, ...
    instructions = [Instruction("add", (2, 3), 9)] + [Instruction("add", (9, 3), 9) for _ in range(MAX_SCALARS)]
    program = Program((*instructions, Instruction("mul", (9, 1), 10)))
    with pytest.raises(TooLarge, match=f"more than {MAX_SCALARS} scalars"):
        bytecodes(program)
