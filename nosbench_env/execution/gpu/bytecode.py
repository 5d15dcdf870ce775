"""Bytecode of steps for the GPU's interpreter (`interpreter.cu`)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nosbench_env.execution.stages import split_into_stages
from nosbench_env.execution.step_code import StepCode, step_codes
from nosbench_env.language.functions import OPERATIONS, REDUCTIONS
from nosbench_env.language.live_code import Kind, carried_slots
from nosbench_env.language.program import Program

# Elementwise operations, scalar sources, loads and stores, in the order of the enum `Opcode` in interpreter.cu.
OPCODES = {
    name: number
    for number, name in enumerate(
        (
            *(name for name in OPERATIONS if name not in ("mean", "std", "size")),
            *("const", "step", "grad_scale", "numel", "scalar_slot", "reduced"),
            *("load", "store", "store_scalar", "update"),
        )
    )
}
REDUCTION_CODES = {name: number for number, name in enumerate(REDUCTIONS)}  # as the enum `ReductionKind`
PARAM_COLUMN, GRAD_COLUMN, FIRST_SLOT_COLUMN = 0, 1, 2  # columns of the table of pointers

# The limits of a block of threads; larger programs run on `UnfusedPopulation`.
MAX_REGISTERS, MAX_SCALARS = 32, 256

GpuInstruction = tuple[int, int, int, int]  # opcode, result, two operands


class TooLarge(ValueError):
    """The program exceeds the interpreter's registers or scalars."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction of operand `source`, which code `start` to `end` computes."""

    kind: int
    start: int
    end: int
    source: int
    result: int


@dataclass(frozen=True, slots=True)
class Bytecode:
    """One step of a program for the interpreter.

    An operand is the number of a register, or -1 - the number of a scalar. A level is a stage of the step.

    Attributes:
        instructions: All instructions, those of the scalars first.
        scalars_end: For each level, the end of the code of the scalars known there.
        reductions: For each level but the last, its reductions.
        final: Start and end of the last level's code, which writes slots and parameter.
        num_results: Number of results of reductions.
    """

    instructions: tuple[GpuInstruction, ...]
    scalars_end: tuple[int, ...]
    reductions: tuple[tuple[Reduction, ...], ...]
    final: tuple[int, int]
    num_results: int

    @property
    def num_levels(self) -> int:
        """Number of levels; each takes a launch."""
        return len(self.scalars_end)


@lru_cache(maxsize=1024)
def bytecodes(program: Program, *, scaled_gradient: bool = False) -> tuple[Bytecode, ...]:
    """Returns the bytecode of each of `step_codes`.

    The carried slots take the columns from `FIRST_SLOT_COLUMN` on, in ascending order.

    Raises:
        TooLarge: If the program does not fit the interpreter.
    """
    codes = step_codes(program, scaled_gradient=scaled_gradient)
    return tuple(_Assembler(code, carried_slots(program)).assemble() for code in codes.steps)


class _Assembler:
    def __init__(self, code: StepCode, slots: Sequence[int]) -> None:
        self.code = code
        self.column = {slot: number for number, slot in enumerate(slots)}
        self.scalar: dict[int, int] = {}  # node -> number of its scalar
        self.result: dict[int, int] = {}  # reduction node -> number of its result
        self.instructions: list[GpuInstruction] = []

    def assemble(self) -> Bytecode:
        nodes = self.code.nodes
        stages = split_into_stages(self.code)
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
            for slot, kind in self.code.kinds_after.items()
        ]
        outputs = [(op, offset + self.column[slot], self.code.carried[slot]) for (op, offset), slot in stores]
        self._elements([], [*outputs, ("update", PARAM_COLUMN, self.code.update)])

    def _elements(self, values: Iterable[int], outputs: Sequence[tuple[str, int, int]]) -> dict[int, int]:
        """Appends code that computes and writes elements.

        The code computes `values`, and writes `outputs` (opcode, column, value).

        All reads precede all writes, since a slot may take the old value of another.

        Returns:
            The operand of each node that is a scalar or was computed here.
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
