"""Programs from Python source, which is parsed and never executed."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from nosbench_env.language.constant_search import Expression, find_constant, nearest_constants
from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import (
    CONSTANTS,
    FIRST_WRITABLE_SLOT,
    GRAD,
    MAX_INSTRUCTIONS,
    MAX_SLOTS,
    PARAM,
    STEP,
    Instruction,
    InvalidProgram,
    Program,
)

_MAX_TEXT = 1 << 16
_MAX_DEPTH = 100  # of an expression
_TOO_MANY = f"the step needs more than {MAX_SLOTS - FIRST_WRITABLE_SLOT} slots at the same time"
_ONE = next(slot for slot, value in CONSTANTS.items() if value == 1.0)

_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}
_MODULES = ("torch", "math", "linalg")

# torch's name of a function -> the language's. `clip` is `clamp` with a maximum; `_power` treats powers.
_NAMES = {
    **{name: name for name, function in FUNCTIONS.items() if name not in ("clip", "size")},
    **{"absolute": "abs", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "vector_norm": "norm"},
    **{"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "min": "minimum", "max": "maximum"},
    **{"size": "size", "numel": "size"},
}
_COMPOSED = ("clamp", "clip", "pow", "neg", "reciprocal")  # functions of torch that become several instructions
_ALLOWED = "+ - * /, x ** 2, x / (1 - b ** t), and torch's " + ", ".join(
    {"clip": "clamp", "size": "numel"}.get(name, name)
    for name in FUNCTIONS
    if name not in (*_OPERATORS.values(), "interpolate", "bias_correct")
)


@dataclass(frozen=True, slots=True)
class _Power:
    """The power `b ** t` or, if `rest`, `1 - b ** t`, only in `x / (1 - b ** t)`."""

    base: int
    exponent: int
    rest: bool = False


_Node = tuple[str, tuple[int, ...]]  # a function, "slot" or "memory", and the numbers of its inputs
_Value = float | int | _Power  # a number of the source, always a float; the number of a value of the step; a power


def program_from_python(source: str) -> Program:
    """Reads a Python function; see `Program.from_python`.

    Raises:
        InvalidProgram: If the source is not allowed; the message names the line, its text and the allowed forms.
    """
    if not isinstance(source, str):
        raise InvalidProgram(f"a step's source must be a string, got {type(source).__name__}")
    if len(source) > _MAX_TEXT:
        raise InvalidProgram(f"a step's source has at most {_MAX_TEXT:,} characters, got {len(source):,}")
    try:
        module = ast.parse(source)
    except SyntaxError as error:
        raise InvalidProgram(f"line {error.lineno or 1}: not valid Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise InvalidProgram(f"unreadable Python: {error or type(error).__name__}") from None
    try:
        return _Reader().program(module)
    except RecursionError:
        raise InvalidProgram(f"an expression is nested more than {_MAX_DEPTH} deep") from None


class _Reader:
    """The reader of a module with one function."""

    def __init__(self) -> None:
        self.graph = _Graph()
        self.names: dict[str, _Value] = {}
        self.param = ""
        self.assigned: set[str] = set()
        self.update: int | None = None

    def program(self, module: ast.Module) -> Program:
        function: ast.FunctionDef | None = None
        for statement in module.body:
            match statement:
                case ast.FunctionDef() if function is None:
                    function = statement
                case ast.FunctionDef():
                    raise _error(statement, f"a second function; the step is {function.name if function else ''!r}")
                case ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant(str())):
                    pass
                case ast.Assign([ast.Name(name)], value) if function is None:
                    self.names[name] = self._number(value)
                case _:
                    raise _error(statement, "only imports and named numbers are allowed outside the function")
        if function is None:
            raise InvalidProgram("expected the optimizer's step as a function such as 'def step(w, grad, t):'")
        self._signature(function)
        for place, statement in enumerate(function.body):
            self._statement(statement, last=place == len(function.body) - 1)
        if self.update is None:
            raise InvalidProgram(f"the step must assign '{self.param} = {self.param} - ...' or return an update")
        after = {name: self._value(self.names[name], function) for name in self.graph.memories}
        return self.graph.program(self.update, after)

    def _signature(self, function: ast.FunctionDef) -> None:
        arguments = function.args
        plain = [*arguments.posonlyargs, *arguments.args]
        odd = arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults
        if function.decorator_list or odd or len(plain) < 2:
            raise _error(
                function,
                "expected 'def step(w, grad, t, ...)': the parameter, its gradient, the step number if needed, and "
                "named memories if wanted; no decorators, defaults or *",
            )
        names = [argument.arg for argument in plain]
        if len(set(names)) < len(names):
            raise _error(function, f"argument names must differ, got {', '.join(names)}")
        self.param = names[0]
        self.names |= dict(zip(names, (PARAM, GRAD, STEP), strict=False))
        self.assigned = {
            node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        for name in names[1:3]:
            if name in self.assigned:
                raise _error(function, f"the argument {name!r} can't be assigned; use another name")
        for name in names[3:]:
            self.names[name] = self.graph.memory(name)

    def _statement(self, statement: ast.stmt, *, last: bool) -> None:
        match statement:
            case ast.Expr(ast.Constant(str())) | ast.Pass():
                pass
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value) if value is not None:
                self._assign(statement, name, value)
            case ast.AugAssign(ast.Name(name) as target, operator, value):
                read = ast.copy_location(ast.Name(name, ast.Load()), target)
                self._assign(statement, name, ast.copy_location(ast.BinOp(read, operator, value), statement))
            case ast.Return(value) if last:
                self._return(statement, value)
            case ast.Return():
                raise _error(statement, "'return' must stand at the end")
            case _:
                raise _error(
                    statement,
                    f"{_shown(statement)}: expected 'name = expression'; loops, conditions and in-place functions, "
                    "such as m.mul_(0.9), are not allowed",
                )

    def _assign(self, statement: ast.stmt, name: str, value: ast.expr) -> None:
        if name in _MODULES:
            raise _error(statement, f"{name!r} can't be assigned")
        if name != self.param:
            self.names[name] = self._evaluated(value)
            return
        if self.update is not None:
            raise _error(statement, f"{name} is changed twice; add the changes and make them in one line")
        match value:
            case ast.BinOp(ast.Name(read), ast.Sub(), update) if read == name:
                self.update = self._value(self._evaluated(update), statement)
            case ast.BinOp(ast.Name(read), ast.Add(), update) if read == name:
                self.update = self._value(self._negated(self._evaluated(update), statement), statement)
            case _:
                raise _error(statement, f"the parameter may only change by '{name} = {name} - ...'")
        del self.names[name]

    def _return(self, statement: ast.Return, value: ast.expr | None) -> None:
        if self.update is not None:
            if value is not None and not (isinstance(value, ast.Name) and value.id == self.param):
                raise _error(statement, f"{self.param} has been changed; return {self.param} or nothing")
            return
        match value:
            case None:
                return
            case ast.BinOp(ast.Name(read), ast.Sub() | ast.Add()) if read == self.param:
                raise _error(
                    statement,
                    f"the returned value is the update, which is subtracted from {read}; to assign a new value, write "
                    f"'{read} = {_shown(value)}'",
                )
        self.update = self._value(self._evaluated(value), statement)

    def _number(self, node: ast.expr) -> float:
        value = self._evaluated(node)
        if not isinstance(value, float):
            raise _error(node, f"expected a number, got {_shown(node)}")
        return value

    def _evaluated(self, node: ast.expr, depth: int = 0) -> _Value:
        if depth > _MAX_DEPTH:
            raise _error(node, f"nested more than {_MAX_DEPTH} deep")
        inner: Callable[[ast.expr], _Value] = partial(self._evaluated, depth=depth + 1)
        match node:
            case ast.Constant(int() | float() as number) if not isinstance(number, bool):
                try:
                    return float(number)
                except OverflowError:
                    return math.inf
            case ast.Name("inf" | "nan" as name) | ast.Attribute(ast.Name("torch" | "math"), "inf" | "nan" as name):
                return float(name)
            case ast.Name(name):
                return self._read(node, name)
            case ast.UnaryOp(ast.UAdd(), operand):
                return inner(operand)
            case ast.UnaryOp(ast.USub(), operand):
                return self._negated(inner(operand), node)
            case ast.BinOp(left, ast.Pow(), right):
                return self._power(node, inner(left), inner(right))
            case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
                return self._arithmetic(node, _OPERATORS[type(operator)], inner(left), inner(right))
            case ast.Call(function, arguments, keywords):
                return self._call(node, function, arguments, keywords, inner)
        raise _error(node, f"{_shown(node)} is not in the language; allowed are {_ALLOWED}")

    def _read(self, node: ast.expr, name: str) -> _Value:
        if name in self.names:
            return self.names[name]
        if name == self.param:
            raise _error(node, f"{name} has been changed above; read it before that line")
        if name not in self.assigned:
            raise _error(node, f"unknown name {name!r}; known are the function's arguments and the names it assigns")
        self.names[name] = self.graph.memory(name)  # the value from the previous step
        return self.names[name]

    def _call(
        self,
        node: ast.Call,
        function: ast.expr,
        arguments: Sequence[ast.expr],
        keywords: Sequence[ast.keyword],
        inner: Callable[[ast.expr], _Value],
    ) -> _Value:
        match function:
            case (
                ast.Name(name)
                | ast.Attribute(ast.Name("torch" | "math"), name)
                | ast.Attribute(ast.Attribute(ast.Name("torch"), "linalg"), "norm" | "vector_norm" as name)
            ):
                inputs = list(arguments)
            case ast.Attribute(value, name) if not name.endswith("_"):
                inputs = [value, *arguments]
            case _:
                raise _error(node, f"{_shown(function)} is not in the language; allowed are {_ALLOWED}")
        if name not in (*_NAMES, *_COMPOSED):
            raise _error(node, f"unknown function {name!r}; allowed are {_ALLOWED}")
        values = [inner(value) for value in inputs]
        if name in ("clamp", "clip"):
            return self._clamp(node, values, {keyword.arg or "": inner(keyword.value) for keyword in keywords})
        if keywords:
            raise _error(node, f"{name} takes no named arguments here, got {_shown(node)}")
        if name == "pow" and len(values) == 2:
            return self._power(node, *values)
        if name in ("neg", "reciprocal") and len(values) == 1:
            return self._negated(values[0], node) if name == "neg" else self._power(node, values[0], -1.0)
        if name not in _NAMES:
            raise _error(node, f"{_shown(node)}: {name} takes {2 if name == 'pow' else 1} inputs here")
        known = FUNCTIONS[_NAMES[name]]
        if len(values) != known.arity:
            plural = "input" if known.arity == 1 else "inputs"
            raise _error(node, f"{name} takes {known.arity} {plural} here, got {len(values)}")
        if known.name in _OPERATORS.values():
            return self._arithmetic(node, known.name, *values)
        return self.graph.apply(known.name, *[self._value(value, node) for value in values])

    def _clamp(self, node: ast.Call, values: Sequence[_Value], named: Mapping[str, _Value]) -> _Value:
        """Reads `x.clamp(min, max)`; like torch, applies `min` first."""
        bounds = {**dict(zip(("min", "max"), values[1:], strict=False)), **named}
        if not values or len(values) > 3 or not bounds or set(bounds) - {"min", "max"}:
            raise _error(node, f"expected x.clamp(min=..., max=...), got {_shown(node)}")
        value = self._value(values[0], node)
        for name, function in (("min", "maximum"), ("max", "minimum")):
            if name in bounds:
                value = self.graph.apply(function, value, self._value(bounds[name], node))
        return value

    def _arithmetic(self, node: ast.expr, op: str, left: _Value, right: _Value) -> _Value:
        if isinstance(left, float) and isinstance(right, float):
            return _computed(node, op, left, right)
        if op == "sub" and left == 1.0 and isinstance(left, float) and isinstance(right, _Power) and not right.rest:
            return _Power(right.base, right.exponent, rest=True)
        if op == "div" and isinstance(right, _Power) and right.rest:
            return self.graph.apply("bias_correct", self._value(left, node), right.base, right.exponent)
        return self.graph.apply(op, self._value(left, node), self._value(right, node))

    def _power(self, node: ast.expr, base: _Value, exponent: _Value) -> _Value:
        if isinstance(base, float) and isinstance(exponent, float):
            return _computed(node, "pow", base, exponent)
        if exponent == 2.0 and isinstance(exponent, float):
            return self.graph.apply("square", self._value(base, node))
        if exponent == 0.5 and isinstance(exponent, float):
            return self.graph.apply("sqrt", self._value(base, node))
        if exponent == -1.0 and isinstance(exponent, float):
            return self.graph.apply("div", _ONE, self._value(base, node))
        return _Power(self._value(base, node), self._value(exponent, node))

    def _negated(self, value: _Value, node: ast.AST) -> _Value:
        if isinstance(value, float):
            return -value
        return self.graph.apply("mul", self._value(value, node), self._value(-1.0, node))

    def _value(self, value: _Value, node: ast.AST) -> int:
        """Returns a value's number in the graph; composes numbers of the constants."""
        if isinstance(value, _Power):
            raise _error(
                node,
                "the only powers in the language are x ** 2, x ** 0.5, x ** -1, and b ** t in x / (1 - b ** t)",
            )
        if isinstance(value, int):
            return value
        expression = find_constant(value)
        if expression is None:
            constants = ", ".join(repr(constant) for constant in CONSTANTS.values())
            nearest = " and ".join(str(np.float32(number)) for number in nearest_constants(value))
            raise _error(
                node,
                f"{value!r} can't be composed of the constants {constants} in a few instructions; the nearest numbers "
                f"that can are {nearest}",
            )
        return self.graph.constant(expression)


