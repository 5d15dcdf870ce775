"""Canonical forms: what a program computes, written in one way however the program writes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Literal

import numpy as np

from nosbench_env.language.live_code import REDUCTIONS, apply, live_code, scalar
from nosbench_env.language.program import CONSTANTS, GRAD, PARAM, STEP, Instruction, Program, check_program

CANONICAL_VERSION = 1

Behaviour = Literal["no-op", "constant", "schedule", "gradient-free", "gradient-based"]
Node = tuple[str, tuple[int, ...], str]  # operation, inputs, and the value of a constant or the number of a slot

# Constants are known by their hexadecimal text, which tells 0 from -0 and is equal for NaN.
_ZERO, _MINUS_ZERO, _ONE, _TWO, _NAN = (value.hex() for value in (0.0, -0.0, 1.0, 2.0, math.nan))
_COMMUTATIVE = frozenset(("add", "mul", "minimum", "maximum"))
_REDUCTIONS = frozenset((*REDUCTIONS, "size"))
_NOT_NEGATIVE = frozenset(("abs", "exp", "norm", "std", "numel"))  # results that are +0, positive or NaN

# Whether a value is 0-d, always or never. A slot starts as a 0-d zero and may come to hold an array.
_SCALAR, _MIXED, _ARRAY = 0, 1, 2

# What every graph starts with: the values of the slots that are set before a step.
_FIXED_NODES: dict[int, Node] = {
    PARAM: ("param", (), ""),
    GRAD: ("grad", (), ""),
    STEP: ("step", (), ""),
    **{slot: ("const", (), float(np.float32(value)).hex()) for slot, value in CONSTANTS.items()},
}
_FIXED_SHAPES = [_ARRAY if op in ("param", "grad") else _SCALAR for op, _, _ in _FIXED_NODES.values()]
_FIXED_NUMBERS = {node: number for number, node in enumerate(_FIXED_NODES.values())}
_FIXED_MEMORY = {slot: number for number, slot in enumerate(_FIXED_NODES)}


@dataclass(frozen=True)
class CanonicalForm:
    """What a program computes in a step: a graph of values, without names, order and detours of writing.

    Programs with equal `text` are the same optimizer: they give equal updates, up to the payload of a NaN and the sign
    of a zero that came out of `minimum`, `maximum` or `clip`. The converse does not hold: a program can be written in
    ways that the rules do not see through.

    Attributes:
        nodes: The values, each after those it is computed from, as (operation, numbers of its inputs, detail). Sources
            are "param", "grad", "step", "numel", "const" (detail: its value as a hexadecimal float) and "slot", what a
            carried slot held before the step (detail: its number). Operations are those of `FUNCTIONS` but for `clip`,
            `square`, `interpolate` and `bias_correct`, which are written with others, and "pow".
        update: The number of the value that is subtracted from the parameter.
        carried: The number of the value that each carried slot holds after the step. All start as the 0-d 0.
    """

    nodes: tuple[Node, ...]
    update: int
    carried: tuple[int, ...]

    @cached_property
    def text(self) -> str:
        """The form as text, one `name = value` for each node, carried slot and the update."""
        names: list[str] = []
        lines: list[str] = []
        for op, inputs, detail in self.nodes:
            if inputs:
                names.append(f"v{len(lines)}")
                lines.append(f"{names[-1]} = {op}({', '.join([names[number] for number in inputs])})")
            else:
                names.append(source_name(op, detail))
        lines += [f"next s{slot} = {names[number]}" for slot, number in enumerate(self.carried)]
        return "\n".join([*lines, f"update = {names[self.update]}"])

    @cached_property
    def digest(self) -> str:
        """128 bits of a hash of `text`, in hexadecimal."""
        return blake2b(self.text.encode(), digest_size=16).hexdigest()

    @cached_property
    def behaviour(self) -> Behaviour:
        """What kind of optimizer it is.

        "no-op": the update is always 0; "constant": the same number at every step; "schedule": computed from the step
        number and constants; "gradient-free": from the parameter too, but not from the gradient; "gradient-based".
        """
        sources = {op for op, inputs, _ in self.nodes if not inputs}
        if "grad" in sources:
            return "gradient-based"
        if "param" in sources or "numel" in sources:
            return "gradient-free"
        op, _, value = self.nodes[self.update]
        if op != "const":
            return "schedule"
        return "no-op" if value in (_ZERO, _MINUS_ZERO) else "constant"

    def __str__(self) -> str:
        return f"canonical-{CANONICAL_VERSION}:{self.digest}"


def canonical_form(program: Program) -> CanonicalForm:
    """The canonical form of a program.

    What cannot reach an update is gone, also across steps; constants are folded with torch's 0-d operations, which is
    what execution uses; a slot that never leaves 0 is the constant 0, slots that always hold the same value are one;
    inputs of commutative operations are ordered; slots have no names. The other rules are identities that hold to the
    last bit: `x * 1`, `x / 1` and `x - 0` are x; `square(x)` is `x * x` and `x + x` is `x * 2`; subtraction of a
    constant is addition, division by a power of two multiplication; `minimum(x, x)`, `maximum(x, x)`, `sign` of a sign
    and `abs` of what is not negative are what they are of; reductions of 0-d values are the value, its `abs`, or a
    constant. None changes a value's shape.

    >>> a, b = Program.parse("r9 = mul(grad, 0.1)"), Program.parse("r11 = exp(step); r10 = mul(0.1, grad)")
    >>> canonical_form(a) == canonical_form(b)
    True

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    graph = value_graph(program)
    following = {slot.group: graph.memory[number] for number, slot in graph.slots.items()}
    return _ordered(graph.nodes, graph.values[-1], following)


