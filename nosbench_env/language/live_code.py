"""Live code: the instructions that reach an update, the kinds of their values, and the folding of constants."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import Instruction, Program

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Kind(IntEnum):
    """How much a value varies. The result of an elementwise function is of the greatest kind among its inputs."""

    CONST = 0  # the same at every step
    STEP = 1  # a scalar that is the same for all tensors that were stepped equally often
    TENSOR = 2  # a scalar of each tensor
    ARRAY = 3  # an element for each element of the parameter


REDUCTIONS = ("norm", "mean", "std")


TRANSCENDENTALS = ("exp", "log", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "pow")


def carried_slots(program: Program) -> tuple[int, ...]:
    """The slots that a step must hand on to the next: read before they are written, by what the update needs."""
    return live_code(program)[1]


def live_code(program: Program) -> tuple[tuple[Instruction, ...], tuple[int, ...]]:
    """The instructions that reach an update, now or through a slot that a later step reads; and those slots."""
    places, carried = live_places(program)
    return tuple([program.instructions[place] for place in places]), carried


def live_places(program: Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The places, counted from 0, of the instructions of `live_code`, and the slots that are carried."""
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
    """Applies an operation of the code to tensors."""
    import torch

    return torch.pow(*inputs) if op == "pow" else FUNCTIONS[op](*inputs)


def scalar(value: float, device: torch.device | str = "cpu") -> Tensor:
    """A float32 scalar as execution uses it."""
    import torch

    return torch.tensor(value, dtype=torch.float32, device=device)
