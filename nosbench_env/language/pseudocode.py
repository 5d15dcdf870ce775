"""Notation: what a program computes in a step, as a person would write it down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nosbench_env.language.canonical import CanonicalForm, Node, canonical_form
from nosbench_env.language.program import Program

_PARAM, _SOURCES = "w", {"param": "w", "grad": "g", "step": "t"}
_LONGEST_INLINED = 60  # characters, or so; what is longer gets a name of its own

# How tightly an operation binds: names and calls more than a power, that more than a product.
_SUM, _PRODUCT, _POWER, _ATOM = 1, 2, 3, 4
_INFIX = {"add": (" + ", _SUM), "sub": (" - ", _SUM), "mul": ("*", _PRODUCT), "div": ("/", _PRODUCT)}


@dataclass(frozen=True, slots=True)
class Term:
    """A value, as the expression that computes it.

    Attributes:
        op: "name", "number", or an operation: "pow", or one of `FUNCTIONS`, but for `square`, `clip`, `interpolate` and
            `bias_correct`, which are written with others.
        inputs: What it is computed from.
        text: The name, or the number: a float32 in the fewest digits that tell it from all others.
    """

    op: str
    inputs: tuple[Term, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A line of pseudocode: `name` becomes the value of `term`."""

    name: str
    term: Term


