"""The lines of exported code: their order and names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nosbench_env.export.names import memory_name, value_name
from nosbench_env.language.canonical import CanonicalForm
from nosbench_env.language.functions import PER_TENSOR
from nosbench_env.language.live_code import Kind, result_kind
from nosbench_env.language.pseudocode import INFIX, Assignment, Term, assignments, is_memory, memory_names

_MAX_INLINED = 14  # operations and values in a line, roughly; longer values keep lines of their own
_MAX_LENGTH = 90  # characters, roughly; longer lines are split

_PARAM, _GRAD, _TIME = Term("name", text="param"), Term("name", text="grad"), Term("name", text="t")
_FIXED = {"w": "param", "g": "grad", "t": "t"}
_FIXED_KINDS = dict.fromkeys(("w", "param", "g", "grad"), Kind.ARRAY) | {"t": Kind.STEP}
_TWO = Term("number", text="2.0")


@dataclass(frozen=True)
class Step:
    """The lines of a program's step for one tensor.

    Names are "param", "grad", "t" (the step, 1 at the first), those of `memories`, and those of earlier lines.

    Attributes:
        schedule: Lines that depend on the step number alone, computed once for all tensors.
        lines: The other lines, in order; that of "param" has the update as its term.
        memories: The values that are kept from step to step, 0 before the first, and their kinds: `Kind.ARRAY`, or
            `Kind.TENSOR` for one number per tensor.
        kinds: The kinds of all names.
        added: True if the update is added to the parameter, False if it is subtracted.
        grows: True if the result depends on memories being numbers before the first step and arrays later, which
            functions such as `std` see.
    """

    schedule: tuple[Assignment, ...]
    lines: tuple[Assignment, ...]
    memories: Mapping[str, Kind]
    kinds: Mapping[str, Kind]
    added: bool
    grows: bool

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """All terms of all lines."""
        return tuple(term for line in (*self.schedule, *self.lines) for term in subterms(line.term))

    @cached_property
    def reads(self) -> frozenset[str]:
        """All names that are read."""
        return frozenset(term.text for term in self.terms if term.op == "name")

    @property
    def counts_steps(self) -> bool:
        """True if a line reads the step number."""
        return bool(self.schedule)

    def kind(self, term: Term) -> Kind:
        """Returns the kind of a term of the step."""
        return kind_of(term, self.kinds)


def step_of(form: CanonicalForm) -> Step:
    """Writes a canonical form as lines with readable names."""
    written = assignments(form) or [Assignment("w", Term("sub", (Term("name", text="w"), _number("0.0"))))]
    place = next(place for place, line in enumerate(written) if line.name == "w")
    update = written[place].term
    written[place] = Assignment("w", update.inputs[1])
    remembered = list(dict.fromkeys(line.name for line in written if is_memory(line.name)))
    # A memory belongs to a tensor, even one that depends on the step number alone.
    slots = dict(zip(memory_names(form), form.carried, strict=True))
    memories = {name: max(Kind.TENSOR, form.kinds[-1][slots[name]]) for name in remembered}
    schedule, lines = _scheduled(written, _kinds(written, memories))
    lines = _shortened(_with_update(_inlined(_split(lines))))
    names = _chosen_names(schedule, lines, remembered)
    schedule = [Assignment(names[line.name], _renamed(line.term, names)) for line in schedule]
    lines = [Assignment(names[line.name], _renamed(line.term, names)) for line in lines]
    memories = {names[name]: kind for name, kind in memories.items()}
    first, last = form.kinds[0], form.kinds[-1]
    return Step(
        schedule=tuple(schedule),
        lines=tuple(lines),
        memories=memories,
        kinds=_kinds([*schedule, *lines], memories),
        added=update.op == "add",
        grows=any(op in PER_TENSOR and first[i[0]] < last[i[0]] == Kind.ARRAY for op, i, _ in form.nodes),
    )


def kind_of(term: Term, kinds: Mapping[str, Kind]) -> Kind:
    """Returns the kind of a term."""
    if not term.inputs:
        return Kind.CONST if term.op == "number" else kinds[term.text]
    return result_kind(term.op, [kind_of(source, kinds) for source in term.inputs])


def names_in(term: Term) -> Counter[str]:
    """Counts the names that a term reads."""
    return Counter(part.text for part in subterms(term) if part.op == "name")


def is_square(term: Term) -> bool:
    """Returns True if a term is x**2."""
    return term.op == "pow" and term.inputs[1] == _TWO


def _number(text: str) -> Term:
    return Term("number", text=text)


def subterms(term: Term) -> Iterator[Term]:
    """Yields a term and all terms that it contains."""
    yield term
    for source in term.inputs:
        yield from subterms(source)


def _kinds(lines: Iterable[Assignment], memories: Mapping[str, Kind]) -> dict[str, Kind]:
    """Returns the kinds of all names."""
    kinds = {**_FIXED_KINDS, **memories}
    for line in lines:
        kinds.setdefault(line.name, kind_of(line.term, kinds))
    return kinds


def _split(lines: Sequence[Assignment]) -> list[Assignment]:
    """Puts the common divisors `sqrt(...) + number` on lines of their own."""
    split: list[Assignment] = []
    count = 0

    def without_divisors(term: Term) -> Term:
        nonlocal count
        inputs = [without_divisors(source) for source in term.inputs]
        if term.op == "div" and inputs[1].op == "add" and inputs[1].inputs[0].op == "sqrt":
            count += 1
            split.append(Assignment(f"x_denom{count}", inputs[1]))
            inputs[1] = Term("name", text=f"x_denom{count}")
        return replace(term, inputs=tuple(inputs))

    for line in lines:
        term = without_divisors(line.term)
        split.append(Assignment(line.name, term))
    return split


def _inlined(lines: list[Assignment]) -> list[Assignment]:
    """Inlines values that are read once, where the line stays short."""
    place = 0
    while place < len(lines):
        name, term = lines[place].name, lines[place].term
        readers = [at for at, line in enumerate(lines) if name in names_in(line.term)]
        if (
            name.startswith("x")
            and "denom" not in name
            and len(readers) == 1
            and names_in(lines[readers[0]].term)[name] == 1
        ):
            (reader,) = readers
            between = {line.name for line in lines[place + 1 : reader]}
            inlined = _replaced(lines[reader].term, {name: term})
            length = sum(1 for _ in subterms(inlined))
            if not between & set(names_in(term)) and length <= _MAX_INLINED:
                lines[reader] = Assignment(lines[reader].name, inlined)
                del lines[place]
                continue
        place += 1
    return lines


def _scheduled(lines: Sequence[Assignment], kinds: Mapping[str, Kind]) -> tuple[list[Assignment], list[Assignment]]:
    """Separates values that depend on the step number alone."""
    schedule: list[Assignment] = []
    rest: list[Assignment] = []
    numbers: dict[Term, str] = {}

    def without_schedule(term: Term) -> Term:
        if kind_of(term, kinds) == Kind.STEP:
            if term not in numbers:
                numbers[term] = f"s{len(numbers) + 1}"
                schedule.append(Assignment(numbers[term], term))
            return Term("name", text=numbers[term])
        return replace(term, inputs=tuple(without_schedule(source) for source in term.inputs))

    for line in lines:
        if line.name != "w" and not is_memory(line.name) and kinds[line.name] == Kind.STEP:
            schedule.append(line)
        else:
            rest.append(Assignment(line.name, without_schedule(line.term)))
    return schedule, rest


def _with_update(lines: Sequence[Assignment]) -> list[Assignment]:
    """Puts the update on a line of its own."""
    separated: list[Assignment] = []
    for line in lines:
        if line.name == "w" and line.term.inputs:
            separated.append(Assignment("x_update", line.term))
            line = Assignment("w", Term("name", text="x_update"))
        separated.append(line)
    return separated


def _shortened(lines: Sequence[Assignment]) -> list[Assignment]:
    """Splits long lines into several."""
    short: list[Assignment] = []
    for line in lines:
        term = line.term
        while _length(term) > _MAX_LENGTH:
            parts = [part for part in subterms(term) if part.inputs and part is not term]
            part = min(parts, key=lambda part: abs(_length(part) - _MAX_LENGTH / 2))
            name = f"x_part{len(short)}"
            short.append(Assignment(name, part))
            term = _without(term, part, Term("name", text=name))
        short.append(Assignment(line.name, term))
    return short


def _without(term: Term, part: Term, name: Term) -> Term:
    if term == part:
        return name
    return replace(term, inputs=tuple(_without(source, part, name) for source in term.inputs))


def _length(term: Term) -> int:
    """Estimates the number of characters of a term in code."""
    if not term.inputs:
        return len(term.text) if term.op == "number" else 12
    return sum(map(_length, term.inputs)) + (3 if term.op in INFIX else 16)


def _replaced(term: Term, values: Mapping[str, Term]) -> Term:
    if term.op == "name":
        return values.get(term.text, term)
    return replace(term, inputs=tuple(_replaced(source, values) for source in term.inputs))


def _renamed(term: Term, names: Mapping[str, str]) -> Term:
    return _replaced(term, {old: Term("name", text=new) for old, new in names.items()})


def _chosen_names(
    schedule: Sequence[Assignment], lines: Sequence[Assignment], remembered: Sequence[str]
) -> dict[str, str]:
    """Chooses readable names, numbered if several would be equal."""
    terms = {line.name: line.term for line in (*schedule, *lines)}
    names = {**_FIXED, **_numbered_apart({name: memory_name(name, terms) for name in remembered}, set(_FIXED.values()))}
    names |= {f"{name}_old": f"old_{names[name]}" for name in remembered}
    values: dict[str, str] = {}
    for line in (*schedule, *lines):
        if line.name in names:
            continue
        readable = _renamed(line.term, {**values, **names})
        if terms["w"] == Term("name", text=line.name):
            values[line.name] = "update"
        else:
            values[line.name] = value_name(readable, schedule=line in schedule)
    return names | _numbered_apart(values, set(names.values()))


def _numbered_apart(names: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """Appends numbers to names that are equal or taken."""
    counts = Counter(names.values())
    taken = {*taken, *names.values()}
    apart: dict[str, str] = {}
    for old, name in names.items():
        number = 1
        if counts[name] > 1:
            while f"{name}{number}" in taken:
                number += 1
            name = f"{name}{number}"
            taken.add(name)
        apart[old] = name
    return apart
