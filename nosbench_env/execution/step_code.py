"""From a program to straight-line code over typed values: what a step computes, and nothing that it does not need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from nosbench_env.language.live_code import REDUCTIONS, Kind, apply, carried_slots, live_code, scalar
from nosbench_env.language.program import CONSTANTS, GRAD, PARAM, STEP, Program

# What the values are made of: sources, FUNCTIONS, and `pow`, which `bias_correct` is taken apart into.
SOURCES = ("param", "grad", "grad_scale", "step", "const", "slot", "numel")


@dataclass(frozen=True, slots=True)
class Node:
    """A value: a source, or an operation on other values (by their index).

    Attributes:
        op: One of `SOURCES`, a name of `FUNCTIONS` or "pow".
        inputs: Indices of the values it is computed from, all smaller than its own.
        kind: How much it varies.
        detail: The value of a "const", the number of a "slot".
    """

    op: str
    inputs: tuple[int, ...]
    kind: Kind
    detail: float = 0.0


Signature = tuple[tuple[int, Kind], ...]  # what each carried slot holds before a step; slots in ascending order


@dataclass(frozen=True, slots=True)
class StepCode:
    """What one step computes for a tensor.

    Attributes:
        nodes: The values in the order in which they can be computed.
        update: What is subtracted from the parameter.
        carried: The value that each carried slot holds afterwards.
        signature: What the carried slots held before.
        next_signature: What they hold afterwards.
    """

    nodes: tuple[Node, ...]
    update: int
    carried: Mapping[int, int]
    signature: Signature
    next_signature: Signature

    @property
    def reads_gradient(self) -> bool:
        """Whether any value is computed from the gradient."""
        return any(node.op == "grad" for node in self.nodes)


@dataclass(frozen=True, slots=True)
class LoweredProgram:
    """The code of all steps from an empty memory on.

    Attributes:
        steps: The code of the first, second, ... step. The last repeats for ever.
    """

    steps: tuple[StepCode, ...]

    def at(self, step: int) -> StepCode:
        """The code of a step, counted from 1."""
        return self.steps[min(step, len(self.steps)) - 1]

    @property
    def reads_gradient(self) -> bool:
        """Whether the gradient can ever reach an update. 90 % of random programs never read it."""
        return any(code.reads_gradient for code in self.steps)


@lru_cache(maxsize=1024)
def lower(program: Program, *, scaled_gradient: bool = False) -> LoweredProgram:
    """The code of a program's steps, starting from an empty memory.

    A slot starts as the scalar 0 and may come to hold an array; what a slot holds only ever grows in kind, so after a
    few steps (mostly one) the code stays the same.

    Args:
        program: The program.
        scaled_gradient: Whether the gradient is to be multiplied by the source "grad_scale" wherever it is read.
    """
    signature: Signature = tuple((slot, Kind.STEP) for slot in carried_slots(program))
    steps = []
    while True:
        code = lower_step(program, signature, scaled_gradient=scaled_gradient)
        steps.append(code)
        if code.next_signature == signature:
            return LoweredProgram(tuple(steps))
        signature = code.next_signature


@lru_cache(maxsize=4096)
def lower_step(program: Program, signature: Signature, *, scaled_gradient: bool = False) -> StepCode:
    """The code of a step before which the carried slots hold what `signature` says."""
    builder = _Builder()
    memory: dict[int, int] = {slot: builder.const(value) for slot, value in CONSTANTS.items()}
    memory[PARAM] = builder.add("param", (), Kind.ARRAY)
    memory[GRAD] = builder.add("grad", (), Kind.ARRAY)
    if scaled_gradient:
        memory[GRAD] = builder.apply("mul", memory[GRAD], builder.add("grad_scale", (), Kind.STEP))
    memory[STEP] = builder.add("step", (), Kind.STEP)
    zero = builder.const(0.0)
    for slot, kind in signature:
        memory[slot] = builder.add("slot", (), kind, slot)
    update = zero
    for instruction in live_code(program)[0]:
        inputs = [memory.get(slot, zero) for slot in instruction.inputs]
        update = memory[instruction.output] = builder.apply(instruction.function, *inputs)
    carried = {slot: memory[slot] for slot, _ in signature}
    return builder.finish(update, carried, signature)


class _Builder:
    """Collects values, each distinct one once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Node | str, int] = {}

    def add(self, op: str, inputs: tuple[int, ...], kind: Kind, detail: float = 0.0) -> int:
        node = Node(op, inputs, kind, detail)
        # A NaN constant equals no other and 0.0 equals -0.0, so constants are told apart by their text.
        identity = node if op != "const" else repr(detail)
        if identity not in self._known:
            self._known[identity] = len(self.nodes)
            self.nodes.append(node)
        return self._known[identity]

    def const(self, value: float) -> int:
        return self.add("const", (), Kind.CONST, scalar(value).item())

    def apply(self, function: str, *inputs: int) -> int:
        """The value of a function, taken apart into simpler ones and folded where its inputs are constant."""
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
        kind = max(self.nodes[index].kind for index in inputs)
        if kind == Kind.CONST:
            return self.const(apply(function, *(scalar(self.nodes[index].detail) for index in inputs)).item())
        if function in REDUCTIONS:
            if kind == Kind.ARRAY:
                return self.add(function, inputs, Kind.TENSOR)
            if function == "mean":  # which makes -0 of 0-d values +0
                return self.apply("add", inputs[0], self.const(0.0))
            if function == "std":
                return self.const(torch.nan)
        return self.add(function, inputs, kind)

    def finish(self, update: int, carried: Mapping[int, int], signature: Signature) -> StepCode:
        """Leaves out what neither the update nor a carried slot needs."""
        needed = [False] * len(self.nodes)
        for index in (update, *carried.values()):
            needed[index] = True
        for index in range(len(self.nodes) - 1, -1, -1):
            if needed[index]:
                for source in self.nodes[index].inputs:
                    needed[source] = True
        new = {old: new for new, old in enumerate(index for index, kept in enumerate(needed) if kept)}
        nodes = tuple(
            Node(node.op, tuple(new[source] for source in node.inputs), node.kind, node.detail)
            for node, kept in zip(self.nodes, needed, strict=True)
            if kept
        )
        after = tuple((slot, max(Kind.STEP, self.nodes[carried[slot]].kind)) for slot, _ in signature)
        return StepCode(nodes, new[update], {slot: new[index] for slot, index in carried.items()}, signature, after)
