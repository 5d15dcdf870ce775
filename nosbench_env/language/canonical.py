"""Canonical forms, equal for programs that certainly compute the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Literal

import numpy as np

from nosbench_env.language.functions import COMMUTATIVE, PER_TENSOR
from nosbench_env.language.live_code import Kind, apply, live_code, result_kind, scalar
from nosbench_env.language.program import CONSTANTS, GRAD, PARAM, STEP, Instruction, Program, check_program

CANONICAL_VERSION = 1

Behaviour = Literal["no-op", "constant", "schedule", "gradient-free", "gradient-based"]
Node = tuple[str, tuple[int, ...], str]  # operation, inputs, and the value of a constant or the number of a slot

# Constants are known by their hexadecimal text, which tells 0 from -0 and is equal for NaN.
_ZERO, _MINUS_ZERO, _ONE, _TWO, _NAN = (value.hex() for value in (0.0, -0.0, 1.0, 2.0, math.nan))
_NOT_NEGATIVE = frozenset(("abs", "exp", "norm", "std", "numel"))  # results that are +0, positive or NaN

# The shapes of a value: always 0-d; 0-d at first, then an array (as in a slot, which starts as 0); always an array.
_SCALAR, _MIXED, _ARRAY = 0, 1, 2

_SOURCE_KINDS = {"param": Kind.ARRAY, "grad": Kind.ARRAY, "numel": Kind.TENSOR, "step": Kind.STEP, "const": Kind.CONST}

# The first nodes of every graph: the values of the slots that are set before a step.
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
    """The computation of a step as a graph of values.

    Programs with equal `text` are the same optimizer: they give equal updates, up to the payload of a NaN and the sign
    of a zero that came out of `minimum`, `maximum` or `clip`. The converse does not hold: the rules do not recognise
    every rewriting.

    Attributes:
        nodes: The values in the order of computation, as (operation, numbers of its inputs, detail). Sources are
            "param", "grad", "step", "numel", "const" (detail: its value as a hexadecimal float) and "slot" (the value
            of a carried slot before the step; detail: its number). Operations are `OPERATIONS` without "square".
        update: The number of the value that is subtracted from the parameter.
        carried: The number of the value that each carried slot holds after the step. All start as the 0-d 0.
    """

    nodes: tuple[Node, ...]
    update: int
    carried: tuple[int, ...]

    @cached_property
    def text(self) -> str:
        """The text, with a line per operation, carried slot and update."""
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
        """A 128-bit hash of `text`, in hexadecimal."""
        return blake2b(self.text.encode(), digest_size=16).hexdigest()

    @cached_property
    def behaviour(self) -> Behaviour:
        """The inputs that the update depends on.

        "no-op": the update is always 0. "constant": it is the same number at every step. "schedule": it depends on the
        step number alone. "gradient-free": it depends on the parameter, not on the gradient. "gradient-based": it
        depends on the gradient.
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

    @cached_property
    def kinds(self) -> tuple[tuple[Kind, ...], ...]:
        """The kinds of the values at each step.

        The first entry is for the first step. The last entry is for all later steps.

        A carried slot starts as the scalar 0 and may hold an array later; its kind never decreases.
        """
        slots, steps = [Kind.STEP] * len(self.carried), []
        while True:
            kinds: list[Kind] = []
            for op, inputs, detail in self.nodes:
                if inputs:
                    kinds.append(result_kind(op, [kinds[number] for number in inputs]))
                else:
                    kinds.append(slots[int(detail)] if op == "slot" else _SOURCE_KINDS[op])
            steps.append(tuple(kinds))
            after = [max(Kind.STEP, kinds[number]) for number in self.carried]
            if after == slots:
                return tuple(steps)
            slots = after

    def __str__(self) -> str:
        return f"canonical-{CANONICAL_VERSION}:{self.digest}"


def canonical_form(program: Program) -> CanonicalForm:
    """Returns the canonical form of a program.

    Code that cannot reach an update, also of a later step, is removed. Constants are folded with torch's 0-d
    operations, as execution computes them. A slot that never leaves 0 becomes the constant 0. Slots that always hold
    the same value become one. The inputs of commutative operations are sorted, and slots have no names.

    The other rules are identities that hold to the last bit: `x * 1`, `x / 1` and `x - 0` are x; `square(x)` is `x * x`
    and `x + x` is `x * 2`; subtraction of a constant is addition, division by a power of two multiplication;
    `minimum(x, x)` and `maximum(x, x)` are x, as are `sign` of a sign and `abs` of a value that is never negative;
    reductions of 0-d values are the value, its `abs`, or a constant. No rule changes a value's shape.

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
    """A carried slot's shape and group of equal slots (group 0: zeros)."""

    group: int = 0
    shape: int = _SCALAR


