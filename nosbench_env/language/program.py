"""Programs, the optimizers of the search (paper, Section 3.1, Appendix A)."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, overload

from nosbench_env.language.functions import FUNCTIONS

# The memory map (Table 2). Slots below FIRST_WRITABLE_SLOT are filled before every execution and cannot be written.
PARAM, GRAD, STEP = 0, 1, 2
CONSTANTS = {3: 1.0, 4: 0.5, 5: 0.1, 6: 0.01, 7: 0.001, 8: 1e-6}
FIRST_WRITABLE_SLOT = 9

# The limits of the language; `SearchSpace` sets the paper's tighter ones.
MAX_SLOTS = 256
MAX_INSTRUCTIONS = 1024
_MAX_TEXT = 1 << 18

_ARITIES = {name: function.arity for name, function in FUNCTIONS.items()}
_FIXED_SLOTS = {PARAM: "param", GRAD: "grad", STEP: "step"} | {slot: repr(value) for slot, value in CONSTANTS.items()}
SLOT_NAMES = [_FIXED_SLOTS.get(slot, f"r{slot}") for slot in range(MAX_SLOTS)]
_SLOTS_BY_NAME = {name: slot for slot, name in _FIXED_SLOTS.items()}
_SLOTS_BY_VALUE = {value: slot for slot, value in CONSTANTS.items()}

_LINE = re.compile(r"\s*(?P<output>\w+)\s*=\s*(?P<function>\w+)\s*\((?P<inputs>[^()]*)\)\s*", re.ASCII)
_REGISTER = re.compile(r"r([0-9]{1,4})")
_NUMBER = re.compile(r"[+-]?[0-9.]{1,20}([eE][+-]?[0-9]{1,3})?")


class InvalidProgram(ValueError):
    """A malformed program; the message names the given and the expected."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """A function applied to memory slots, with a slot for its value.

    Args:
        function: A key of `FUNCTIONS`.
        inputs: The memory slots (0 to 255) to read; their number is the function's arity.
        output: A writable memory slot (9 to 255).

    Raises:
        InvalidProgram: If any argument is invalid.

    >>> print(Instruction("mul", (1, 6), 9))
    r9 = mul(grad, 0.01)
    """

    function: str
    inputs: tuple[int, ...]
    output: int

    def __post_init__(self) -> None:
        # Nearly all instructions come from our own code and are valid; this test keeps them cheap.
        function, inputs, output = self.function, self.inputs, self.output
        if (
            type(function) is not str
            or type(inputs) is not tuple
            or len(inputs) != _ARITIES.get(function)
            or type(output) is not int
            or not FIRST_WRITABLE_SLOT <= output < MAX_SLOTS
        ):
            return self._check()
        for slot in inputs:
            if type(slot) is not int or not 0 <= slot < MAX_SLOTS:
                return self._check()
        return None

    def _check(self) -> None:
        """Converts inputs and output to plain integers.

        Raises the error of an invalid instruction.
        """
        if not isinstance(self.function, str):
            raise InvalidProgram(f"function must be a name, got {_shown(self.function)}")
        if self.function not in FUNCTIONS:
            raise InvalidProgram(f"unknown function {_shown(self.function)}; known are {', '.join(FUNCTIONS)}")
        if isinstance(self.inputs, str) or not isinstance(self.inputs, Sequence):
            raise InvalidProgram(f"inputs of '{self.function}' must be a sequence of slots, got {_shown(self.inputs)}")
        arity = FUNCTIONS[self.function].arity
        if len(self.inputs) != arity:
            plural = "input" if arity == 1 else "inputs"
            raise InvalidProgram(f"'{self.function}' takes {arity} {plural}, got {len(self.inputs)}")
        object.__setattr__(self, "inputs", tuple(_slot(slot, "input") for slot in self.inputs))
        object.__setattr__(self, "output", _slot(self.output, "output"))
        if self.output < FIRST_WRITABLE_SLOT:
            raise InvalidProgram(
                f"output slot {self.output} ({SLOT_NAMES[self.output]}) is read-only; "
                f"slots {FIRST_WRITABLE_SLOT} to {MAX_SLOTS - 1} can be written"
            )

    def __str__(self) -> str:
        inputs = ", ".join([SLOT_NAMES[slot] for slot in self.inputs])
        return f"{SLOT_NAMES[self.output]} = {self.function}({inputs})"


@dataclass(frozen=True, slots=True, repr=False)
class Program(Sequence[Instruction]):
    """An optimizer as a sequence of instructions.

    It runs once per training step and parameter tensor.

    Each parameter tensor has its own memory, which lives for the whole run. Slots 0 to 8 are set before every
    execution: parameter, gradient, step (1 at the first execution) and the constants 1, 0.5, 0.1, 0.01, 0.001, 1e-6.
    All others start as the scalar 0. The update is the value of the *last instruction*, in whichever slot it writes,
    and is subtracted from the parameter. The empty program updates nothing.

    Programs are immutable. `==` compares the instructions; `fingerprint` compares the behaviour.

    >>> sgd = Program.parse("r9 = mul(grad, 0.01)")
    >>> sgd.to_json()
    [['mul', [1, 6], 9]]
    >>> Program.from_json([["mul", [1, 6], 9]]) == sgd
    True

    Raises:
        InvalidProgram: If an instruction is not an `Instruction`, or there are more than 1,024.
    """

    instructions: tuple[Instruction, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.instructions, str) or not isinstance(self.instructions, Sequence):
            raise InvalidProgram(f"instructions must be a sequence of Instruction, got {_shown(self.instructions)}")
        _check_length(len(self.instructions))
        object.__setattr__(self, "instructions", tuple(self.instructions))
        for number, instruction in enumerate(self.instructions, start=1):
            if not isinstance(instruction, Instruction):
                raise InvalidProgram(f"instruction {number}: expected an Instruction, got {_shown(instruction)}")

    @classmethod
    def from_json(cls, data: Any) -> Program:
        """Reads the JSON form: a list of `[function, inputs, output]`.

        Raises:
            InvalidProgram: If the data is malformed; the message names the instruction, counted from 1.
        """
        if not isinstance(data, (list, tuple)):
            raise InvalidProgram(f"a program is a list of [function, inputs, output], got {_shown(data)}")
        _check_length(len(data))
        instructions = []
        for number, item in enumerate(data, start=1):
            if not isinstance(item, (list, tuple)) or len(item) != 3:
                raise InvalidProgram(f"instruction {number}: expected [function, inputs, output], got {_shown(item)}")
            try:
                instructions.append(Instruction(*item))
            except InvalidProgram as error:
                raise InvalidProgram(f"instruction {number}: {error}") from None
        return cls(tuple(instructions))

    def to_json(self) -> list[list[Any]]:
        """Returns the JSON form: lists, strings and integers."""
        return [[i.function, list(i.inputs), i.output] for i in self.instructions]

    @classmethod
    def parse(cls, text: str) -> Program:
        """Reads the text form.

        It has one `output = function(inputs)` per line, or several separated by `;`.

        Slots are named `param`, `grad` and `step`; by their value if they hold a constant (`1.0, 0.5, 0.1, 0.01, 0.001,
        1e-06`, in any spelling of these numbers); and `r9`, `r10`, .... `r0` to `r8` work too. `#` starts a comment.
        `parse(str(program))` equals `program`.

        Raises:
            InvalidProgram: If the text is malformed; the message names the line.
        """
        if not isinstance(text, str):
            raise InvalidProgram(f"a program's text must be a string, got {_shown(text)}")
        if len(text) > _MAX_TEXT:
            raise InvalidProgram(f"a program's text has at most {_MAX_TEXT:,} characters, got {len(text):,}")
        instructions = []
        for number, line in enumerate(re.split("\r\n|\r|\n", text), start=1):
            for statement in line.split("#")[0].split(";"):
                if not statement.strip():
                    continue
                try:
                    instructions.append(_parse_statement(statement))
                except InvalidProgram as error:
                    raise InvalidProgram(f"line {number}: {error}") from None
        return cls(tuple(instructions))

    @classmethod
    def from_python(cls, source: str) -> Program:
        """Reads an optimizer's step from a Python function.

        The source is parsed and never executed. It holds one function. Its first arguments are the parameter, the
        gradient and, if needed, the step number (1 at the first step; a 0-d tensor, like all values computed from it).
        Its lines are assignments. A name that is read before it is assigned keeps its value from step to step and is 0
        before the first; so does a further argument. The function ends with `w = w - update` or `return update`.
        Allowed are + - * /, x ** 2, x / (1 - b ** t), and the language's functions, as functions or methods of torch.

        Numbers are Python's. They are rounded to float32 when combined with a tensor, and composed of the language's
        constants.

        Raises:
            InvalidProgram: If the source is not allowed; the message names the line, its text and the allowed forms.
                Also if a number cannot be composed in a few instructions; the message names the nearest that can.

        >>> print(Program.from_python("def step(w, grad): return 0.9 * torch.sign(grad)"))
        r9 = sign(grad)
        r10 = sub(1.0, 0.1)
        r9 = mul(r10, r9)
        """
        from nosbench_env.language.python_source import program_from_python  # imports this module

        return program_from_python(source)

    def simplified(self) -> Program:
        """Returns the program without unnecessary instructions; see `simplify`."""
        from nosbench_env.language.simplify import simplify  # imports this module

        return simplify(self)

    def __str__(self) -> str:
        return "\n".join(map(str, self.instructions))

    def __repr__(self) -> str:
        return f"Program.parse({'; '.join(str(instruction) for instruction in self.instructions)!r})"

    def _repr_html_(self) -> str:
        """Shows text and pseudocode side by side in notebooks."""
        from nosbench_env.language.pseudocode import pseudocode  # imports this module

        cell = "<td style='vertical-align: top; text-align: left'><pre>{}</pre></td>"
        cells = "".join(cell.format(escape(text)) for text in (str(self), pseudocode(self)))
        return f"<table><tr><th>program</th><th>step</th></tr><tr>{cells}</tr></table>"

    def __len__(self) -> int:
        return len(self.instructions)

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    @overload
    def __getitem__(self, index: int) -> Instruction: ...
    @overload
    def __getitem__(self, index: slice) -> Program: ...
    def __getitem__(self, index: int | slice) -> Instruction | Program:
        if isinstance(index, slice):
            return Program(self.instructions[index])
        return self.instructions[index]


def check_program(program: Any) -> Program:
    """Returns `program` unchanged.

    Raises:
        TypeError: If it is not a `Program`; the message says how to make one.
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"program must be a Program, such as KNOWN_PROGRAMS['Adam'] or Program.parse(text), "
            f"got {type(program).__name__}"
        )
    return program


