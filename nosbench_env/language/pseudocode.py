"""Pseudocode of a program's step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from nosbench_env.language.canonical import CanonicalForm, Node, canonical_form
from nosbench_env.language.program import Program

_PARAM, _SOURCES = "w", {"param": "w", "grad": "g", "step": "t"}
_LONGEST_INLINED = 60  # characters, roughly; a longer value gets a name of its own


class Binding(IntEnum):
    """The precedence of an expression, the lowest first."""

    SUM = 1
    PRODUCT = 2
    SIGN = 3
    POWER = 4
    ATOM = 5  # a name, a number, a call, or an expression in parentheses


INFIX = {
    "add": ("+", Binding.SUM),
    "sub": ("-", Binding.SUM),
    "mul": ("*", Binding.PRODUCT),
    "div": ("/", Binding.PRODUCT),
}


@dataclass(frozen=True, slots=True)
class Term:
    """A value as an expression.

    Attributes:
        op: "name", "number", or one of `OPERATIONS` except "square".
        inputs: The operands of an operation.
        text: The name; or the number, a float32 in the fewest digits that identify it.
    """

    op: str
    inputs: tuple[Term, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A line of pseudocode: `name = term`."""

    name: str
    term: Term


def assignments(form: CanonicalForm) -> list[Assignment]:
    """Writes a step as a sequence of assignments.

    One of them is to `w`. There are none if `w` never changes.

    Unnecessary code is gone and constants are folded. `w` is the parameter, `g` its gradient, `t` the step (1 at the
    first). `m`, or `m1`, `m2`, ..., keeps its value from step to step and is 0 before the first. `x`, or `x1`, `x2`,
    ..., is local to the step. If the old value of a memory is needed after the new one is assigned, it is kept as
    `m_old`.
    """
    return [] if form.behaviour == "no-op" else _Writer(form).assignments()


def memory_names(form: CanonicalForm) -> list[str]:
    """Returns the carried slots' names in `assignments`."""
    return _numbered("m", len(form.carried))


def is_memory(name: str) -> bool:
    """Returns True for the name of a carried slot."""
    return name.startswith("m") and not name.endswith("_old")


def pseudocode_lines(form: CanonicalForm, *, exact: bool = False) -> list[str]:
    """Returns the lines of `pseudocode`, given the canonical form."""
    lines = [f"{line.name} = {_written(line.term, exact)[0]}" for line in assignments(form)]
    return lines or [f"# {_PARAM} never changes"]


def pseudocode(program: Program, *, exact: bool = False) -> str:
    """Writes a program in infix notation.

    `assignments` explains the names.

    The text is also valid Python. Evaluated from left to right and by the parentheses, it gives the program's updates,
    to the last bit if the constants are exact. `size(w)` is the number of elements; `norm`, `mean` and `std` are taken
    over the whole tensor.

    Args:
        program: The program.
        exact: Writes all digits of the constants' float32 values (0.100000024); by default four, or six near 1 (0.1).

    Raises:
        TypeError: If `program` is not a `Program`.

    >>> print(pseudocode(Program.parse("r9 = sub(1.0, 0.1); r10 = interpolate(r10, grad, r9); r11 = mul(r10, 0.01)")))
    m = 0.9*m + 0.1*g
    w = w - 0.01*m
    """
    return "\n".join(pseudocode_lines(canonical_form(program), exact=exact))


