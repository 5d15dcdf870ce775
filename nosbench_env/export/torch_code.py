"""Exports as a `torch.optim.Optimizer`."""

from __future__ import annotations

import builtins
import keyword
import textwrap
from collections.abc import Iterator, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from nosbench_env.export.infix import infix, number
from nosbench_env.export.names import plural, value_name
from nosbench_env.export.step import Step, is_square, names_in, step_of, subterms
from nosbench_env.language.canonical import CanonicalForm, canonical_form
from nosbench_env.language.functions import COMMUTATIVE, OPERATIONS
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.live_code import Kind
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import Assignment, Term, pseudocode_lines
from nosbench_env.versions import installed_version

DEFAULT_NAME = "FoundOptimizer"
LINE_LENGTH = 120
_MAX_NAME = 30
_MODULE_NAMES = frozenset(
    ("Any", "Callable", "Iterable", "Optimizer", "Parameter", "ParamsT", "Tensor", "overload", "torch")
)

_CALLS = {"norm": "torch.linalg.vector_norm", "std": "_std", "size": "_size", "heaviside": "_heaviside"}
_METHODS = [name for name, operation in OPERATIONS.items() if operation.arity == 1 and name not in _CALLS]
_BOUNDS = {"minimum": "max", "maximum": "min"}
_FOREACH_UNARY = {name: OPERATIONS[name].c_name for name in _METHODS if name != "mean"}


def to_torch(program: Program, name: str | None = None) -> str:
    """Writes a Python file with a `torch.optim.Optimizer`.

    The file needs torch alone. On a CPU with float32 parameters its results equal those of `ProgramOptimizer` to the
    last bit, except for the sign of a zero. Unnecessary code is removed, and constants are folded and written in the
    fewest digits that identify the float32 value. The optimizer takes `lr`, which multiplies the update (1 by default),
    and `foreach`, as the optimizers of `torch.optim` do. Its state can be saved and loaded.

    Args:
        program: The program.
        name: The name of the class; by default the known program's name, or "FoundOptimizer".

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If `name` is no valid name for a class of that file.
    """
    form = canonical_form(program)
    step = step_of(form)
    name = class_name(program, name)
    one_by_one = _OneByOne(step)
    lists, arguments = _arguments(step)
    return rendered(
        "torch.py.jinja",
        name,
        form,
        step,
        stateful=bool(step.memories or step.counts_steps),
        memories=[(memory, plural(memory), kind == Kind.ARRAY) for memory, kind in step.memories.items()],
        reads_gradient="grad" in step.reads,
        define_one_by_one=wrapped("def _update_one_by_one(", arguments, ") -> None:"),
        define_together=wrapped("def _update_together(", arguments, ") -> None:"),
        call=wrapped("update(", [*lists, 'group["lr"]'], ")", indent=16),
        schedule=list(one_by_one.schedule()),
        loop=one_by_one.header(),
        one_by_one=list(one_by_one.lines()),
        together=_Together(step).lines(),
        long_constants=any(len(term.text.strip("-0.").split("e")[0]) > 6 for term in step.terms if term.op == "number"),
    )