def _parse_statement(statement: str) -> Instruction:
    match = _LINE.fullmatch(statement)
    if match is None:
        raise InvalidProgram(f"expected 'r9 = function(input, ...)', got {_shown(statement.strip())}")
    inputs = match["inputs"].split(",") if match["inputs"].strip() else []
    return Instruction(
        match["function"], tuple(_parse_slot(name.strip()) for name in inputs), _parse_slot(match["output"])
    )


def _parse_slot(name: str) -> int:
    if name in _SLOTS_BY_NAME:
        return _SLOTS_BY_NAME[name]
    if register := _REGISTER.fullmatch(name):
        return int(register[1])
    if _NUMBER.fullmatch(name):
        try:
            return _SLOTS_BY_VALUE[float(name)]
        except (KeyError, ValueError):
            constants = ", ".join(repr(value) for value in CONSTANTS.values())
            raise InvalidProgram(f"the only constants are {constants}; got {_shown(name)}") from None
    raise InvalidProgram(f"unknown slot {_shown(name)}; slots are param, grad, step, a constant, or r9 to r255")


def _slot(value: Any, role: str) -> int:
    """Converts integers (also numpy's) to slots; rejects booleans and floats."""
    try:
        if isinstance(value, bool):
            raise TypeError
        slot = operator.index(value)
    except TypeError:
        raise InvalidProgram(f"{role} slot must be an integer, got {_shown(value)}") from None
    if not 0 <= slot < MAX_SLOTS:
        raise InvalidProgram(f"{role} slot must lie in 0 to {MAX_SLOTS - 1}, got {_shown(slot)}")
    return slot


def _check_length(length: int) -> None:
    if length > MAX_INSTRUCTIONS:
        raise InvalidProgram(f"a program has at most {MAX_INSTRUCTIONS:,} instructions, got {length:,}")


def _shown(value: object) -> str:
    """Returns any value's short text for messages, even if `repr` fails."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