class _Graph:
    """A step's numbered values: read-only slots, then memories and computed values."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = [("slot", ())] * FIRST_WRITABLE_SLOT
        self.memories: dict[str, int] = {}  # name -> its value before the step
        self._numbers: dict[_Node, int] = {}

    def memory(self, name: str) -> int:
        """Adds a memory; returns its value before the step."""
        self.memories[name] = len(self.nodes)
        self.nodes.append(("memory", ()))
        return self.memories[name]

    def apply(self, function: str, *inputs: int) -> int:
        """Returns the value of a function."""
        node = function, inputs
        if node not in self._numbers:
            if len(self._numbers) > 4 * MAX_INSTRUCTIONS:
                raise InvalidProgram(
                    f"the step computes too much: a program has at most {MAX_INSTRUCTIONS:,} instructions"
                )
            self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[node]

    def constant(self, expression: Expression) -> int:
        """Returns the value of an expression of constants."""
        if expression.function == "slot":
            return expression.slot
        return self.apply(expression.function, *(self.constant(source) for source in expression.inputs))

    def program(self, update: int, after: Mapping[str, int]) -> Program:
        """Returns the program of an update and the new memories."""
        memories = {before: after[name] for name, before in self.memories.items()}
        needed, carried = self._needed(update, memories)
        order = [number for number in sorted(needed) if self.nodes[number][0] not in ("slot", "memory")]
        written = [_Emitter(self.nodes, order, update, carried).program()]
        if update in order and not any(update in self.nodes[number][1] for number in order):
            last = [*(number for number in order if number != update), update]
            written.append(_Emitter(self.nodes, last, update, carried).program())
        return min(written, key=len)

    def _needed(self, update: int, memories: Mapping[int, int]) -> tuple[set[int], dict[int, int]]:
        """Returns the values an update needs, and needed memories' new values."""
        needed: set[int] = set()
        carried: dict[int, int] = {}
        stack = [update]
        while stack:
            number = stack.pop()
            if number in needed:
                continue
            needed.add(number)
            stack.extend(self.nodes[number][1])
            if number in memories:
                carried[number] = memories[number]
                stack.append(memories[number])
        return needed, carried


