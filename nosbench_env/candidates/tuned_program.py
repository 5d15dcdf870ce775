"""`TunedProgram`: a program with other constants and another step size."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nosbench_env.execution.optimizer import ProgramOptimizer
from nosbench_env.language.live_code import carried_slots, live_places
from nosbench_env.language.program import (
    CONSTANTS,
    FIRST_WRITABLE_SLOT,
    MAX_INSTRUCTIONS,
    MAX_SLOTS,
    SLOT_NAMES,
    Instruction,
    Program,
    check_program,
)

_ONE = next(slot for slot, value in CONSTANTS.items() if value == 1.0)
_SLOTS_BY_VALUE = {float(np.float32(value)): slot for slot, value in CONSTANTS.items()}
_LARGEST = float(np.finfo(np.float32).max)
_MIN_FUSED = 100_000  # elements of a model; for smaller models compilation takes longer than it saves


@dataclass(frozen=True, slots=True, order=True)
class ConstantUse:
    """A place in a program where a constant is read.

    Attributes:
        line: The number of the instruction, counted from 1.
        place: The number of its input, counted from 1.
    """

    line: int
    place: int

    @classmethod
    def parse(cls, text: str) -> ConstantUse:
        """Reads a text such as "12.2": line 12, second input.

        Raises:
            ValueError: If the text has another form.
        """
        line, _, place = text.partition(".")
        if not (line.isdecimal() and place.isdecimal() and len(text) < 12):
            raise ValueError(f"expected LINE.INPUT, both counted from 1, such as 12.2, got {text!r}")
        return cls(int(line), int(place))

    def __str__(self) -> str:
        return f"{self.line}.{self.place}"


def constant_uses(program: Program) -> dict[ConstantUse, float]:
    """Returns the uses of constants that can reach an update.

    Each is mapped to its value, in the program's order.

    >>> uses = constant_uses(Program.parse("r9 = exp(0.5); r9 = sub(1.0, 0.1); r10 = mul(grad, r9)"))
    >>> {str(use): value for use, value in uses.items()}
    {'2.1': 1.0, '2.2': 0.1}

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    check_program(program)
    return {
        ConstantUse(index + 1, place): CONSTANTS[slot]
        for index in live_places(program)[0]
        for place, slot in enumerate(program[index].inputs, start=1)
        if slot in CONSTANTS
    }