def rendered(template: str, name: str, form: CanonicalForm, step: Step, **values: object) -> str:
    """Fills a template of this folder."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    source = files("nosbench_env.export").joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        name=name,
        remembered=_remembered(step),
        formulas=pseudocode_lines(form),
        digest=str(form),
        version=installed_version("nosbench_env"),
        step=step,
        functions={term.op for term in step.terms},
        **values,
    )


def _remembered(step: Step) -> str:
    """Returns the sentence about the memories."""
    if not step.memories:
        return ""
    subject = "m is" if len(step.memories) == 1 else "The m are"
    names = ", ".join(step.memories)
    return textwrap.fill(f"{subject} kept from step to step and 0 before the first; in the code: {names}.", LINE_LENGTH)


def class_name(program: Program, name: str | None) -> str:
    """Returns the name of a program's class.

    Raises:
        ValueError: If `name` is no valid class name.
    """
    if name is None:
        return next((known for known, other in KNOWN_PROGRAMS.items() if other == program), DEFAULT_NAME)
    if not isinstance(name, str) or not name.isascii() or not name.isidentifier() or len(name) > _MAX_NAME:
        raise ValueError(
            f"name must be a Python name of ASCII letters, digits and underscores, at most {_MAX_NAME} long, such as "
            f"MyOptimizer; got {str(name)[:80]!r}"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in _MODULE_NAMES or hasattr(builtins, name):
        raise ValueError(f"name {name!r} means something else in Python or in that file; choose another")
    if name.startswith("_"):
        raise ValueError(f"name must not begin with an underscore, got {name!r}")
    return name


def wrapped(start: str, items: Sequence[str], end: str, indent: int = 0) -> str:
    """Writes a call or definition, broken as a formatter would."""
    line = ", ".join(items)
    if indent + len(start) + len(line) + len(end) <= LINE_LENGTH:
        return f"{start}{line}{end}"
    margin = " " * (indent + 4)
    if len(margin) + len(line) <= LINE_LENGTH:
        return f"{start}\n{margin}{line}\n{' ' * indent}{end}"
    each = "".join(f"{margin}{item},\n" for item in items)
    return f"{start}\n{each}{' ' * indent}{end}"


def _arguments(step: Step) -> tuple[list[str], list[str]]:
    """Returns the update functions' arguments, for calls (without `lr`) and for definitions."""
    names = {"params": "list[Tensor]"}
    if "grad" in step.reads:
        names["grads"] = "list[Tensor]"
    if step.grows:
        names["states"] = "list[dict[str, Any]]"
    else:
        names |= {plural(memory): "list[Tensor]" for memory in step.memories}
    if step.counts_steps:
        names["step"] = "int"
    return list(names), [f"{name}: {kind}" for name, kind in (names | {"lr": "float"}).items()]


