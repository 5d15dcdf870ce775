"""A step in the order and with the names in which exported code computes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nosbench_env.export.names import memory_name, value_name
from nosbench_env.language.live_code import REDUCTIONS, Kind
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import Assignment, Term, assignments

PER_TENSOR = (*REDUCTIONS, "size")  # functions that make one number of a tensor
_MAX_INLINED = 14  # operations and values in a line, or so; what is longer stays in lines of its own
_MAX_LENGTH = 90  # characters, or so; what is longer is broken into several lines

_PARAM, _GRAD, _TIME = Term("name", text="param"), Term("name", text="grad"), Term("name", text="t")
_FIXED = {"w": "param", "g": "grad", "t": "t"}
_TWO = Term("number", text="2.0")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a step: `name` becomes the value of `term`.

    Attributes:
        name: The name; "param" for the line that changes the parameter.
        term: The value; on the line of "param", what is subtracted from it (added, if `Step.added`).
        kind: How much the value varies.
    """

    name: str
    term: Term
    kind: Kind


@dataclass(frozen=True)
class Step:
    """What a program computes in a step, for one tensor.

    Names are "param", "grad", "t" (the step, 1 at the first), those of `memories`, and those of lines before.

    Attributes:
        schedule: Lines that depend on the step number alone, to be computed once for all tensors.
        lines: The others, in order.
        memories: Names of what is remembered from step to step, 0 before the first, and how much each comes to vary:
            `Kind.ARRAY`, or `Kind.TENSOR` for one number a tensor.
        added: Whether the line of "param" is added to the parameter, not subtracted.
        grows: Whether a function such as `std` can tell a memory that is still a number, as all are before the first
            step, from one that has become an array.
    """

    schedule: tuple[Line, ...]
    lines: tuple[Line, ...]
    memories: Mapping[str, Kind]
    added: bool
    grows: bool
    reads: frozenset[str] = field(default=frozenset())

    @property
    def counts_steps(self) -> bool:
        """Whether it needs the step number."""
        return bool(self.schedule)


