"""The probe machine's code of a canonical form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.identity.probe_machine import GRAD_ROW, OPCODES, PARAM_ROW, STEP_ROW
from nosbench_env.language.canonical import CanonicalForm
from nosbench_env.language.functions import PER_TENSOR
from nosbench_env.language.live_code import Kind

_NUMEL_ROW = STEP_ROW + 1
_FIXED_ROWS = {"param": PARAM_ROW, "grad": GRAD_ROW, "step": STEP_ROW, "numel": _NUMEL_ROW}


class ProbeCode:
    """Code for the probe machine, and its initial registers.

    Attributes:
        code: Instructions, `(n, 4)` int32.
        starts: Start of each step's code, `(steps,)` int64.
        ends: End of each step's code, likewise.
        num_rows: Number of registers.
        constants: Register -> its constant.
    """

    def __init__(self, form: CanonicalForm, steps: int) -> None:
        self._form = form
        self._slot_rows = list(range(_NUMEL_ROW + 1, _NUMEL_ROW + 1 + len(form.carried)))
        self.constants: dict[int, float] = {}
        self.num_rows = _NUMEL_ROW + 1 + len(form.carried)
        self._uniform = [kind <= Kind.STEP for kind in form.kinds[-1]]  # the same in all elements, at every step
        instructions: list[tuple[int, int, int, int]] = []
        bounds: list[tuple[int, int]] = []
        # Only reductions depend on which values are arrays, which changes in the first steps.
        reduces = any(op in PER_TENSOR for op, _, _ in form.nodes)
        steps_kinds = form.kinds if reduces else form.kinds[-1:]
        for arrays in dict.fromkeys(tuple(kind == Kind.ARRAY for kind in kinds) for kinds in steps_kinds):
            start = len(instructions)
            instructions += self._step(arrays)
            bounds.append((start, len(instructions)))
        self.code = np.array(instructions, dtype=np.int32)
        last = bounds[-1]
        self.starts = np.full(steps, last[0])
        self.ends = np.full(steps, last[1])
        for step, (start, end) in enumerate(bounds[:steps]):
            self.starts[step], self.ends[step] = start, end

    def without(self, *steps: slice) -> NDArray[np.int64]:
        """Returns `ends` with which the machine skips these steps."""
        ends = self.ends.copy()
        for left_out in steps:
            ends[left_out] = self.starts[left_out]
        return ends

    def registers(self, width: int, numel: NDArray[np.float64], dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """Returns the registers before the first step, `(num_rows, width)`."""
        rows: NDArray[Any] = np.zeros((self.num_rows, width), dtype=dtype)
        rows[_NUMEL_ROW] = numel
        for row, value in self.constants.items():
            rows[row] = value
        return rows

    def _new_row(self) -> int:
        self.num_rows += 1
        return self.num_rows - 1

    def _constant_row(self, value: float) -> int:
        row = self._new_row()
        self.constants[row] = value
        return row

    def _step(self, arrays: Sequence[bool]) -> list[tuple[int, int, int, int]]:
        form = self._form
        rows: list[int] = []
        code: list[tuple[int, int, int, int]] = []
        for number, (op, inputs, detail) in enumerate(form.nodes):
            if op in _FIXED_ROWS:
                rows.append(_FIXED_ROWS[op])
            elif op == "slot":
                rows.append(self._slot_rows[int(detail)])
            elif op == "const":
                rows.append(self._constant_row(float.fromhex(detail)))
            elif op in PER_TENSOR and (op == "size" or not arrays[inputs[0]]):
                rows.append(self._reduced(op, rows[inputs[0]], arrays[inputs[0]], code))
            else:
                if self._uniform[number] and f"{op}!" in OPCODES:
                    op += "!"
                row = self._new_row()
                code.append((OPCODES[op], row, rows[inputs[0]], rows[inputs[-1]]))
                rows.append(row)
        # Slots may take the old values of each other, and one may be the update. Those values are copied before any
        # slot is written.
        copy, aside = OPCODES["copy"], dict[int, int]()
        for value in (*form.carried, form.update):
            row = rows[value]
            if row in self._slot_rows and row not in aside:
                aside[row] = self._new_row()
                code.append((copy, aside[row], row, row))
        for slot_row, value in zip(self._slot_rows, form.carried, strict=True):
            row = aside.get(rows[value], rows[value])
            code.append((copy, slot_row, row, row))
        update = aside.get(rows[form.update], rows[form.update])
        code.append((OPCODES["update"], PARAM_ROW, update, update))
        return code

    def _reduced(self, op: str, row: int, array: bool, code: list[tuple[int, int, int, int]]) -> int:
        """Returns the row of a size or of a scalar's reduction."""
        if op == "size":
            return _NUMEL_ROW if array else self._constant_row(1.0)
        if op == "std":
            return self._constant_row(float("nan"))
        result = self._new_row()
        if op == "mean":  # the mean of the scalar -0 is +0
            code.append((OPCODES["add"], result, row, self._constant_row(0.0)))
        else:
            code.append((OPCODES["abs"], result, row, row))
        return result
