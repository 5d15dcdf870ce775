"""Replacements: programs with an instruction replaced by an input, or removed."""

from __future__ import annotations

from dataclasses import dataclass

from nosbench_env.language.canonical import CanonicalForm, canonical_form
from nosbench_env.language.live_code import live_places
from nosbench_env.language.program import CONSTANTS, SLOT_NAMES, Instruction, Program, check_program

_ONE = next(slot for slot, value in CONSTANTS.items() if value == 1.0)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A program without one of its instructions.

    Attributes:
        line: Number of the instruction, counted from 1.
        instruction: The instruction.
        slot: The input that replaces its value; None if it is removed. Then its readers get the former value of the
            slot, or 0, and without the last instruction the update is the value of the one before.
        program: The remaining program, simplified.
    """

    line: int
    instruction: Instruction
    slot: int | None
    program: Program

    @property
    def by(self) -> str:
        """The replacement of the instruction's value, in words."""
        return "nothing" if self.slot is None else SLOT_NAMES[self.slot]


def replacements(program: Program) -> list[Replacement]:
    """Returns all ways to remove a live instruction, in line order.

    Equal results of a line are returned once. Some replacements may change nothing, such as that of a product with 1.

    >>> for way in replacements(Program.parse("r9 = sign(grad); r10 = mul(r9, 0.1)")):
    ...     print(way.line, "by", way.by, "gives", repr(way.program))
    1 by grad gives Program.parse('r10 = mul(grad, 0.1)')
    1 by nothing gives Program.parse('')
    2 by r9 gives Program.parse('r9 = sign(grad)')
    2 by 0.1 gives Program.parse('r10 = mul(0.1, 1.0)')

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    ways = []
    for index in live_places(check_program(program))[0]:
        instruction = program[index]
        seen: set[CanonicalForm] = set()
        for slot in (*dict.fromkeys(instruction.inputs), None):
            # A product with 1 is an exact copy, even of a slot that is overwritten before it is read.
            copy = () if slot is None else (Instruction("mul", (slot, _ONE), instruction.output),)
            changed = Program((*program.instructions[:index], *copy, *program.instructions[index + 1 :]))
            if (form := canonical_form(changed)) not in seen:
                seen.add(form)
                ways.append(Replacement(index + 1, instruction, slot, without_copies(changed.simplified())))
    return ways


def without_copies(program: Program) -> Program:
    """Removes products with 1 that only copy a value to another slot.

    The instruction that computes the value writes it there directly, if that gives the same canonical form.

    >>> print(without_copies(Program.parse("r9 = add(r10, grad); r10 = mul(r9, 1.0); r11 = sign(r9)")))
    r10 = add(r10, grad)
    r11 = sign(r10)
    """
    form = canonical_form(program)
    for place, instruction in enumerate(program):
        if instruction.function == "mul" and _ONE in instruction.inputs:
            shorter = _written_directly(program, place)
            if shorter is not None and canonical_form(shorter) == form:
                return without_copies(shorter)
    return program


def _written_directly(program: Program, place: int) -> Program | None:
    """Returns the program without the copy at a place.

    It is None if no earlier instruction writes the copied value.
    """
    copy = program[place]
    source = next((slot for slot in copy.inputs if slot != _ONE), _ONE)
    origin = next((index for index in range(place - 1, -1, -1) if program[index].output == source), None)
    if origin is None:
        return None
    moved = Instruction(program[origin].function, program[origin].inputs, copy.output)
    changed, holds = [*program.instructions[:origin], moved], True
    for index, later in enumerate(program.instructions[origin + 1 :], start=origin + 1):
        if index != place:
            inputs = tuple(copy.output if holds and slot == source else slot for slot in later.inputs)
            changed.append(Instruction(later.function, inputs, later.output))
            holds = holds and later.output != source
    return Program(tuple(changed))