def value_graph(program: Program) -> ValueGraph:
    """Returns the graph of a step's live code.

    At first all carried slots are assumed to be 0-d and to stay 0. Assumptions that a step contradicts are dropped, and
    the graph is built again. The remaining ones hold before the first step and are preserved by every step.
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
    """Returns the groups as (True for group 0, shape, slots)."""
    members: dict[Slot, list[int]] = {}
    for number, slot in slots.items():
        members.setdefault(slot, []).append(number)
    return {(slot.group == 0, slot.shape, tuple(numbers)) for slot, numbers in members.items()}


class ValueGraph:
    """The distinct, numbered values of a step.

    Args:
        code: The live code.
        slots: The properties of the carried slots.

    Attributes:
        nodes: See `CanonicalForm`; the detail of a "slot" is the number of its group.
        shapes: The shape of each value.
        values: The value of each instruction; without instructions, the update, 0.
        memory: The value of each slot after the step.
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
        """Adds a constant, given as hexadecimal text."""
        return self.add("const", (), _SCALAR, value)

    def add(self, op: str, inputs: tuple[int, ...], shape: int, detail: str = "") -> int:
        """Returns the number of a value, new or known."""
        node = op, inputs, detail
        number = self._numbers.get(node)
        if number is None:
            number = self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
            self.shapes.append(shape)
        return number

    def apply(self, op: str, a: int, b: int = -1, c: int = -1) -> int:
        """Adds a function, rewritten with simpler operations if possible."""
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
        if op in PER_TENSOR:
            if shape == _SCALAR:
                if op == "mean":  # the mean of the scalar -0 is +0
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
        left, right = self.nodes[a][2], self.nodes[b][2]  # of constants the text; no slot's number equals one
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
        if op in COMMUTATIVE and a > b:
            a, b = b, a
        return self.add(op, (a, b), shape)


@lru_cache(maxsize=65536)
def _folded(op: str, *inputs: str) -> str:
    """Computes an operation on constants."""
    return float(apply(op, *(scalar(float.fromhex(value)) for value in inputs)).item()).hex()


def _negated(constant: str) -> str:
    return constant.removeprefix("-") if constant.startswith("-") or constant == _NAN else f"-{constant}"


@lru_cache(maxsize=65536)
def _exact_inverse(constant: str) -> str | None:
    """Returns the reciprocal of a power of two.

    Returns None for other numbers, and if one of the two is not a normal float32 number.
    """
    mantissa, exponent = math.frexp(float.fromhex(constant))
    return (1 / float.fromhex(constant)).hex() if abs(mantissa) == 0.5 and -125 <= exponent <= 126 else None


def _ordered(nodes: Sequence[Node], update: int, following: Mapping[int, int]) -> CanonicalForm:
    """Sorts nodes and slots by their computation alone.

    Args:
        nodes: The values; unused ones are left out.
        update: The number of the update.
        following: The value that each group of slots holds after the step.
    """
    hashes: list[int] = []  # computed at the first need, which is rare in short programs
    ordered: list[Node] = []
    numbers: dict[int, int] = {}
    slots: dict[int, int] = {}  # group -> number, in the order of visits

    def visit(root: int) -> int:
        nonlocal hashes
        stack = [root]
        while stack:
            number = stack[-1]
            if number in numbers:
                stack.pop()
                continue
            op, inputs, detail = nodes[number]
            if op in COMMUTATIVE and inputs[0] != inputs[1]:
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
    """Returns the part of `following` that the update still needs after folding."""
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
    """Hashes each value's computation, independently of its number."""
    of_slots, distinct = dict.fromkeys(following, 0), 0
    while True:
        hashes: list[int] = []
        for op, inputs, detail in nodes:
            if op == "slot":
                hashes.append(_mixed(op, of_slots.get(int(detail), 0)))
            elif op in COMMUTATIVE:
                hashes.append(_mixed(op, *sorted([hashes[source] for source in inputs])))
            else:
                hashes.append(_mixed(op + detail, *[hashes[source] for source in inputs]))
        of_slots = {group: hashes[number] for group, number in following.items()}
        if len(set(of_slots.values())) <= distinct:  # another round would distinguish no more slots
            return hashes
        distinct = len(set(of_slots.values()))


def _mixed(text: str, *numbers: int) -> int:
    """Hashes a text and numbers to 64 bits, equally in every process."""
    state = _hash_of(text)
    for number in numbers:
        state = (state ^ number) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 29
    return state


@lru_cache(maxsize=65536)
def _hash_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def source_name(op: str, detail: str) -> str:
    """Returns a source's name in the text."""
    return repr(float.fromhex(detail)) if op == "const" else f"s{detail}" if op == "slot" else op