@dataclass(frozen=True, slots=True)
class Slot:
    """What is known of a carried slot: slots of one group hold equal values; those of group 0 the constant 0."""

    group: int = 0
    shape: int = _SCALAR


def value_graph(program: Program) -> ValueGraph:
    """The values that the live code of a program computes in a step.

    At first all carried slots are taken to be 0-d and never to leave 0. What a step contradicts is given up and the
    graph built anew; what is left at the end holds before the first step, and after each step if before it: so always.
    """
    code, carried = live_code(check_program(program))
    slots = dict.fromkeys(carried, Slot())
    while True:
        graph = ValueGraph(code, slots)
        if not slots:
            return graph
        groups: dict[tuple[int, int], int] = {}
        after = {}
        for number, slot in slots.items():
            value = graph.memory[number]
            stays_zero = slot.group == 0 and value == graph.zero
            group = 0 if stays_zero else groups.setdefault((slot.group, value), len(groups) + 1)
            scalar = slot.shape == _SCALAR and graph.shapes[value] == _SCALAR
            after[number] = Slot(group, _SCALAR if scalar else _MIXED)
        if _partition(slots) == _partition(after):
            return graph
        slots = after


def _partition(slots: Mapping[int, Slot]) -> set[tuple[bool, int, tuple[int, ...]]]:
    """The groups, without their numbers: whether it is that of 0, the shape, the slots."""
    members: dict[Slot, list[int]] = {}
    for number, slot in slots.items():
        members.setdefault(slot, []).append(number)
    return {(slot.group == 0, slot.shape, tuple(numbers)) for slot, numbers in members.items()}


