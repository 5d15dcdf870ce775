"""Live code, kinds of values, and operations on constants."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

from nosbench_env.language.functions import OPERATIONS, PER_TENSOR
from nosbench_env.language.program import Instruction, Program

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Kind(IntEnum):
    """The range in which a value is the same."""

    CONST = 0  # the same at every step
    STEP = 1  # a scalar, the same for all tensors that were updated equally often
    TENSOR = 2  # a scalar of each tensor
    ARRAY = 3  # an element for each element of the parameter


def result_kind(op: str, inputs: Iterable[Kind]) -> Kind:
    """Returns the kind of an operation's result."""
    greatest = max(inputs)
    return Kind.TENSOR if greatest == Kind.ARRAY and op in PER_TENSOR else greatest


def live_code(program: Program) -> tuple[tuple[Instruction, ...], tuple[int, ...]]:
    """Returns the live instructions and the carried slots.

    An instruction is live if its value reaches the update of this step or, through a slot, of a later one.
    """
    places, carried = live_places(program)
    return tuple([program.instructions[place] for place in places]), carried


def carried_slots(program: Program) -> tuple[int, ...]:
    """Returns the carried slots, in ascending order.

    Live code reads them before it writes them, so their values must be kept from step to step.
    """
    return live_places(program)[1]


def live_places(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the live instructions' places, from 0, and the carried slots."""
    instructions = program.instructions
    written = {instruction.output for instruction in instructions}
    carried: set[int] = set()
    while True:
        live: list[int] = []
        needed = set(carried)  # slots whose value at this point is needed, walking backwards
        for place in range(len(instructions) - 1, -1, -1):
            output = instructions[place].output
            if output in needed or not live:  # the last instruction is always live
                needed.discard(output)
                needed.update(instructions[place].inputs)
                live.append(place)
        read_first = needed & written  # a slot never written is a constant
        if read_first == carried:
            return tuple(reversed(live)), tuple(sorted(carried))
        carried |= read_first


def apply(op: str, *inputs: Tensor) -> Tensor:
    """Applies an operation of compiled code to tensors."""
    return OPERATIONS[op](*inputs)


def scalar(value: float, device: torch.device | str = "cpu") -> Tensor:
    """Converts a number to a 0-d float32 tensor."""
    import torch

    return torch.tensor(value, dtype=torch.float32, device=device)