@dataclass(frozen=True)
class TunedProgram:
    """A program with arbitrary constants and an update multiplied by `lr`.

    The language has six constants; a tuned program has any number at each use of one. It is no `Program` and lies
    outside the search space. The oracle evaluates it under a key of its own.

    Args:
        program: The program.
        constants: The new number for each use of a constant that changes.
        lr: The factor of the update.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If a use is none of the program's, a number is not finite in float32, `lr` is negative, or the
            program has too few free slots for the numbers.

    >>> sgd = Program.parse("r9 = mul(grad, 0.01)")
    >>> print(TunedProgram(sgd, {ConstantUse(1, 2): 0.03}))
    r9 = mul(grad, 0.03)
    """

    program: Program
    constants: Mapping[ConstantUse, float] = field(default_factory=dict)
    lr: float = 1.0

    def __post_init__(self) -> None:
        uses = constant_uses(self.program)
        for use, value in self.constants.items():
            if use not in uses:
                known = ", ".join(f"{own} ({value!r})" for own, value in uses.items()) or "none"
                raise ValueError(f"the program reads no constant at {use}; it reads (line.input) {known}")
            if not _is_number(value):
                raise ValueError(f"the constant at {use} must be a number that float32 can hold, got {value!r}")
        if not _is_number(self.lr) or self.lr < 0:
            raise ValueError(f"lr must be a finite number >= 0, got {self.lr!r}")
        # Only real changes are kept, in the program's order, so that equal tuned programs compare equal.
        changed = {
            use: float(self.constants[use])
            for use, value in uses.items()
            if use in self.constants and np.float32(self.constants[use]) != np.float32(value)
        }
        object.__setattr__(self, "constants", MappingProxyType(changed))
        object.__setattr__(self, "lr", float(self.lr))
        self.spelled_out()

    def as_program(self) -> Program | None:
        """Returns an equal `Program`; None if `lr` or a number prevents it."""
        if self.lr != 1.0:
            return None
        instructions = list(self.program)
        for use, value in self.constants.items():
            slot = _SLOTS_BY_VALUE.get(float(np.float32(value)))
            if slot is None:
                return None
            instructions[use.line - 1] = _reading(instructions[use.line - 1], use.place, slot)
        return Program(tuple(instructions))

    def spelled_out(self) -> tuple[Program, dict[int, float]]:
        """Returns a program with the numbers in free slots, and their values."""
        used = {slot for instruction in self.program for slot in (*instruction.inputs, instruction.output)}
        free = [slot for slot in range(MAX_SLOTS - 1, FIRST_WRITABLE_SLOT - 1, -1) if slot not in used]
        slots: dict[float, int] = {}
        instructions = list(self.program)
        for use, value in self.constants.items():
            if value not in slots:
                if len(slots) == len(free) or len(slots) + len(self.program) == MAX_INSTRUCTIONS:
                    raise ValueError(f"the program has no room for {len(self.constants)} numbers; simplify it first")
                slots[value] = free[len(slots)]
            instructions[use.line - 1] = _reading(instructions[use.line - 1], use.place, slots[value])
        # Compiled steps take a slot that is never written as 0, so each slot is written with its own value.
        rewritten = [Instruction("mul", (slot, _ONE), slot) for slot in slots.values()]
        return Program((*rewritten, *instructions)), {slot: value for value, slot in slots.items()}

    def make_optimizer(self, params: Iterable[Any], epochs: int = 0, steps_per_epoch: int = 0) -> TunedOptimizer:
        """Makes the optimizer, compiled for large models; the length does not matter."""
        return TunedOptimizer(params, self)

    def identity_value(self, epochs: int = 0) -> str:
        """Returns the identity value in store keys, for any training length."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        return f"tuned-1:{blake2b(text.encode(), digest_size=16).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data; the inverse of `from_json`."""
        return {
            "program": self.program.to_json(),
            "constants": [[use.line, use.place, value] for use, value in self.constants.items()],
            "lr": self.lr,
        }

    @classmethod
    def from_json(cls, data: Any) -> TunedProgram:
        """Reads the data that `to_json` returns.

        They have `program` as `Program.from_json` takes it, `constants` as lists of line, input and number, and `lr`.

        Raises:
            ValueError: If the data describe no tuned program.
        """
        if not isinstance(data, dict) or set(data) != {"program", "constants", "lr"}:
            raise ValueError(f"expected an object with program, constants and lr, got {str(data)[:80]}")
        constants = data["constants"]
        if not isinstance(constants, list) or not all(
            isinstance(c, list) and len(c) == 3 and type(c[0]) is type(c[1]) is int for c in constants
        ):
            raise ValueError(f"constants must be a list of [line, input, number], got {reprlib.repr(constants)}")
        by_use = {ConstantUse(line, place): value for line, place, value in constants}
        return cls(Program.from_json(data["program"]), by_use, data["lr"])

    def __reduce__(self) -> tuple[Any, ...]:
        return TunedProgram.from_json, (self.to_json(),)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TunedProgram):
            return NotImplemented
        return (self.program, self.lr, dict(self.constants)) == (other.program, other.lr, dict(other.constants))

    def __hash__(self) -> int:
        return hash((self.program, self.lr, tuple(self.constants.items())))

    def __str__(self) -> str:
        lines = []
        for line, instruction in enumerate(self.program, start=1):
            inputs = [SLOT_NAMES[slot] for slot in instruction.inputs]
            for place in range(1, len(inputs) + 1):
                if (value := self.constants.get(ConstantUse(line, place))) is not None:
                    inputs[place - 1] = f"{value:.6g}"
            lines.append(f"{SLOT_NAMES[instruction.output]} = {instruction.function}({', '.join(inputs)})")
        if self.lr != 1.0:
            lines.append(f"# the update is multiplied by {self.lr:.6g}")
        return "\n".join(lines)


class TunedOptimizer(ProgramOptimizer):
    """Trains parameters with a `TunedProgram`; see `ProgramOptimizer`.

    Args:
        params: As `ProgramOptimizer` takes them.
        tuned: The tuned program.
        fused: As in `ProgramOptimizer`; None compiles for large models of plain float32 parameters.
    """

    def __init__(self, params: Iterable[Any], tuned: TunedProgram, *, fused: bool | None = None) -> None:
        params = list(params)
        program, self._numbers = tuned.spelled_out()
        self.tuned = tuned
        super().__init__(params, program, tuned.lr, fused=_pays_off(params) if fused is None else fused)

    def _advance(self, param: Tensor) -> dict[str, Any]:
        state = super()._advance(param)
        if state["step"] == 1:
            dtype = torch.promote_types(param.dtype, torch.float32)
            # Compiled steps need the values of all carried slots, or of none.
            start = dict.fromkeys(carried_slots(self.program), 0.0) | self._numbers
            state["memory"] = {
                slot: torch.tensor(value, dtype=dtype, device=param.device) for slot, value in start.items()
            }
        return state

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"tuned": self.tuned, "_numbers": self._numbers}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({json.dumps(self.tuned.to_json())}, {super().__repr__().partition('(')[2]}"


def _reading(instruction: Instruction, place: int, slot: int) -> Instruction:
    inputs = list(instruction.inputs)
    inputs[place - 1] = slot
    return Instruction(instruction.function, tuple(inputs), instruction.output)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return math.isfinite(value) and abs(float(value)) <= _LARGEST


def _pays_off(params: list[Any]) -> bool:
    """Returns True if compiled steps suit these parameters and save time."""
    plain = all(
        isinstance(param, Tensor)
        and type(param) in (torch.nn.Parameter, Tensor)
        and param.dtype == torch.float32
        and param.layout == torch.strided
        and param.is_contiguous()
        and (param.is_cpu or param.is_cuda)
        for param in params
    )
    return plain and sum(param.numel() for param in params) >= _MIN_FUSED
