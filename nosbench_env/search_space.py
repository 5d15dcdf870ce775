"""The search space: which programs a search may propose, how they are drawn, changed and written as actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.functions import FUNCTIONS
from nosbench_env.program import (
    FIRST_WRITABLE_SLOT,
    MAX_INSTRUCTIONS,
    MAX_SLOTS,
    Instruction,
    InvalidProgram,
    Program,
)

FUNCTION_NAMES = tuple(FUNCTIONS)
STOP = len(FUNCTION_NAMES)  # the function number of the action that ends a program
MAX_ARITY = max(function.arity for function in FUNCTIONS.values())
_ACTION_SHAPE = (2 + MAX_ARITY,)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The programs of 1 to `max_instructions` instructions over `memory_size` slots.

    The defaults are the paper's (Appendix F). Nothing the space draws or changes ever leaves it.

    Raises:
        ValueError: If a bound is out of the language's range.

    >>> space = SearchSpace()
    >>> program = space.sample(np.random.default_rng(0))
    >>> program in space and space.mutate(program, np.random.default_rng(0)) in space
    True
    """

    max_instructions: int = 20
    memory_size: int = 20

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_instructions", 1, MAX_INSTRUCTIONS),
            ("memory_size", FIRST_WRITABLE_SLOT + 1, MAX_SLOTS),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r}")

    def __contains__(self, program: object) -> bool:
        return (
            isinstance(program, Program)
            and 1 <= len(program) <= self.max_instructions
            and all(slot < self.memory_size for i in program for slot in (*i.inputs, i.output))
        )

    def sample(self, rng: np.random.Generator) -> Program:
        """Draws a program (Appendix F): a length, then functions, inputs and outputs, all uniform."""
        length = rng.integers(1, self.max_instructions, endpoint=True)
        return Program(tuple(self.sample_instruction(rng) for _ in range(length)))

    def sample_instruction(self, rng: np.random.Generator) -> Instruction:
        """Draws an instruction: function, inputs and output uniform."""
        function = FUNCTIONS[FUNCTION_NAMES[rng.integers(len(FUNCTION_NAMES))]]
        inputs = tuple(int(slot) for slot in rng.integers(self.memory_size, size=function.arity))
        return Instruction(function.name, inputs, self._sample_output(rng))

    def mutate(self, program: Program, rng: np.random.Generator) -> Program:
        """Changes a program at one place: one of the paper's three mutations, equally likely (Appendix F).

        Inserts a random instruction anywhere, deletes one, or sets one input or output of one to a random slot (which
        may be the one it was). A mutation that would leave the space is drawn again.

        Raises:
            InvalidProgram: If the program is not in the space.
        """
        if program not in self:
            raise InvalidProgram(f"the program is not in {self}; bring it there with admit()")
        instructions = list(program)
        while True:
            kind = rng.integers(3)
            if kind == 0 and len(instructions) < self.max_instructions:
                instructions.insert(rng.integers(len(instructions), endpoint=True), self.sample_instruction(rng))
            elif kind == 1 and len(instructions) > 1:
                del instructions[rng.integers(len(instructions))]
            elif kind == 2:
                place = rng.integers(len(instructions))
                instructions[place] = self._modify(instructions[place], rng)
            else:
                continue
            return Program(tuple(instructions))

    def admit(self, program: Program) -> Program:
        """The program itself if it is in the space, or else one that does the same with its slots renumbered to fit.

        Raises:
            InvalidProgram: If it is empty, too long, or uses too many slots.
            TypeError: If it is no program.
        """
        if not isinstance(program, Program):
            raise TypeError(f"program must be a Program, got {type(program).__name__}")
        if program in self:
            return program
        if not 1 <= len(program) <= self.max_instructions:
            raise InvalidProgram(f"the space has 1 to {self.max_instructions} instructions, the program {len(program)}")
        used = {slot for i in program for slot in (*i.inputs, i.output) if slot >= FIRST_WRITABLE_SLOT}
        outside = sorted(slot for slot in used if slot >= self.memory_size)
        free = [slot for slot in range(FIRST_WRITABLE_SLOT, self.memory_size) if slot not in used]
        if len(outside) > len(free):
            writable = self.memory_size - FIRST_WRITABLE_SLOT
            raise InvalidProgram(f"the space has {writable} writable slots, the program uses {len(used)}")
        renumbered = dict(zip(outside, free, strict=False))
        return Program(
            tuple(
                Instruction(
                    i.function,
                    tuple(renumbered.get(slot, slot) for slot in i.inputs),
                    renumbered.get(i.output, i.output),
                )
                for i in program
            )
        )

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """Number of choices for each factor of an action: function or STOP, three inputs, output."""
        return (STOP + 1, *(self.memory_size,) * MAX_ARITY, self.memory_size - FIRST_WRITABLE_SLOT)

    def encode(self, instruction: Instruction) -> NDArray[np.int64]:
        """The action that appends an instruction: `(5,)` int64; inputs beyond the function's arity are 0.

        Raises:
            InvalidProgram: If the instruction uses a slot outside the space.
        """
        if any(slot >= self.memory_size for slot in (*instruction.inputs, instruction.output)):
            raise InvalidProgram(f"'{instruction}' uses a slot outside the space's {self.memory_size}")
        inputs = instruction.inputs + (0,) * (MAX_ARITY - len(instruction.inputs))
        function = FUNCTION_NAMES.index(instruction.function)
        return np.array([function, *inputs, instruction.output - FIRST_WRITABLE_SLOT], dtype=np.int64)

    def decode(self, action: Sequence[int] | NDArray[np.integer[Any]]) -> Instruction | None:
        """The instruction that an action appends, or None for STOP. Inputs beyond the arity are ignored.

        Raises:
            ValueError: If the action is not five integers within `action_sizes`.
        """
        function, *inputs, output = self.check_action(action)
        if function == STOP:
            return None
        name = FUNCTION_NAMES[function]
        return Instruction(name, tuple(inputs[: FUNCTIONS[name].arity]), output + FIRST_WRITABLE_SLOT)

    def check_action(self, action: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[int, int, int, int, int]:
        """The five numbers of an action: function or `STOP`, inputs, output less 9.

        Raises:
            ValueError: If the action is not five integers within `action_sizes`.
        """
        values = np.asarray(action)
        if values.dtype.kind in "iu" and values.shape == _ACTION_SHAPE:
            function, first, second, third, output = values.tolist()
            slots = self.memory_size
            if (
                0 <= function <= STOP
                and 0 <= first < slots
                and 0 <= second < slots
                and 0 <= third < slots
                and 0 <= output < slots - FIRST_WRITABLE_SLOT
            ):
                return function, first, second, third, output
        sizes = list(self.action_sizes)
        raise ValueError(f"an action is {len(sizes)} integers below {sizes}, got {action!r}")

    @property
    def stop_action(self) -> NDArray[np.int64]:
        """The action that ends a program."""
        return np.array([STOP] + [0] * (MAX_ARITY + 1), dtype=np.int64)

    def action_masks(self, length: int) -> NDArray[np.bool_]:
        """Which choices are allowed after `length` instructions: the factors' masks in a row, `(sum(action_sizes),)`.

        All but one are: a program can't stop before its first instruction. Which inputs are read depends on the
        function, which a mask of independent factors can't say: those not read are ignored.
        """
        mask = np.ones(sum(self.action_sizes), dtype=np.bool_)
        mask[STOP] = length >= 1
        return mask

    def _modify(self, instruction: Instruction, rng: np.random.Generator) -> Instruction:
        place = rng.integers(len(instruction.inputs), endpoint=True)
        if place == len(instruction.inputs):
            return Instruction(instruction.function, instruction.inputs, self._sample_output(rng))
        inputs = list(instruction.inputs)
        inputs[place] = int(rng.integers(self.memory_size))
        return Instruction(instruction.function, tuple(inputs), instruction.output)

    def _sample_output(self, rng: np.random.Generator) -> int:
        return int(rng.integers(FIRST_WRITABLE_SLOT, self.memory_size))