def assignments(program: Program) -> list[Assignment]:
    """What a program does in a step, as assignments one after the other; one of them is to `w`.

    They are made from the canonical form, so programs of one form read alike: what makes no difference is gone, and
    constants are computed. `w` is the parameter, `g` its gradient, `t` the step (1 at the first). `m`, or `m1`, `m2`,
    ..., is remembered from step to step and 0 before the first; `x`, or `x1`, `x2`, ..., belongs to the step. Where a
    remembered value is needed after its successor is known, it is kept as `m_old`. If `w` never changes there are none.

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    form = canonical_form(program)
    return [] if form.behaviour == "no-op" else _Writer(form).assignments()


def pseudocode(program: Program, *, exact: bool = False) -> str:
    """A program as a person would write it, in infix notation; see `assignments` for the names.

    Computed from left to right and as the parentheses say, it gives the program's updates, to the last bit where the
    constants are exact. It reads as Python, too. `size(w)` is the number of elements; `norm`, `mean` and `std` are
    those of the whole tensor.

    Args:
        program: The program.
        exact: Whether constants have all digits of their float32 values; else four, or six near 1 (0.1, not
            0.100000024).

    Raises:
        TypeError: If `program` is not a `Program`.

    >>> print(pseudocode(Program.parse("r9 = sub(1.0, 0.1); r10 = interpolate(r10, grad, r9); r11 = mul(r10, 0.01)")))
    m = 0.9*m + 0.1*g
    w = w - 0.01*m
    """
    lines = [f"{line.name} = {_written(line.term, exact)[0]}" for line in assignments(program)]
    return "\n".join(lines) or f"# {_PARAM} never changes"


class _Writer:
    """Writes a canonical form as assignments: which values get a line, under which name, and in which order."""

    def __init__(self, form: CanonicalForm) -> None:
        # The new parameter as a further node.
        self._nodes: tuple[Node, ...] = (
            *form.nodes,
            ("param", (), ""),
            ("sub", (len(form.nodes), form.update), ""),
        )
        self._carried = form.carried
        self._memories = _numbered("m", len(form.carried))
        new_param = len(self._nodes) - 1
        named = self._values_with_a_line(new_param)
        temporaries = sorted(named - {new_param, *form.carried})
        self._names = {new_param: _PARAM, **dict(zip(temporaries, _numbered("x", len(temporaries)), strict=True))}
        for memory, number in zip(self._memories, form.carried, strict=True):
            if number in named:
                self._names.setdefault(number, memory)

    def _values_with_a_line(self, new_param: int) -> set[int]:
        """The new parameter, what is remembered, what is read twice, and what is long."""
        users = [0] * len(self._nodes)
        for op, inputs, _ in self._nodes:
            for source in set(inputs) if op == "mul" else inputs:  # x * x is written x**2
                users[source] += 1
        named = {new_param, *(number for number in self._carried if self._nodes[number][1])}
        lengths: list[int] = []
        for number, (op, inputs, _) in enumerate(self._nodes):
            of_inputs = [2 if source in named else lengths[source] for source in inputs]
            lengths.append(sum(of_inputs) + (3 if op in _INFIX else len(op) + 2))
            if inputs and (users[number] > 1 or lengths[-1] > _LONGEST_INLINED):
                named.add(number)
        return named

    def assignments(self) -> list[Assignment]:
        """The assignments, in an order in which each finds the values it needs."""
        lines: dict[str, int] = {self._names[number]: number for number in sorted(self._names)}
        copies = {name: number for name, number in zip(self._memories, self._carried, strict=True) if name not in lines}
        lines = copies | lines
        kept: dict[int, str] = {}  # slot -> the name under which its old value is kept
        while (order := self._ordered(lines, kept)) is None:
            pass
        keeping = [Assignment(name, Term("name", text=self._memories[slot])) for slot, name in kept.items()]
        return keeping + [Assignment(name, self._line(name, lines[name], kept)) for name in order]

    def _ordered(self, lines: Mapping[str, int], kept: dict[int, str]) -> list[str] | None:
        """The lines in order; or None, having decided to keep one more old value, without which there is no order."""
        reads = {name: self._reads(name, number) for name, number in lines.items()}
        order: list[str] = []
        waiting = list(lines)
        while waiting:
            for name in waiting:
                if not self._blocking(name, waiting, reads, kept):
                    order.append(name)
                    waiting.remove(name)
                    break
            else:
                slots = {self._memories[slot]: slot for slot in range(len(self._memories)) if slot not in kept}
                slot = next(
                    slots[name]
                    for name in waiting
                    if name in slots and any(("old", name) in reads[other] for other in waiting if other != name)
                )
                kept[slot] = f"{self._memories[slot]}_old"
                return None
        return order

    def _blocking(
        self, name: str, waiting: Sequence[str], reads: Mapping[str, set[tuple[str, str]]], kept: Mapping[int, str]
    ) -> bool:
        """Whether a line has to wait: for what it reads, or for a line that reads what it overwrites."""
        if any(("new", other) in reads[name] for other in waiting):
            return True
        if name in self._memories and self._memories.index(name) in kept:
            return False
        return any(("old", name) in reads[other] for other in waiting if other != name)

    def _reads(self, name: str, number: int) -> set[tuple[str, str]]:
        """What a line reads: "new" names, and "old" ones, of values as they are before the step."""
        found: set[tuple[str, str]] = set()
        stack = [number] if self._names.get(number, name) != name else [*self._nodes[number][1]] or [number]
        while stack:
            source = stack.pop()
            op, inputs, detail = self._nodes[source]
            if source in self._names:
                found.add(("new", self._names[source]))
            elif op == "slot":
                found.add(("old", self._memories[int(detail)]))
            elif op == "param":
                found.add(("old", _PARAM))
            stack += [] if source in self._names else inputs
        return found

    def _line(self, name: str, number: int, kept: Mapping[int, str]) -> Term:
        op, inputs, _ = self._nodes[number]
        if not inputs or self._names[number] != name:  # a copy
            return self._term(number, kept)
        return _tidied(op, [self._term(source, kept) for source in inputs])

    def _term(self, number: int, kept: Mapping[int, str]) -> Term:
        op, inputs, detail = self._nodes[number]
        if number in self._names:
            return Term("name", text=self._names[number])
        if op == "slot":
            return Term("name", text=kept.get(int(detail), self._memories[int(detail)]))
        if op == "const":
            return Term("number", text=str(np.float32(float.fromhex(detail))))
        if op == "numel":
            return Term("size", (Term("name", text=_PARAM),))
        if not inputs:
            return Term("name", text=_SOURCES[op])
        return _tidied(op, [self._term(source, kept) for source in inputs])


def _numbered(letter: str, count: int) -> list[str]:
    return [letter] if count == 1 else [f"{letter}{number}" for number in range(1, count + 1)]


def _tidied(op: str, inputs: list[Term]) -> Term:
    """The same value as people write it: `x**2`, `x - 1` for `-1 + x`, constant factors and memories first."""
    if op == "mul" and inputs[0] == inputs[1]:
        return Term("pow", (inputs[0], Term("number", text="2.0")))
    if op == "mul":
        inputs = sorted(inputs, key=lambda term: (term.op != "number", term.op not in ("mul", "div")))
    elif op == "add":
        inputs = sorted(inputs, key=lambda term: (term.op == "number", term.op not in ("add", "sub"), not _old(term)))
        if _opposite(inputs[0]) is not None and inputs[1].op != "number":
            inputs.reverse()
    if op in ("add", "sub") and (opposite := _opposite(inputs[1])) is not None:
        op, inputs[1] = "sub" if op == "add" else "add", opposite
    return Term(op, tuple(inputs))


def _opposite(term: Term) -> Term | None:
    """What a negative number, or a product with one, is the opposite of."""
    if term.op == "number" and term.text.startswith("-"):
        return Term("number", text=term.text[1:])
    if term.op == "mul" and (factor := _opposite(term.inputs[0])) is not None and term.inputs[0].op == "number":
        return Term("mul", (factor, *term.inputs[1:]))
    return None


def _old(term: Term) -> bool:
    """Whether a term reads a memory."""
    return term.text.startswith("m") or any(_old(source) for source in term.inputs)


def _written(term: Term, exact: bool) -> tuple[str, int]:
    """A term as text, and how tightly it binds."""
    if term.op == "name":
        return term.text, _ATOM
    if term.op == "number":
        return _number(term.text, exact)
    if term.op == "pow":
        return "**".join(_bound(source, _ATOM, exact) for source in term.inputs), _POWER
    if term.op not in _INFIX:
        return f"{term.op}({', '.join(_written(source, exact)[0] for source in term.inputs)})", _ATOM
    sign, binding = _INFIX[term.op]
    left, right = term.inputs
    return f"{_bound(left, binding, exact)}{sign}{_bound(right, binding + 1, exact)}", binding


def _bound(term: Term, least: int, exact: bool) -> str:
    """A term in parentheses, unless it binds tightly enough."""
    text, binding = _written(term, exact)
    return text if binding >= least else f"({text})"


def _number(text: str, exact: bool) -> tuple[str, int]:
    if not exact:
        text = f"{float(text):.{6 if 0.9 < abs(float(text)) < 1.1 else 4}g}"
    text = text.removesuffix(".0")
    return text, _SUM if text.startswith("-") else _ATOM
