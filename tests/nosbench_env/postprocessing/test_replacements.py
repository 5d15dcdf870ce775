import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS, Program, ProgramOptimizer, canonical_form
from nosbench_env.language.live_code import live_places
from nosbench_env.language.program import CONSTANTS
from nosbench_env.postprocessing import Replacement, replacements
from nosbench_env.postprocessing.replacements import without_copies


def gradients(steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, generator=generator) for _ in range(steps)]


def by_definition(program: Program, line: int, slot: int | None, steps: int = 4) -> torch.Tensor:
    """The parameters after each step of a program in which an instruction's value is that of a slot, or missing."""
    param = torch.linspace(-1.0, 1.0, 6)
    kept: dict[int, torch.Tensor] = {}
    found = []
    for step, grad in enumerate(gradients(steps), start=1):
        memory = {0: param, 1: grad, 2: torch.tensor(float(step))}
        memory |= {slot: torch.tensor(value) for slot, value in CONSTANTS.items()} | kept
        update = torch.tensor(0.0)
        for number, instruction in enumerate(program, start=1):
            inputs = [memory.get(read, torch.tensor(0.0)) for read in instruction.inputs]
            if number != line:
                update = memory[instruction.output] = FUNCTIONS[instruction.function](*inputs)
            elif slot is not None:
                update = memory[instruction.output] = memory.get(slot, torch.tensor(0.0))
        kept = {slot: value for slot, value in memory.items() if slot >= 9}
        param = param - update
        found.append(param)
    return torch.stack(found)


def as_trained(program: Program, steps: int = 4) -> torch.Tensor:
    param = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 6))
    optimizer = ProgramOptimizer([param], program)
    found = []
    for grad in gradients(steps):
        param.grad = grad
        optimizer.step()
        found.append(param.detach().clone())
    return torch.stack(found)


def check(program: Program, found: Replacement) -> None:
    expected = by_definition(program, found.line, found.slot)
    torch.testing.assert_close(as_trained(found.program), expected, rtol=1e-6, atol=1e-7, equal_nan=True)
    assert found.instruction == program[found.line - 1]


@given(programs(max_size=12), st.data())
@settings(max_examples=60)
def test_what_remains_does_what_the_program_without_the_instruction_does(program: Program, data: st.DataObject) -> None:
    if every := replacements(program):
        check(program, data.draw(st.sampled_from(every)))


def test_known_programs_without_each_instruction_in_every_way() -> None:
    for program in KNOWN_PROGRAMS.values():
        found = replacements(program)
        for replacement in found:
            check(program, replacement)
            assert len(replacement.program) <= len(program)
        ways = {(replacement.line, replacement.slot) for replacement in found}
        assert len(ways) == len(found)
        assert {line for line, _ in ways} <= {place + 1 for place in live_places(program)[0]}


def test_each_way_is_there_once() -> None:
    program = Program.parse("r12 = exp(step); r9 = sign(grad); r10 = interpolate(r9, r9, 0.1); r11 = mul(r10, 0.1)")
    found = [(replacement.line, replacement.by, str(replacement.program)) for replacement in replacements(program)]
    assert found == [
        (2, "grad", "r10 = interpolate(grad, grad, 0.1)\nr11 = mul(r10, 0.1)"),
        (2, "nothing", ""),
        (3, "r9", "r9 = sign(grad)\nr11 = mul(r9, 0.1)"),
        (3, "0.1", "r11 = mul(0.1, 0.1)"),
        (3, "nothing", ""),
        (4, "r10", "r9 = sign(grad)\nr10 = interpolate(r9, r9, 0.1)"),
        (4, "0.1", "r11 = mul(0.1, 1.0)"),
    ]
    assert replacements(Program()) == []


@given(programs(max_size=12))
@settings(max_examples=60)
def test_copies_go_and_nothing_else_changes(program: Program) -> None:
    short = without_copies(program)
    assert len(short) <= len(program)
    assert canonical_form(short) == canonical_form(program)


def test_a_copy_that_is_needed_stays() -> None:
    """The old value of r9 is still read after the new one is known."""
    program = Program.parse("r9 = add(r10, grad); r11 = mul(r9, r10); r10 = mul(r9, 1.0); r12 = mul(r11, 0.1)")
    assert without_copies(program) == program