class _OneByOne:
    """A step as formulas for one tensor after the other."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.scalars = {line.name for line in step.schedule}

    def schedule(self) -> Iterator[str]:
        """Yields the schedule in 0-d tensors; values read elsewhere become floats."""
        read = {name for line in self.step.lines for name in names_in(line.term)}
        if self.step.schedule:
            yield "t = torch.tensor(float(step), dtype=torch.promote_types(params[0].dtype, torch.float32))"
        for line in self.step.schedule:
            text = infix(line.term, self._call_in_schedule)
            yield f"{line.name} = float({text})" if line.name in read else f"{line.name} = {text}"

    def header(self) -> str:
        """Returns the head of the loop over the tensors."""
        step = self.step
        names = ["param", *(["grad"] if "grad" in step.reads else []), *([] if step.grows else step.memories)]
        names += ["state"] if step.grows else []
        if len(names) == 1:
            return "for param in params:"
        start = f"for {', '.join(names)} in zip("
        return wrapped(start, [*map(plural, names), "strict=True"], "):", indent=4)

    def lines(self) -> Iterator[str]:
        """Yields the statements in the loop."""
        step = self.step
        if step.grows:
            yield from (f'{memory} = state["{memory}"]' for memory in step.memories)
        for line in step.lines:
            yield self._line(line)
        if step.grows:
            yield from (f'state["{memory}"] = {memory}' for memory in step.memories)

    def _line(self, line: Assignment) -> str:
        text, kind = infix(line.term, self._call), self.step.kind(line.term)
        if line.name == "param":
            if kind < Kind.TENSOR:
                return f"param.{'add' if self.step.added else 'sub'}_(lr * {text})"
            return f"param.add_({text}, alpha={'' if self.step.added else '-'}lr)"
        if line.name not in self.step.memories:
            return f"{line.name} = {text}.clone()" if line.term.op == "name" else f"{line.name} = {text}"
        if not self.step.grows:
            return f"{line.name}.{'copy' if kind >= Kind.TENSOR else 'fill'}_({text})"
        if kind < Kind.TENSOR:
            return f"{line.name} = param.new_full((), {text})"
        return f"{line.name} = {text}.clone()" if line.term.op == "name" else f"{line.name} = {text}"

    def _call(self, term: Term, arguments: list[str], receivers: list[str]) -> str | None:
        return call(term, arguments, receivers, self.scalars)

    def _call_in_schedule(self, term: Term, arguments: list[str], receivers: list[str]) -> str | None:
        return call(term, arguments, receivers, set())


def call(term: Term, arguments: Sequence[str], receivers: Sequence[str], scalars: set[str]) -> str | None:
    """Writes a term as a torch call; None for operators."""
    op = term.op
    are_scalars = [source.op == "number" or source.text in scalars for source in term.inputs]
    if op in _METHODS:
        return f"{receivers[0]}.{op}()"
    if op in _CALLS:
        return f"{_CALLS[op]}({', '.join(arguments)})"
    if op in _BOUNDS:
        if any(are_scalars):
            scalar = are_scalars.index(True)
            return f"{receivers[1 - scalar]}.clamp({_BOUNDS[op]}={arguments[scalar]})"
        return f"torch.{op}({', '.join(arguments)})"
    if op == "div" and are_scalars[0]:  # Python's / multiplies by the reciprocal, which rounds twice
        return f"torch.div({', '.join(arguments)})"
    if is_square(term):
        return f"{receivers[0]}.square()"
    if op == "pow" and are_scalars[1]:  # torch has rules of its own, for inf, for some exponents given as numbers
        return f"torch.pow({arguments[0]}, torch.tensor({arguments[1]}))"
    return None


class _Together:
    """A step with torch's `_foreach` functions, in place if possible."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.scalars = {line.name for line in step.schedule}
        self.names = {"param", "grad", "t", "update", *step.memories, *(line.name for line in step.lines)}
        self._written: list[str] = []

    def lines(self) -> list[str]:
        """Returns the statements."""
        step = self.step
        if step.grows:
            self._written += [f'{plural(memory)} = [state["{memory}"] for state in states]' for memory in step.memories]
        for line in step.lines:
            self._line(line)
        if step.grows:
            for memory in step.memories:
                self._written += [
                    f"for state, {memory} in zip(states, {plural(memory)}, strict=True):",
                    f'    state["{memory}"] = {memory}',
                ]
        return self._written

    def _line(self, line: Assignment) -> None:
        step, target, kind = self.step, plural(line.name), self.step.kind(line.term)
        if line.name == "param":
            text = self._leaf(line.term)
            if kind < Kind.TENSOR:
                self._write(f"torch._foreach_{'add' if step.added else 'sub'}_(params, lr * {text})")
            else:
                self._write(f"torch._foreach_add_(params, {text}, alpha={'' if step.added else '-'}lr)")
        elif line.name not in step.memories or step.grows:
            if kind < Kind.TENSOR:
                self._write(f"{target} = [param.new_full((), {self._leaf(line.term)}) for param in params]")
            elif line.term.op == "name":
                self._write(f"{target} = [{line.term.text}.clone() for {line.term.text} in {plural(line.term.text)}]")
            else:
                value = plural(self._unused(f"new_{line.name}")) if line.name in step.memories else target
                self._build(line.term, value)
                if value != target:
                    self._write(f"{target} = list({value})")
        elif kind < Kind.TENSOR:
            self._write(f"for {line.name} in {target}:")
            self._write(f"    {line.name}.fill_({self._leaf(line.term)})")
        elif line.term.op == "name":
            self._write(f"torch._foreach_copy_({target}, {self._leaf(line.term)})")
        elif self._renews_in_place(line.term, line.name):
            self._build(line.term, target, renewed=line.name)
        else:
            value = plural(self._unused(f"new_{line.name}"))
            self._build(line.term, value)
            self._write(f"torch._foreach_copy_({target}, {value})")

    def _renews_in_place(self, term: Term, memory: str) -> bool:
        """Returns True if a memory can be updated in place."""
        step = self.step
        if names_in(term)[memory] != 1:
            return False
        while term.op != "name":
            spine = next(place for place, source in enumerate(term.inputs) if memory in names_in(source))
            if not self._in_place(term, spine) or step.kind(term.inputs[spine]) != step.kind(term):
                return False
            term = term.inputs[spine]
        return True

    def _in_place(self, term: Term, spine: int) -> bool:
        """Returns True if a term can be computed in place."""
        if term.op in _FOREACH_UNARY:
            return True
        if term.op in COMMUTATIVE or is_square(term):
            return not (is_square(term) and term.inputs[0].op == "name")
        return term.op in ("sub", "div") and spine == 0

    def _build(self, term: Term, target: str, *, renewed: str = "") -> None:
        """Writes a term's statements, in place of a `renewed` memory if named."""
        spine = self._spine(term, renewed)
        inner = term.inputs[spine] if spine is not None else None
        if inner is not None and inner.op != "name":
            self._build(inner, target, renewed=renewed)
        operands = [
            target if place == spine and inner is not None and inner.op != "name" else self._operand(source)
            for place, source in enumerate(term.inputs)
        ]
        if spine is not None and inner is not None and (inner.op != "name" or renewed):
            in_place = (
                self._in_place(term, spine) and self.step.kind(inner) == self.step.kind(term) and not self.step.grows
            )
            if renewed and inner.op == "name":
                operands[spine] = target
            if in_place:
                self._write(self._call(term, operands, spine))
                return
        self._write(f"{target} = {self._call(term, operands)}")

    def _spine(self, term: Term, renewed: str) -> int | None:
        """Returns the input that shares the variable: the memory's, or the longest."""
        if renewed:
            return next(place for place, source in enumerate(term.inputs) if renewed in names_in(source))
        compound = [place for place, source in enumerate(term.inputs) if source.inputs]
        if not compound:
            return None
        fitting = [place for place in compound if self._in_place(term, place)]
        return max(fitting or compound, key=lambda place: sum(1 for _ in subterms(term.inputs[place])))

    def _operand(self, term: Term) -> str:
        """Writes a term as an argument, possibly a new variable."""
        if not term.inputs:
            return self._leaf(term)
        if all(not source.inputs for source in term.inputs):
            return self._call(term, [self._leaf(source) for source in term.inputs])
        name = plural(self._unused(value_name(term, schedule=False)))
        self._build(term, name)
        return name

    def _call(self, term: Term, operands: list[str], in_place: int | None = None) -> str:
        """Writes the call that computes a term, possibly in place."""
        op, end = term.op, "" if in_place is None else "_"
        are_scalars = [source.op == "number" or source.text in self.scalars for source in term.inputs]
        if op in _FOREACH_UNARY:
            return f"torch._foreach_{_FOREACH_UNARY[op]}{end}({operands[0]})"
        if op == "norm":
            return f"torch._foreach_norm({operands[0]})"
        if is_square(term):
            if "(" in operands[0]:
                return self._each(term, operands, are_scalars)
            return f"torch._foreach_mul{end}({operands[0]}, {operands[0]})"
        if op in COMMUTATIVE and (in_place == 1 or are_scalars[0]):
            operands, are_scalars = operands[::-1], are_scalars[::-1]
        if op in _BOUNDS and are_scalars[1]:
            return f"torch._foreach_clamp_{_BOUNDS[op]}{end}({', '.join(operands)})"
        if op in (*COMMUTATIVE, "sub", "div") and not are_scalars[0]:
            return f"torch._foreach_{op}{end}({', '.join(operands)})"
        if op == "sub":
            return f"torch._foreach_add(torch._foreach_neg({operands[1]}), {operands[0]})"
        if op == "pow" and are_scalars[0]:
            return f"torch._foreach_pow({', '.join(operands)})"
        return self._each(term, operands, are_scalars)

    def _each(self, term: Term, operands: list[str], are_scalars: list[bool]) -> str:
        """Writes a term tensor by tensor, without `_foreach`."""
        unused = iter("xy")
        inputs = [
            source if is_scalar else Term("name", text=next(unused))
            for source, is_scalar in zip(term.inputs, are_scalars, strict=True)
        ]
        each = Term(term.op, tuple(inputs))
        text = infix(each, lambda inner, arguments, receivers: call(inner, arguments, receivers, self.scalars))
        letters = [source.text for source, is_scalar in zip(inputs, are_scalars, strict=True) if not is_scalar]
        lists = [operand for operand, is_scalar in zip(operands, are_scalars, strict=True) if not is_scalar]
        if len(lists) == 1:
            return f"tuple({text} for {letters[0]} in {lists[0]})"
        return f"tuple({text} for {', '.join(letters)} in zip({', '.join(lists)}, strict=True))"

    def _leaf(self, term: Term) -> str:
        if term.op == "number":
            return number(term)
        return term.text if term.text in self.scalars else plural(term.text)

    def _unused(self, name: str) -> str:
        number, unused = 1, name
        while unused in self.names:
            number += 1
            unused = f"{name}{number}"
        self.names.add(unused)
        return unused

    def _write(self, line: str) -> None:
        self._written.append(line)