class _Writer:
    """The assignments of a canonical form: their values, names and order."""

    def __init__(self, form: CanonicalForm) -> None:
        # The new parameter as a further node.
        self._nodes: tuple[Node, ...] = (
            *form.nodes,
            ("param", (), ""),
            ("sub", (len(form.nodes), form.update), ""),
        )
        self._carried = form.carried
        self._memories = memory_names(form)
        new_param = len(self._nodes) - 1
        named = self._values_with_a_line(new_param)
        temporaries = sorted(named - {new_param, *form.carried})
        self._names = {new_param: _PARAM, **dict(zip(temporaries, _numbered("x", len(temporaries)), strict=True))}
        for memory, number in zip(self._memories, form.carried, strict=True):
            if number in named:
                self._names.setdefault(number, memory)

    def _values_with_a_line(self, new_param: int) -> set[int]:
        """Returns the new parameter, memories, long values, and values read twice."""
        users = [0] * len(self._nodes)
        for op, inputs, _ in self._nodes:
            for source in set(inputs) if op == "mul" else inputs:  # x * x is written x**2
                users[source] += 1
        named = {new_param, *(number for number in self._carried if self._nodes[number][1])}
        lengths: list[int] = []
        for number, (op, inputs, _) in enumerate(self._nodes):
            of_inputs = [2 if source in named else lengths[source] for source in inputs]
            lengths.append(sum(of_inputs) + (3 if op in INFIX else len(op) + 2))
            if inputs and (users[number] > 1 or lengths[-1] > _LONGEST_INLINED):
                named.add(number)
        return named

    def assignments(self) -> list[Assignment]:
        """Returns the assignments in an executable order."""
        lines: dict[str, int] = {self._names[number]: number for number in sorted(self._names)}
        copies = {name: number for name, number in zip(self._memories, self._carried, strict=True) if name not in lines}
        lines = copies | lines
        kept: dict[int, str] = {}  # slot -> the name under which its old value is kept
        while (order := self._ordered(lines, kept)) is None:
            pass
        keeping = [Assignment(name, Term("name", text=self._memories[slot])) for slot, name in kept.items()]
        return keeping + [Assignment(name, self._line(name, lines[name], kept)) for name in order]

    def _ordered(self, lines: Mapping[str, int], kept: dict[int, str]) -> list[str] | None:
        """Sorts the lines, or adds an old value to `kept`, returning None."""
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
        """Returns True if inputs, or the old value's readers, come first."""
        if any(("new", other) in reads[name] for other in waiting):
            return True
        if name in self._memories and self._memories.index(name) in kept:
            return False
        return any(("old", name) in reads[other] for other in waiting if other != name)

    def _reads(self, name: str, number: int) -> set[tuple[str, str]]:
        """Returns the names a line reads, "new" (of this step) or "old"."""
        reads: set[tuple[str, str]] = set()
        stack = [number] if self._names.get(number, name) != name else [*self._nodes[number][1]] or [number]
        while stack:
            source = stack.pop()
            op, inputs, detail = self._nodes[source]
            if source in self._names:
                reads.add(("new", self._names[source]))
            elif op == "slot":
                reads.add(("old", self._memories[int(detail)]))
            elif op == "param":
                reads.add(("old", _PARAM))
            stack += [] if source in self._names else inputs
        return reads

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
    """Writes `x**2` for `x * x`, `x - 1` for `-1 + x`, constant factors and memories first."""
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
    """Negates a negative number or product; None for other terms."""
    if term.op == "number" and term.text.startswith("-"):
        return Term("number", text=term.text[1:])
    if term.op == "mul" and (factor := _opposite(term.inputs[0])) is not None and term.inputs[0].op == "number":
        return Term("mul", (factor, *term.inputs[1:]))
    return None


def _old(term: Term) -> bool:
    """Returns True if a term reads a memory."""
    return term.text.startswith("m") or any(_old(source) for source in term.inputs)


def _written(term: Term, exact: bool) -> tuple[str, Binding]:
    """Returns a term's text and binding."""
    if term.op == "name":
        return term.text, Binding.ATOM
    if term.op == "number":
        return _number(term.text, exact)
    if term.op == "pow":
        return "**".join(_bound(source, Binding.ATOM, exact) for source in term.inputs), Binding.POWER
    if term.op not in INFIX:
        return f"{term.op}({', '.join(_written(source, exact)[0] for source in term.inputs)})", Binding.ATOM
    sign, binding = INFIX[term.op]
    left, right = term.inputs
    space = " " if binding == Binding.SUM else ""
    return f"{_bound(left, binding, exact)}{space}{sign}{space}{_bound(right, binding + 1, exact)}", binding


def _bound(term: Term, least: int, exact: bool) -> str:
    """Returns a term's text, in parentheses if needed."""
    text, binding = _written(term, exact)
    return text if binding >= least else f"({text})"


def _number(text: str, exact: bool) -> tuple[str, Binding]:
    if not exact:
        text = f"{float(text):.{6 if 0.9 < abs(float(text)) < 1.1 else 4}g}"
    text = text.removesuffix(".0")
    return text, Binding.SUM if text.startswith("-") else Binding.ATOM