class ValueGraph:
    """The values of a step, each distinct one once; a value is known by its number.

    Args:
        code: The live code.
        slots: What is known of the carried slots.

    Attributes:
        nodes: See `CanonicalForm`; the detail of a "slot" is the number of its group.
        shapes: Whether each value is 0-d.
        values: The value of each instruction; if there is none, that of the update, 0.
        memory: What the slots hold after the step.
        zero: The number of the constant 0.
    """

    def __init__(self, code: Sequence[Instruction], slots: Mapping[int, Slot]) -> None:
        self.slots = slots
        self.nodes = [*_FIXED_NODES.values()]
        self.shapes, self._numbers = [*_FIXED_SHAPES], {**_FIXED_NUMBERS}
        memory = self.memory = {**_FIXED_MEMORY}
        zero = self.zero = self.const(_ZERO)
        for number, slot in slots.items():
            memory[number] = self.add("slot", (), slot.shape, str(slot.group)) if slot.group else zero
        self.values: list[int] = []
        for instruction in code:
            inputs = [memory.get(slot, zero) for slot in instruction.inputs]
            memory[instruction.output] = self.apply(instruction.function, *inputs)
            self.values.append(memory[instruction.output])
        self.values = self.values or [zero]

    def const(self, value: str) -> int:
        """A constant, by its hexadecimal text."""
        return self.add("const", (), _SCALAR, value)

    def add(self, op: str, inputs: tuple[int, ...], shape: int, detail: str = "") -> int:
        """The number of a value."""
        node = op, inputs, detail
        number = self._numbers.get(node)
        if number is None:
            number = self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
            self.shapes.append(shape)
        return number

    def apply(self, op: str, a: int, b: int = -1, c: int = -1) -> int:
        """The value of an operation, written with simpler ones where it can be."""
        nodes = self.nodes
        if op == "interpolate":
            rest = self.apply("sub", self.const(_ONE), c)
            return self.apply("add", self.apply("mul", a, c), self.apply("mul", b, rest))
        if op == "bias_correct":
            return self.apply("div", a, self.apply("sub", self.const(_ONE), self.apply("pow", b, c)))
        if op == "clip":
            op = "minimum"
        elif op == "square":
            op, b = "mul", a

        if b < 0:
            return self.const(_folded(op, nodes[a][2])) if nodes[a][0] == "const" else self._unary(op, a)
        if nodes[a][0] == "const" and nodes[b][0] == "const":
            return self.const(_folded(op, nodes[a][2], nodes[b][2]))
        return self._binary(op, a, b)

    def _unary(self, op: str, a: int) -> int:
        shape, (inner, inputs, _) = self.shapes[a], self.nodes[a]
        if op in _REDUCTIONS:
            if shape == _SCALAR:
                if op == "mean":  # which makes -0 of 0-d values +0
                    never_minus_zero = inner == "step" or inner in _NOT_NEGATIVE
                    return a if never_minus_zero else self._binary("add", a, self.zero)
                if op == "norm":
                    return self._unary("abs", a)
                if op in ("size", "std"):
                    return self.const(_ONE if op == "size" else _NAN)
            elif shape == _ARRAY and op == "size":
                return self.add("numel", (), _SCALAR)
            return self.add(op, (a,), _SCALAR)
        if op == "sign" and inner == "sign":
            return a
        if op == "abs" and (inner in _NOT_NEGATIVE or (inner == "mul" and inputs[0] == inputs[1])):
            return a
        return self.add(op, (a,), shape)

    def _binary(self, op: str, a: int, b: int) -> int:
        shape = max(self.shapes[a], self.shapes[b])
        left, right = self.nodes[a][2], self.nodes[b][2]  # constants; a slot's number looks like none
        if self.nodes[b][0] == "const" and op == "sub":
            return self._binary("add", a, self.const(_negated(right)))
        if self.nodes[b][0] == "const" and op == "div" and (inverse := _exact_inverse(right)) is not None:
            return self._binary("mul", a, self.const(inverse))
        if op == "mul" and _ONE in (left, right):
            return a if right == _ONE else b
        if op == "add":
            if _MINUS_ZERO in (left, right):
                return a if right == _MINUS_ZERO else b
            if a == b:
                return self._binary("mul", a, self.const(_TWO))
        if op in ("minimum", "maximum") and a == b:
            return a
        if op in _COMMUTATIVE and a > b:
            a, b = b, a
        return self.add(op, (a, b), shape)


@lru_cache(maxsize=65536)
def _folded(op: str, *inputs: str) -> str:
    """The value of an operation on constants."""
    return float(apply(op, *(scalar(float.fromhex(value)) for value in inputs)).item()).hex()


