import numpy as np

from nosbench_env import KNOWN_PROGRAMS, Program, canonical_form
from nosbench_env.identity.probe_code import ProbeCode
from nosbench_env.identity.probe_machine import OPCODES

UPDATE = OPCODES["update"]
ADAMW = canonical_form(KNOWN_PROGRAMS["AdamW"])


def ops(code: ProbeCode, step: int) -> list[str]:
    names = {number: name for name, number in OPCODES.items()}
    return [names[op] for op in code.code[code.starts[step] : code.ends[step], 0]]


def test_each_step_ends_with_its_one_update() -> None:
    code = ProbeCode(ADAMW, 10)
    for start, end in zip(code.starts, code.ends, strict=True):
        assert [row[0] for row in code.code[start:end]].index(UPDATE) == end - start - 1


def test_skipped_steps_have_no_code() -> None:
    code = ProbeCode(ADAMW, 10)
    ends = code.without(slice(2, 4), slice(8, 10))
    skipped = [2, 3, 8, 9]
    assert (ends[skipped] == code.starts[skipped]).all()
    others = np.delete(np.arange(10), skipped)
    assert (ends[others] == code.ends[others]).all()


def test_a_reduction_of_a_slot_is_one_as_soon_as_the_slot_holds_an_array() -> None:
    # r9 is the scalar 0 before the first step, and the gradient's square afterwards.
    code = ProbeCode(canonical_form(Program.parse("r10 = norm(r9); r9 = square(grad); r11 = add(r10, grad)")), 4)
    assert [ops(code, step).count("norm") for step in range(4)] == [0, 1, 1, 1]


def test_registers_hold_constants_and_sizes() -> None:
    form = canonical_form(Program.parse("r9 = size(grad); r9 = mul(r9, 0.5); r9 = mul(grad, r9)"))
    code = ProbeCode(form, 4)
    registers = code.registers(16, np.full(16, 300.0), np.float64)
    assert registers.shape == (code.num_rows, 16)
    assert 300.0 in registers
    assert set(code.constants.values()) == {0.5}
    for row, value in code.constants.items():
        assert (registers[row] == value).all()
