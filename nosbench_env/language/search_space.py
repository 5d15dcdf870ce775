"""The search space: sampling, mutation and encoding of programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.draft import CONSTRAINTS, FIRST_SLOT_TOKEN, FUNCTION_NAMES, MAX_ARITY, STOP, Draft
from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import (
    FIRST_WRITABLE_SLOT,
    MAX_INSTRUCTIONS,
    MAX_SLOTS,
    Instruction,
    InvalidProgram,
    Program,
)

_ACTION_SHAPE = (2 + MAX_ARITY,)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The programs of 1 to `max_instructions` instructions over `memory_size` slots.

    The defaults are the paper's (Appendix F). Sampling and mutation never leave the space.

    In the paper's space, nine of ten programs ignore the gradient, and most instructions of an average program are
    unnecessary. `constraints` exclude such programs:

    * "written": every slot that is read holds a constant, the weights, the gradient, the step, or the value of an
      instruction of the program, possibly of a later one, written in the step before.
    * "used": the value of every instruction reaches the last one, in this step or a later one. At every point, two
      reads by each instruction that may follow suffice to use all unread values (see `draft`).
    * "gradient": some instruction reads the gradient. Together with "used", the update depends on it.

    Args:
        max_instructions: Length of the longest program.
        memory_size: Number of slots.
        constraints: Any of the three; kept in alphabetical order.

    Raises:
        ValueError: If a bound is outside the language's range, or a constraint is unknown.

    >>> space = SearchSpace()
    >>> program = space.sample(np.random.default_rng(0))
    >>> program in space and space.mutate(program, np.random.default_rng(0)) in space
    True
    """

    max_instructions: int = 20
    memory_size: int = 20
    constraints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.constraints, str) or not set(self.constraints) <= set(CONSTRAINTS):
            raise ValueError(f"constraints must be some of {list(CONSTRAINTS)}, got {self.constraints!r}")
        object.__setattr__(self, "constraints", tuple(sorted(set(self.constraints))))
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
            and (not self.constraints or self._obeys(program))
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON data."""
        bounds = {"max_instructions": self.max_instructions, "memory_size": self.memory_size}
        return bounds | ({"constraints": list(self.constraints)} if self.constraints else {})

    def sample(self, rng: np.random.Generator) -> Program:
        """Draws a program (Appendix F).

        Its length, functions, inputs and outputs are uniform.

        With constraints, each token is drawn uniformly from those allowed at its place.
        """
        length = rng.integers(1, self.max_instructions, endpoint=True)
        if self.constraints:
            draft = self.draft(int(length))
            while not draft.finished:
                draft.push(int(rng.choice(np.flatnonzero(draft.mask()))))
            return draft.program
        return Program(tuple(self.sample_instruction(rng) for _ in range(length)))

    def sample_instruction(self, rng: np.random.Generator) -> Instruction:
        """Draws an instruction with uniform function, inputs and output."""
        function = FUNCTIONS[FUNCTION_NAMES[rng.integers(len(FUNCTION_NAMES))]]
        inputs = tuple(int(slot) for slot in rng.integers(self.memory_size, size=function.arity))
        return Instruction(function.name, inputs, self._sample_output(rng))

    def mutate(self, program: Program, rng: np.random.Generator) -> Program:
        """Applies one of the paper's mutations (Appendix F).

        The three mutations are equally likely.

        A mutation inserts a random instruction anywhere, deletes one, or sets one input or output to a random slot,
        possibly the same. A mutation that would leave the space is drawn again. Constraints exclude none of the three,
        but make some rare.

        Raises:
            InvalidProgram: If the program is not in the space.
        """
        if program not in self:
            raise InvalidProgram(f"the program is not in {self}; bring it there with admit()")
        while True:
            instructions = list(program)
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
            mutant = Program(tuple(instructions))
            if not self.constraints or self._obeys(mutant):
                return mutant

    def admit(self, program: Program) -> Program:
        """Returns the program, with its slots renumbered if necessary.

        Raises:
            InvalidProgram: If it is empty, too long, uses too many slots, or violates a constraint.
            TypeError: If it is not a `Program`.
        """
        if not isinstance(program, Program):
            raise TypeError(f"program must be a Program, got {type(program).__name__}")
        if program in self:
            return program
        if not 1 <= len(program) <= self.max_instructions:
            raise InvalidProgram(f"the space has 1 to {self.max_instructions} instructions, the program {len(program)}")
        renumbered = self._renumbered(program)
        for constraint in self.constraints:
            if renumbered not in replace(self, constraints=(constraint,)):
                raise InvalidProgram(
                    f"the program violates the space's constraint {constraint!r} (see SearchSpace):\n{program}\n"
                    "program.simplified() removes unnecessary instructions"
                )
        return renumbered

    def _renumbered(self, program: Program) -> Program:
        """Returns the program with slots that fit."""
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

    def draft(self, length: int | None = None) -> Draft:
        """Starts a program to be written token by token.

        Args:
            length: The exact number of instructions; by default any that the space allows.

        Raises:
            ValueError: If the space has no programs of that length.
        """
        if length is not None and not 1 <= length <= self.max_instructions:
            raise ValueError(f"length must be from 1 to {self.max_instructions}, got {length!r}")
        return Draft(self.max_instructions, self.memory_size, self.constraints, length)

    @property
    def token_count(self) -> int:
        """The number of distinct tokens."""
        return FIRST_SLOT_TOKEN + self.memory_size

    def tokens(self, program: Program) -> list[int]:
        """Returns a program's tokens.

        They are function, inputs, output, function, ..., and STOP unless the program has full length.

        Raises:
            InvalidProgram: If it is too long or uses a slot outside the space.
        """
        if len(program) > self.max_instructions:
            raise InvalidProgram(
                f"the space has up to {self.max_instructions} instructions, the program {len(program)}"
            )
        tokens = []
        for instruction in program:
            slots = (*instruction.inputs, instruction.output)
            if max(slots) >= self.memory_size:
                raise InvalidProgram(f"'{instruction}' uses a slot outside the space's {self.memory_size}")
            tokens += [FUNCTION_NAMES.index(instruction.function), *(FIRST_SLOT_TOKEN + slot for slot in slots)]
        return tokens if len(program) == self.max_instructions else [*tokens, STOP]

    def from_tokens(self, tokens: Sequence[int]) -> Program:
        """Returns the program with the given `tokens`.

        Raises:
            InvalidProgram: If the tokens are no complete program of the space.
        """
        draft = self.draft()
        for token in tokens:
            draft.push(int(token))
        if not draft.finished:
            raise InvalidProgram(f"after {len(tokens)} tokens the program is not complete: it expects {draft.expects}")
        return draft.program

    def _obeys(self, program: Program) -> bool:
        try:
            return bool(self.from_tokens(self.tokens(program)))
        except InvalidProgram:
            return False

    @property
    def action_sizes(self) -> tuple[int, ...]:
        """The numbers of choices for function or STOP, three inputs, and output."""
        return (STOP + 1, *(self.memory_size,) * MAX_ARITY, self.memory_size - FIRST_WRITABLE_SLOT)

    def encode(self, instruction: Instruction) -> NDArray[np.int64]:
        """Returns the action that appends an instruction, `(5,)` int64.

        Inputs beyond the function's arity are 0.

        Raises:
            InvalidProgram: If the instruction uses a slot outside the space.
        """
        if any(slot >= self.memory_size for slot in (*instruction.inputs, instruction.output)):
            raise InvalidProgram(f"'{instruction}' uses a slot outside the space's {self.memory_size}")
        inputs = instruction.inputs + (0,) * (MAX_ARITY - len(instruction.inputs))
        function = FUNCTION_NAMES.index(instruction.function)
        return np.array([function, *inputs, instruction.output - FIRST_WRITABLE_SLOT], dtype=np.int64)

    def decode(self, action: Sequence[int] | NDArray[np.integer[Any]]) -> Instruction | None:
        """Returns the instruction that an action appends, or None for STOP.

        Inputs beyond the function's arity are ignored.

        Raises:
            ValueError: If the action is not five integers below `action_sizes`.
        """
        function, *inputs, output = self.check_action(action)
        if function == STOP:
            return None
        name = FUNCTION_NAMES[function]
        return Instruction(name, tuple(inputs[: FUNCTIONS[name].arity]), output + FIRST_WRITABLE_SLOT)

    def check_action(self, action: Sequence[int] | NDArray[np.integer[Any]]) -> tuple[int, int, int, int, int]:
        """Returns the five numbers of a valid action.

        They are the function or `STOP`, three inputs, and the output slot minus 9.

        Raises:
            ValueError: If the action is not five integers below `action_sizes`.
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
        """Returns the masks of the factors after `length` instructions.

        They are concatenated to `(sum(action_sizes),)`.

        Everything is allowed except STOP before the first instruction. A mask of independent factors cannot express
        that the number of inputs depends on the function; inputs that it does not read are ignored.
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
