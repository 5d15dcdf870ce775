"""Replacements: a program in which an instruction's value is one of its inputs, or in which it is missing."""

from __future__ import annotations

from dataclasses import dataclass

from nosbench_env.canonical import CanonicalForm, canonical_form
from nosbench_env.compiled.lowering import live_places
from nosbench_env.program import CONSTANTS, SLOT_NAMES, Instruction, Program, check_program

_ONE = next(slot for slot, value in CONSTANTS.items() if value == 1.0)


@dataclass(frozen=True, slots=True)
class Replacement:
    """A program without one of its instructions.

    Attributes:
        line: The instruction, counted from 1.
        instruction: What it was.
        slot: The input that stands for its value now; None if it is just missing: then its readers get what the slot
            held before, 0 if nothing, and without the last instruction the update is the value of the one before.
        program: What remains, simplified.
    """

    line: int
    instruction: Instruction
    slot: int | None
    program: Program

    @property
    def by(self) -> str:
        """What stands for the instruction's value, in words."""
        return "nothing" if self.slot is None else SLOT_NAMES[self.slot]


def replacements(program: Program) -> list[Replacement]:
    """All ways to do without one of the live instructions, line after line, but for those that change nothing.

    Of several that come to the same at one line there is one.

    >>> for found in replacements(Program.parse("r9 = sign(grad); r10 = mul(r9, 0.1)")):
    ...     print(found.line, "by", found.by, "gives", repr(found.program))
    1 by grad gives Program.parse('r10 = mul(grad, 0.1)')
    1 by nothing gives Program.parse('')
    2 by r9 gives Program.parse('r9 = sign(grad)')
    2 by 0.1 gives Program.parse('r10 = mul(0.1, 1.0)')

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    own = canonical_form(check_program(program))
    found = []
    for index in live_places(program)[0]:
        instruction = program[index]
        seen: set[CanonicalForm] = {own}
        for slot in (*dict.fromkeys(instruction.inputs), None):
            # A product with 1 is a copy to the last bit, also of what is overwritten before it is read.
            copy = () if slot is None else (Instruction("mul", (slot, _ONE), instruction.output),)
            changed = Program((*program.instructions[:index], *copy, *program.instructions[index + 1 :]))
            if (form := canonical_form(changed)) not in seen:
                seen.add(form)
                found.append(Replacement(index + 1, instruction, slot, changed.simplified()))
    return found