def step_of(program: Program) -> Step:
    """What a program computes in a step, in lines and with names as a person would choose them.

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    written = assignments(program) or [Assignment("w", Term("sub", (Term("name", text="w"), _number("0.0"))))]
    place = next(place for place, line in enumerate(written) if line.name == "w")
    update = written[place].term
    written[place] = Assignment("w", update.inputs[1])
    remembered = list(dict.fromkeys(line.name for line in written if _remembers(line.name)))
    # A memory is a number before the first step; what it comes to be is known when another step changes nothing.
    before = dict.fromkeys(remembered, Kind.TENSOR)
    at_first, kinds = _kinds(written, before)
    at_last = at_first
    while any(kinds[name] != before[name] for name in remembered):
        before = {name: kinds[name] for name in remembered}
        at_last, kinds = _kinds(written, before)
    schedule, lines = _scheduled(written, kinds)
    lines = _shortened(_with_update(_inlined(_split(lines))))
    names = _chosen_names(schedule, lines, remembered)
    schedule = [Assignment(names[line.name], _renamed(line.term, names)) for line in schedule]
    lines = [Assignment(names[line.name], _renamed(line.term, names)) for line in lines]
    env = {names[name]: max(kinds[name], Kind.TENSOR) for name in remembered}
    _, kinds = _kinds([*schedule, *lines], env)
    return Step(
        schedule=tuple(Line(line.name, line.term, Kind.STEP) for line in schedule),
        lines=tuple(Line(line.name, line.term, _kind(line.term, kinds)) for line in lines),
        memories=env,
        added=update.op == "add",
        grows=at_first != at_last,
        reads=frozenset(term.text for line in [*schedule, *lines] for term in subterms(line.term) if not term.inputs),
    )


def names_in(term: Term) -> Counter[str]:
    """The names that a term reads, and how often."""
    return Counter(part.text for part in subterms(term) if part.op == "name")


def is_square(term: Term) -> bool:
    """Whether a term is x**2."""
    return term.op == "pow" and term.inputs[1] == _TWO


def _number(text: str) -> Term:
    return Term("number", text=text)


def _remembers(name: str) -> bool:
    return name.startswith("m") and not name.endswith("_old")


def subterms(term: Term) -> Iterator[Term]:
    """A term and all that it is computed from."""
    yield term
    for source in term.inputs:
        yield from subterms(source)


def _kind(term: Term, kinds: Mapping[str, Kind]) -> Kind:
    if term.op == "number":
        return Kind.CONST
    if term.op == "name":
        return kinds[term.text]
    kind = max(_kind(source, kinds) for source in term.inputs)
    return min(kind, Kind.TENSOR) if term.op in PER_TENSOR else kind


def _kinds(lines: Iterable[Assignment], memories: Mapping[str, Kind]) -> tuple[list[Kind], dict[str, Kind]]:
    """The kinds of what functions like `std` are of, in order; and those of all names after the step."""
    fixed = {"w": Kind.ARRAY, "g": Kind.ARRAY, "t": Kind.STEP}
    kinds = {**fixed, **{_FIXED[name]: kind for name, kind in fixed.items()}, **memories}
    reduced: list[Kind] = []
    for line in lines:
        kind = _kind(line.term, kinds)
        reduced += [_kind(term.inputs[0], kinds) for term in subterms(line.term) if term.op in PER_TENSOR]
        if line.name in memories:
            kind = max(kind, Kind.TENSOR)
        if line.name not in ("w", "param"):
            kinds[line.name] = kind
    return reduced, kinds


def _split(lines: Sequence[Assignment]) -> list[Assignment]:
    """The lines, with the divisor `sqrt(...) + number`, which many optimizers have, on one of its own."""
    found: list[Assignment] = []
    count = 0

    def without_divisors(term: Term) -> Term:
        nonlocal count
        inputs = [without_divisors(source) for source in term.inputs]
        if term.op == "div" and inputs[1].op == "add" and inputs[1].inputs[0].op == "sqrt":
            count += 1
            found.append(Assignment(f"x_denom{count}", inputs[1]))
            inputs[1] = Term("name", text=f"x_denom{count}")
        return replace(term, inputs=tuple(inputs))

    for line in lines:
        term = without_divisors(line.term)
        found.append(Assignment(line.name, term))
    return found


def _inlined(lines: list[Assignment]) -> list[Assignment]:
    """The lines, with what is read once put where it is read, as long as that stays short."""
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
    """The lines in two parts: what depends on the step number alone, and the rest."""
    schedule: list[Assignment] = []
    rest: list[Assignment] = []
    numbers: dict[Term, str] = {}

    def without_schedule(term: Term) -> Term:
        if _kind(term, kinds) == Kind.STEP:
            if term not in numbers:
                numbers[term] = f"s{len(numbers) + 1}"
                schedule.append(Assignment(numbers[term], term))
            return Term("name", text=numbers[term])
        return replace(term, inputs=tuple(without_schedule(source) for source in term.inputs))

    for line in lines:
        if line.name != "w" and not _remembers(line.name) and kinds[line.name] == Kind.STEP:
            schedule.append(line)
        else:
            rest.append(Assignment(line.name, without_schedule(line.term)))
    return schedule, rest


def _with_update(lines: Sequence[Assignment]) -> list[Assignment]:
    """The lines, with the update on one of its own."""
    found: list[Assignment] = []
    for line in lines:
        if line.name == "w" and line.term.inputs:
            found.append(Assignment("x_update", line.term))
            line = Assignment("w", Term("name", text="x_update"))
        found.append(line)
    return found


def _shortened(lines: Sequence[Assignment]) -> list[Assignment]:
    """The lines, with parts of long ones on lines of their own."""
    found: list[Assignment] = []
    for line in lines:
        term = line.term
        while _length(term) > _MAX_LENGTH:
            parts = [part for part in subterms(term) if part.inputs and part is not term]
            part = min(parts, key=lambda part: abs(_length(part) - _MAX_LENGTH / 2))
            name = f"x_part{len(found)}"
            found.append(Assignment(name, part))
            term = _without(term, part, Term("name", text=name))
        found.append(Assignment(line.name, term))
    return found


def _without(term: Term, part: Term, name: Term) -> Term:
    if term == part:
        return name
    return replace(term, inputs=tuple(_without(source, part, name) for source in term.inputs))


def _length(term: Term) -> int:
    """The characters that a term takes in code, or so."""
    if not term.inputs:
        return len(term.text) if term.op == "number" else 12
    return sum(map(_length, term.inputs)) + (3 if term.op in ("add", "sub", "mul", "div") else 16)


def _replaced(term: Term, values: Mapping[str, Term]) -> Term:
    if term.op == "name":
        return values.get(term.text, term)
    return replace(term, inputs=tuple(_replaced(source, values) for source in term.inputs))


def _renamed(term: Term, names: Mapping[str, str]) -> Term:
    return _replaced(term, {old: Term("name", text=new) for old, new in names.items()})


def _chosen_names(
    schedule: Sequence[Assignment], lines: Sequence[Assignment], remembered: Sequence[str]
) -> dict[str, str]:
    """A readable name for every name; numbered where several would have the same."""
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
    """The names, with numbers where two are the same or one is taken."""
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