class _Emitter:
    """The assignment of slots to values.

    A memory has its slot for the whole run, another value as long as it is needed.

    Args:
        nodes: All values.
        order: The values to compute, in order.
        update: The value of the last instruction.
        memories: The value of each memory after the step.
    """

    def __init__(self, nodes: Sequence[_Node], order: Sequence[int], update: int, memories: Mapping[int, int]) -> None:
        self.nodes, self.order, self.update, self.memories = nodes, order, update, memories
        if len(memories) > MAX_SLOTS - FIRST_WRITABLE_SLOT:
            raise InvalidProgram(_TOO_MANY)
        self.homes = {memory: FIRST_WRITABLE_SLOT + place for place, memory in enumerate(memories)}
        self.slots = {slot: slot for slot in range(FIRST_WRITABLE_SLOT)} | self.homes
        self.free = set(range(FIRST_WRITABLE_SLOT + len(memories), MAX_SLOTS))
        self.instructions: list[Instruction] = []
        self.uses = dict.fromkeys((*range(FIRST_WRITABLE_SLOT), *memories, *order), 0)
        for number in order:
            for source in nodes[number][1]:
                self.uses[source] += 1
        for number in (update, *memories.values()):
            self.uses[number] += 1

    def program(self) -> Program:
        """Returns the program."""
        for number in self.order:
            function, inputs = self.nodes[number]
            read = tuple(self.slots[source] for source in inputs)
            for source in inputs:
                self._used(source)
            self._emit(function, read, number, self._slot_for(number))
        self._move_memories()
        if not self.order or self.order[-1] != self.update or self.instructions[-1].output != self.slots[self.update]:
            self._emit("mul", (self.slots[self.update], _ONE), self.update, self._temporary())
        return Program(tuple(self.instructions))

    def _emit(self, function: str, inputs: tuple[int, ...], number: int, output: int) -> None:
        self.instructions.append(Instruction(function, inputs, output))
        self.slots[number] = output

    def _used(self, number: int) -> None:
        self.uses[number] -= 1
        slot = self.slots[number]
        if not self.uses[number] and slot >= FIRST_WRITABLE_SLOT and slot not in self.homes.values():
            self.free.add(slot)

    def _slot_for(self, number: int) -> int:
        """Returns a new value's slot: its memory's, if free, or temporary."""
        for memory, after in self.memories.items():
            if after == number and not self.uses[memory]:
                return self.homes[memory]
        return self._temporary()

    def _temporary(self) -> int:
        if not self.free:
            raise InvalidProgram(_TOO_MANY)
        slot = min(self.free)
        self.free.remove(slot)
        return slot

    def _move_memories(self) -> None:
        """Copies new values from other slots to their memories."""
        moves = {
            self.homes[memory]: after
            for memory, after in self.memories.items()
            if self.slots[after] != self.homes[memory]
        }
        for number in {*moves.values(), self.update}:
            if self.slots[number] in moves:  # a move overwrites it
                self._emit("mul", (self.slots[number], _ONE), number, self._temporary())
        for home, number in moves.items():
            self.instructions.append(Instruction("mul", (self.slots[number], _ONE), home))


def _computed(node: ast.expr, op: str, left: float, right: float) -> float:
    """Computes with numbers as Python does."""
    try:
        match op:
            case "add":
                return left + right
            case "sub":
                return left - right
            case "mul":
                return left * right
            case "div":
                return left / right
        result = left**right
    except (ZeroDivisionError, OverflowError) as error:
        raise _error(node, f"{_shown(node)}: {error}") from None
    if isinstance(result, complex):
        raise _error(node, f"{_shown(node)} is not a real number")
    return float(result)


def _error(node: ast.AST, message: str) -> InvalidProgram:
    return InvalidProgram(f"line {getattr(node, 'lineno', 1)}: {message}")


def _shown(node: ast.AST) -> str:
    """Returns a short piece of source for a message."""
    try:
        text = ast.unparse(node).splitlines()[0]
    except RecursionError:
        return "this"
    return text if len(text) <= 60 else f"{text[:57]}..."
