"""Programs as straight-line code over typed values.

Everything else that compiles programs starts from this code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from nosbench_env.language.functions import REDUCTIONS
from nosbench_env.language.live_code import Kind, apply, carried_slots, live_code, result_kind, scalar
from nosbench_env.language.program import CONSTANTS, GRAD, PARAM, STEP, Program


@dataclass(frozen=True, slots=True)
class StepNode:
    """A value: a source, or an operation on others.

    Attributes:
        op: A source ("param", "grad", "grad_scale", "step", "const", "slot" or "numel"), a name of `FUNCTIONS`, or
            "pow", into which `bias_correct` is expanded.
        inputs: Indices of the operands, all smaller than its own.
        kind: The extent to which it varies.
        detail: The value of a "const", the number of a "slot".
    """

    op: str
    inputs: tuple[int, ...]
    kind: Kind
    detail: float = 0.0


@dataclass(frozen=True, slots=True)
class StepCode:
    """The computation of one step for a tensor.

    Attributes:
        nodes: The values, each after its operands.
        update: The value to subtract from the parameter.
        carried: The value that each carried slot holds after the step.
        kinds_before: The kind of each carried slot before the step, slots in ascending order.
        kinds_after: The same after the step.
    """

    nodes: tuple[StepNode, ...]
    update: int
    carried: Mapping[int, int]
    kinds_before: Mapping[int, Kind]
    kinds_after: Mapping[int, Kind]

    @property
    def reads_gradient(self) -> bool:
        """True if any value depends on the gradient."""
        return any(node.op == "grad" for node in self.nodes)


@dataclass(frozen=True, slots=True)
class StepCodes:
    """The code of a program's steps, from an empty memory on.

    Attributes:
        steps: The code of the first, second, ... step. The last one is used for all later steps.
    """

    steps: tuple[StepCode, ...]

    def at(self, step: int) -> StepCode:
        """Returns the code of a step, counted from 1."""
        return self.steps[min(step, len(self.steps)) - 1]

    @property
    def reads_gradient(self) -> bool:
        """True if updates can depend on the gradient (10 % of random programs)."""
        return any(code.reads_gradient for code in self.steps)


@lru_cache(maxsize=1024)
def step_codes(program: Program, *, scaled_gradient: bool = False) -> StepCodes:
    """Returns the code of a program's steps.

    The first step starts from an empty memory. A slot is then the scalar 0 and may hold an array later. The kind of a
    slot never decreases, so the code stays the same after a few steps (mostly one).

    Args:
        program: The program.
        scaled_gradient: Multiplies the gradient by the source "grad_scale" wherever it is read.
    """
    kinds: Mapping[int, Kind] = dict.fromkeys(carried_slots(program), Kind.STEP)
    steps = []
    while True:
        steps.append(_step_code(program, kinds, scaled_gradient=scaled_gradient))
        if steps[-1].kinds_after == kinds:
            return StepCodes(tuple(steps))
        kinds = steps[-1].kinds_after


def _step_code(program: Program, kinds: Mapping[int, Kind], *, scaled_gradient: bool) -> StepCode:
    """Returns a step's code, given its carried slots' kinds."""
    builder = _Builder()
    memory: dict[int, int] = {slot: builder.const(value) for slot, value in CONSTANTS.items()}
    memory[PARAM] = builder.add("param", (), Kind.ARRAY)
    memory[GRAD] = builder.add("grad", (), Kind.ARRAY)
    if scaled_gradient:
        memory[GRAD] = builder.apply("mul", memory[GRAD], builder.add("grad_scale", (), Kind.STEP))
    memory[STEP] = builder.add("step", (), Kind.STEP)
    zero = builder.const(0.0)
    for slot, kind in kinds.items():
        memory[slot] = builder.add("slot", (), kind, slot)
    update = zero
    for instruction in live_code(program)[0]:
        inputs = [memory.get(slot, zero) for slot in instruction.inputs]
        update = memory[instruction.output] = builder.apply(instruction.function, *inputs)
    return builder.finish(update, {slot: memory[slot] for slot in kinds}, kinds)


class _Builder:
    """Collects values; equal values are shared."""

    def __init__(self) -> None:
        self.nodes: list[StepNode] = []
        self._known: dict[StepNode | str, int] = {}

    def add(self, op: str, inputs: tuple[int, ...], kind: Kind, detail: float = 0.0) -> int:
        node = StepNode(op, inputs, kind, detail)
        # NaN differs from itself and 0.0 equals -0.0, so constants are compared by their text.
        key = node if op != "const" else repr(detail)
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return self._known[key]

    def const(self, value: float) -> int:
        return self.add("const", (), Kind.CONST, scalar(value).item())

    def apply(self, function: str, *inputs: int) -> int:
        """Adds a function, expanded into simpler ones; evaluates it on constants."""
        match function:
            case "clip":
                return self.apply("minimum", *inputs)
            case "interpolate":
                a, b, c = inputs
                rest = self.apply("sub", self.const(1.0), c)
                return self.apply("add", self.apply("mul", a, c), self.apply("mul", b, rest))
            case "bias_correct":
                x, b, t = inputs
                return self.apply("div", x, self.apply("sub", self.const(1.0), self.apply("pow", b, t)))
            case "size":
                if self.nodes[inputs[0]].kind < Kind.ARRAY:
                    return self.const(1.0)
                return self.add("numel", (), Kind.TENSOR)
        kinds = [self.nodes[index].kind for index in inputs]
        if max(kinds) == Kind.CONST:
            return self.const(apply(function, *(scalar(self.nodes[index].detail) for index in inputs)).item())
        if function in REDUCTIONS and max(kinds) < Kind.ARRAY:
            if function == "mean":  # the mean of the scalar -0 is +0
                return self.apply("add", inputs[0], self.const(0.0))
            if function == "std":
                return self.const(torch.nan)
        return self.add(function, inputs, result_kind(function, kinds))

    def finish(self, update: int, carried: Mapping[int, int], kinds: Mapping[int, Kind]) -> StepCode:
        """Returns the code, without values that nothing needs."""
        needed = [False] * len(self.nodes)
        for index in (update, *carried.values()):
            needed[index] = True
        for index in range(len(self.nodes) - 1, -1, -1):
            if needed[index]:
                for source in self.nodes[index].inputs:
                    needed[source] = True
        new = {old: new for new, old in enumerate(index for index, kept in enumerate(needed) if kept)}
        nodes = tuple(
            replace(node, inputs=tuple(new[source] for source in node.inputs))
            for node, kept in zip(self.nodes, needed, strict=True)
            if kept
        )
        after = {slot: max(Kind.STEP, self.nodes[index].kind) for slot, index in carried.items()}
        return StepCode(nodes, new[update], {slot: new[index] for slot, index in carried.items()}, kinds, after)
