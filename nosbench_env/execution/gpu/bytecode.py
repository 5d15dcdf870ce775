"""A step's code as bytecode for the interpreter on the GPU (`interpreter.cu`, which defines what the numbers mean)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nosbench_env.execution.stages import schedule
from nosbench_env.execution.step_code import StepCode, lower
from nosbench_env.language.live_code import Kind, carried_slots
from nosbench_env.language.program import Program

# Elementwise operations, scalar sources and what else a program can do, in the order of the interpreter's enum.
OPCODES = {
    name: number
    for number, name in enumerate(
        (
            *("square", "exp", "log", "sign", "sqrt", "abs", "norm", "sin", "cos", "tan", "arcsin", "arccos", "arctan"),
            *("div", "mul", "add", "sub", "minimum", "maximum", "heaviside", "pow"),
            *("const", "step", "grad_scale", "numel", "scalar_slot", "reduced"),
            *("load", "store", "store_scalar", "update"),
        )
    )
}
REDUCTION_CODES = {"norm": 0, "mean": 1, "std": 2}
PARAM_COLUMN, GRAD_COLUMN, FIRST_SLOT_COLUMN = 0, 1, 2  # of the table of pointers

# What one block of threads has room for; a program that needs more has to be run in another way.
MAX_REGISTERS, MAX_SCALARS = 32, 256

Instruction = tuple[int, int, int, int]  # operation, result, two operands


class TooLarge(ValueError):
    """The program needs more registers or scalars than the interpreter has."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction: instructions `start` to `end` compute the elements' values, which are in operand `source`."""

    kind: int
    start: int
    end: int
    source: int
    result: int


@dataclass(frozen=True, slots=True)
class Bytecode:
    """One step of a program for the interpreter.

    An operand is the number of a register, or -1 - the number of a scalar.

    Attributes:
        instructions: The code of the scalars first.
        scalars_end: For each level, where the code of the scalars known there ends.
        reductions: For each level but the last, what it reduces.
        final: Start and end of the last level's code, which writes slots and parameter.
        num_results: How many results of reductions there are.
    """

    instructions: tuple[Instruction, ...]
    scalars_end: tuple[int, ...]
    reductions: tuple[tuple[Reduction, ...], ...]
    final: tuple[int, int]
    num_results: int

    @property
    def num_levels(self) -> int:
        """How many launches it takes: one for each level of reductions, and the last."""
        return len(self.scalars_end)


@lru_cache(maxsize=1024)
def assemble(program: Program, *, scaled_gradient: bool = False) -> tuple[Bytecode, ...]:
    """The bytecode of a program's steps, as `lower` has them; carried slots have their columns in ascending order.

    Raises:
        TooLarge: If it does not fit the interpreter.
    """
    lowered = lower(program, scaled_gradient=scaled_gradient)
    return tuple(_Assembler(code, carried_slots(program)).assemble() for code in lowered.steps)


class _Assembler:
    def __init__(self, code: StepCode, slots: Sequence[int]) -> None:
        self.code = code
        self.column = {slot: number for number, slot in enumerate(slots)}
        self.scalar: dict[int, int] = {}  # node -> number of the scalar
        self.result: dict[int, int] = {}  # reduction node -> number of its result
        self.instructions: list[Instruction] = []

    def assemble(self) -> Bytecode:
        nodes = self.code.nodes
        stages = schedule(self.code)
        scalars_end = []
        available = [i for i, node in enumerate(nodes) if not node.inputs and node.kind < Kind.ARRAY]
        for number, stage in enumerate(stages):
            reduced = stages[number - 1].barriers if number else ()
            for index in (*available, *reduced, *stage.scalars):
                self._scalar_instruction(index)
            available = []
            scalars_end.append(len(self.instructions))
        reductions = tuple(tuple(self._reduction(index) for index in stage.barriers) for stage in stages[:-1])
        start = len(self.instructions)
        self._final()
        return Bytecode(
            tuple(self.instructions),
            tuple(scalars_end),
            reductions,
            (start, len(self.instructions)),
            len(self.result),
        )

    def _scalar_instruction(self, index: int) -> None:
        node = self.code.nodes[index]
        destination = self.scalar[index] = len(self.scalar)
        if destination >= MAX_SCALARS:
            raise TooLarge(f"the program needs more than {MAX_SCALARS} scalars")
        match node.op:
            case "const":
                a, b = struct.unpack("<i", struct.pack("<f", node.detail))[0], 0
            case "slot":
                a, b = self.column[int(node.detail)], 0
            case "step" | "grad_scale" | "numel":
                a, b = 0, 0
            case _ if any(self.code.nodes[source].kind == Kind.ARRAY for source in node.inputs):
                a, b = self.result.setdefault(index, len(self.result)), 0
                self.instructions.append((OPCODES["reduced"], destination, a, b))
                return
            case _:
                a, b, *_ = (*(self.scalar[source] for source in node.inputs), 0, 0)
        op = "scalar_slot" if node.op == "slot" else node.op
        self.instructions.append((OPCODES[op], destination, a, b))

    def _reduction(self, index: int) -> Reduction:
        node = self.code.nodes[index]
        start = len(self.instructions)
        operands = self._elements([node.inputs[0]], [])
        return Reduction(
            REDUCTION_CODES[node.op], start, len(self.instructions), operands[node.inputs[0]], self.result[index]
        )

    def _final(self) -> None:
        stores = [
            (("store", FIRST_SLOT_COLUMN) if kind == Kind.ARRAY else ("store_scalar", 0), slot)
            for slot, kind in self.code.next_signature
        ]
        outputs = [(op, offset + self.column[slot], self.code.carried[slot]) for (op, offset), slot in stores]
        self._elements([], [*outputs, ("update", PARAM_COLUMN, self.code.update)])

    def _elements(self, values: Iterable[int], outputs: Sequence[tuple[str, int, int]]) -> dict[int, int]:
        """Appends the code that computes `values` for each element, and writes `outputs` (operation, column, value).

        Nothing is written before all is read: a slot may be handed the old value of another.
        """
        nodes = self.code.nodes
        needed = {*values, *(value for _, _, value in outputs)}
        order = []
        for index in range(len(nodes) - 1, -1, -1):
            if index in needed and nodes[index].kind == Kind.ARRAY:
                order.append(index)
                needed.update(nodes[index].inputs)
        order.reverse()
        last_use = {source: place for place, index in enumerate(order) for source in nodes[index].inputs}
        for index in (*values, *(value for _, _, value in outputs)):
            last_use[index] = len(order)

        free = list(range(MAX_REGISTERS - 1, -1, -1))
        operands = {index: -1 - number for index, number in self.scalar.items()}
        for place, index in enumerate(order):
            node = nodes[index]
            inputs = [operands[source] for source in node.inputs]
            for source in set(node.inputs):
                if last_use[source] == place and operands[source] >= 0:
                    free.append(operands[source])
            if not free:
                raise TooLarge(f"the program needs more than {MAX_REGISTERS} registers")
            register = operands[index] = free.pop()
            if node.inputs:
                a, b, *_ = (*inputs, 0, 0)
                self.instructions.append((OPCODES[node.op], register, a, b))
            else:
                self.instructions.append((OPCODES["load"], register, self._source_column(index), 0))
        self.instructions.extend((OPCODES[op], column, operands[value], 0) for op, column, value in outputs)
        return operands

    def _source_column(self, index: int) -> int:
        node = self.code.nodes[index]
        if node.op == "slot":
            return FIRST_SLOT_COLUMN + self.column[int(node.detail)]
        return PARAM_COLUMN if node.op == "param" else GRAD_COLUMN