def _negated(constant: str) -> str:
    return constant.removeprefix("-") if constant.startswith("-") or constant == _NAN else f"-{constant}"


@lru_cache(maxsize=65536)
def _exact_inverse(constant: str) -> str | None:
    """The reciprocal of a power of two, if both are normal float32 numbers."""
    mantissa, exponent = math.frexp(float.fromhex(constant))
    return (1 / float.fromhex(constant)).hex() if abs(mantissa) == 0.5 and -125 <= exponent <= 126 else None


def _ordered(nodes: Sequence[Node], update: int, following: Mapping[int, int]) -> CanonicalForm:
    """The form with nodes and slots in an order that depends on what is computed alone.

    Args:
        nodes: The values, of which not all need be used.
        update: The number of the update.
        following: The value that each group of slots holds after the step.
    """
    hashes: list[int] = []  # computed when first needed, which in short programs is seldom
    ordered: list[Node] = []
    numbers: dict[int, int] = {}
    slots: dict[int, int] = {}  # group -> number, as they are met

    def visit(root: int) -> int:
        nonlocal hashes
        stack = [root]
        while stack:
            number = stack[-1]
            if number in numbers:
                stack.pop()
                continue
            op, inputs, detail = nodes[number]
            if op in _COMMUTATIVE and inputs[0] != inputs[1]:
                hashes = hashes or _structural_hashes(nodes, _reached(nodes, update, following))
                if hashes[inputs[0]] > hashes[inputs[1]]:
                    inputs = inputs[::-1]
            waiting = [source for source in inputs if source not in numbers]
            if waiting:
                stack.extend(reversed(waiting))
                continue
            if op == "slot":
                detail = str(slots.setdefault(int(detail), len(slots)))
            numbers[number] = len(ordered)
            ordered.append((op, tuple([numbers[source] for source in inputs]), detail))
            stack.pop()
        return numbers[root]

    visit(update)
    carried: list[int] = []
    while len(carried) < len(slots):
        group = list(slots)[len(carried)]
        carried.append(visit(following[group]))
    return CanonicalForm(tuple(ordered), numbers[update], tuple(carried))


def _reached(nodes: Sequence[Node], update: int, following: Mapping[int, int]) -> dict[int, int]:
    """The part of `following` that the update needs: folding may have cut off slots that the live code carries."""
    reached: dict[int, int] = {}
    seen: set[int] = set()
    stack = [update]
    while stack:
        number = stack.pop()
        if number in seen:
            continue
        seen.add(number)
        op, inputs, detail = nodes[number]
        stack.extend(inputs)
        if op == "slot":
            reached[int(detail)] = following[int(detail)]
            stack.append(following[int(detail)])
    return reached


def _structural_hashes(nodes: Sequence[Node], following: Mapping[int, int]) -> list[int]:
    """A number for each value that depends on what it computes, not on how values and slots are numbered."""
    of_slots, told_apart = dict.fromkeys(following, 0), 0
    while True:
        hashes: list[int] = []
        for op, inputs, detail in nodes:
            if op == "slot":
                hashes.append(_mixed(op, of_slots.get(int(detail), 0)))
            elif op in _COMMUTATIVE:
                hashes.append(_mixed(op, *sorted([hashes[source] for source in inputs])))
            else:
                hashes.append(_mixed(op + detail, *[hashes[source] for source in inputs]))
        of_slots = {group: hashes[number] for group, number in following.items()}
        if len(set(of_slots.values())) <= told_apart:  # another round would tell no more slots apart
            return hashes
        told_apart = len(set(of_slots.values()))


def _mixed(text: str, *numbers: int) -> int:
    """64 bits that depend on all of it, the same in every process."""
    state = _hash_of(text)
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    return state


@lru_cache(maxsize=65536)
def _hash_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def source_name(op: str, detail: str) -> str:
    """What a source is called in a form's text."""
    return repr(float.fromhex(detail)) if op == "const" else f"s{detail}" if op == "slot" else op
