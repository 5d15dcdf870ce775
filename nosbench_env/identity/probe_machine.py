"""A machine that interprets programs on a few small tensors.

LLVM compiles the interpreter once per process. A register of the machine holds one value for each element of all
tensors. Each tensor has `LANES` elements, which fill one processor register.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from nosbench_env.execution.llvm import Assembly, compile_llvm, compile_lock
from nosbench_env.language.functions import OPERATIONS, REDUCTIONS, TRANSCENDENTALS, of_kind

LANES = 8

Real = Literal["float", "double"]
_BYTES = {"float": 4, "double": 8}
_DTYPES: dict[Real, type[np.floating[Any]]] = {"float": np.float32, "double": np.float64}

# The registers that the machine sets before each step.
PARAM_ROW, GRAD_ROW, STEP_ROW = range(3)

# "sin!" and the like take values that are equal in all elements.
OPCODES = {
    name: number
    for number, name in enumerate(
        (
            *of_kind("elementwise", "transcendental", "reduction"),
            *(f"{name}!" for name in TRANSCENDENTALS),
            *("copy", "update"),
        )
    )
}


@dataclass(frozen=True)
class Inputs:
    """The inputs of every program; all arrays are contiguous.

    Attributes:
        gradients: `(steps, tensors * LANES)` float64 with values of float32.
        times: The number of each step, `(steps,)` float64.
        resets: For each step, the row of `weights` that the parameters are set to before it, or -1; `(steps,)` int64.
        weights: `(rows, tensors * LANES)` float64 with values of float32.
        blocks: The row of the result that each step adds to, `(steps,)` int64.
        coefficients: The factor of each element's update, `(steps, tensors * LANES)` float64.
        norm_factors: The factor of each tensor's norm, `(tensors,)` float64.
        std_factors: The factor of each tensor's standard deviation, likewise.
    """

    gradients: NDArray[np.float64]
    times: NDArray[np.float64]
    resets: NDArray[np.int64]
    weights: NDArray[np.float64]
    blocks: NDArray[np.int64]
    coefficients: NDArray[np.float64]
    norm_factors: NDArray[np.float64]
    std_factors: NDArray[np.float64]


class ProbeMachine:
    """Runs programs on the same inputs.

    Args:
        inputs: See `Inputs`.
        real: The precision; training uses "float".
    """

    def __init__(self, inputs: Inputs, real: Real) -> None:
        self.num_lanes = inputs.gradients.shape[1]
        self.num_steps, self.num_blocks = len(inputs.times), int(inputs.blocks.max()) + 1
        self.dtype = _DTYPES[real]
        # The sums of each block's coefficients, as a measure for sums of updates.
        self.total_coefficients = np.zeros((self.num_blocks, self.num_lanes // LANES))
        per_tensor = inputs.coefficients.reshape(self.num_steps, -1, LANES).sum(axis=2)
        np.add.at(self.total_coefficients, inputs.blocks, per_tensor)
        converted = [
            np.ascontiguousarray(a, dtype=self.dtype) for a in (inputs.gradients, inputs.times, inputs.weights)
        ]
        factors = [np.ascontiguousarray(a, dtype=self.dtype) for a in (inputs.norm_factors, inputs.std_factors)]
        self._arrays = (*converted, inputs.resets, inputs.blocks, inputs.coefficients, *factors)  # kept alive
        self._addresses = [array.ctypes.data for array in self._arrays]
        self._function = _function(real, self.num_lanes // LANES)

    def run(
        self,
        code: NDArray[np.int32],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        registers: NDArray[Any],
        steps: int,
    ) -> tuple[int, NDArray[np.float64]]:
        """Runs a program from the first step on.

        Args:
            code: Instructions `(n, 4)`: opcode, register of the result, registers of the inputs.
            starts: Start of each step's code, `(num_steps,)`.
            ends: End of each step's code, likewise.
            registers: `(rows, num_lanes)` in the machine's precision; modified.
            steps: The greatest number of steps.

        Returns:
            The number of the step after which a parameter was not finite, which ends the run, or 0. And for each block
            and tensor, over the steps before that: the sums of coefficients times updates, and of coefficients times
            absolute updates, `(2, num_blocks, tensors)`.
        """
        sums = np.zeros((2, self.num_blocks, self.num_lanes // LANES))
        died = self._function(
            code.ctypes.data,
            starts.ctypes.data,
            ends.ctypes.data,
            registers.ctypes.data,
            steps,
            *self._addresses,
            sums[0].ctypes.data,
            sums[1].ctypes.data,
        )
        return died, sums


_ARGUMENTS = (
    "ptr %code, ptr %starts, ptr %ends, ptr %regs, i64 %steps, ptr %grads, ptr %times, ptr %weights, ptr %resets, "
    "ptr %blocks, ptr %coefficients, ptr %norm_factors, ptr %std_factors, ptr %sums, ptr %sizes"
)
_Run = Callable[..., int]


@cache
def _function(real: Real, tensors: int) -> _Run:
    """Compiles the machine for a number of tensors."""
    source = _Source(real, tensors).text()
    signature = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int64, *[ctypes.c_void_p] * 10)
    with compile_lock:
        engine = compile_llvm(source)
        function = signature(engine.get_function_address("run"))
    _engines.append(engine)  # lives as long as the process
    return function


_engines: list[llvm.ExecutionEngine] = []


class _Source:
    """Writes the machine's LLVM assembly."""

    def __init__(self, real: Real, tensors: int) -> None:
        self.real, self.tensors, self.width = real, tensors, tensors * LANES
        self.body = Assembly(LANES, real, prefix="p")
        self.vector, self.doubles = self.body.float, f"<{LANES} x double>"
        self.bits = "f32" if real == "float" else "f64"

    def text(self) -> str:
        return "\n".join([*self._declarations(), f"define i64 @run({_ARGUMENTS}) {{", *self._lines(), "}"])

    def _declarations(self) -> list[str]:
        vector = f"v{LANES}{self.bits}"
        return [
            f"declare {self.vector} @llvm.sqrt.{vector}({self.vector})",
            f"declare {self.vector} @llvm.fabs.{vector}({self.vector})",
            f"declare {self.real} @llvm.sqrt.{self.bits}({self.real})",
            f"declare {self.real} @llvm.vector.reduce.fadd.{vector}({self.real}, {self.vector})",
            *(
                [f"declare double @llvm.vector.reduce.fadd.v{LANES}f64(double, {self.doubles})"]
                * (self.real == "float")
            ),
            *([f"declare {self.doubles} @llvm.fabs.v{LANES}f64({self.doubles})"] * (self.real == "float")),
            f"declare i1 @llvm.vector.reduce.or.v{LANES}i1(<{LANES} x i1>)",
            *(
                f"declare double @{OPERATIONS[name].c_name}({', '.join(['double'] * OPERATIONS[name].arity)})"
                for name in TRANSCENDENTALS
            ),
        ]

    def _lines(self) -> list[str]:
        emit, lines = self.body.emit, self.body.lines
        lines += [
            "entry:",
            "  %pc = alloca i64",
            "  %step = alloca i64",
            "  %lane = alloca i64",
            "  store i64 0, ptr %step",
            "  br label %next_step",
            "next_step:",
            "  %k = load i64, ptr %step",
            "  %finished = icmp eq i64 %k, %steps",
            "  br i1 %finished, label %survived, label %prepare",
            "survived:",
            "  ret i64 0",
            "prepare:",
            f"  %row = mul i64 %k, {self.width}",
            f"  %ptime = getelementptr {self.real}, ptr %times, i64 %k",
            f"  %time = load {self.real}, ptr %ptime",
            "  %pstart = getelementptr i64, ptr %starts, i64 %k",
            "  %start = load i64, ptr %pstart",
            "  store i64 %start, ptr %pc",
            "  %pend = getelementptr i64, ptr %ends, i64 %k",
            "  %end = load i64, ptr %pend",
            "  %pblock = getelementptr i64, ptr %blocks, i64 %k",
            "  %block = load i64, ptr %pblock",
            "  %preset = getelementptr i64, ptr %resets, i64 %k",
            "  %reset = load i64, ptr %preset",
        ]
        time = self._splat("%time")
        for tensor in range(self.tensors):
            offset = emit(f"add i64 %row, {tensor * LANES}")
            gradient = self._load(emit(f"getelementptr {self.real}, ptr %grads, i64 {offset}"))
            self._store(gradient, self._fixed_row(GRAD_ROW, tensor))
            self._store(time, self._fixed_row(STEP_ROW, tensor))
        lines += [
            "  %keeps = icmp slt i64 %reset, 0",
            "  br i1 %keeps, label %fetch, label %set_weights",
            "set_weights:",
        ]
        lines.append(f"  %reset_row = mul i64 %reset, {self.width}")
        for tensor in range(self.tensors):
            offset = emit(f"add i64 %reset_row, {tensor * LANES}")
            weight = self._load(emit(f"getelementptr {self.real}, ptr %weights, i64 {offset}"))
            self._store(weight, self._fixed_row(PARAM_ROW, tensor))
        lines += [
            "  br label %fetch",
            "fetch:",
            "  %at = load i64, ptr %pc",
            "  %step_done = icmp eq i64 %at, %end",
            "  br i1 %step_done, label %end_step, label %execute",
            "end_step:",
            "  %k1 = add i64 %k, 1",
            "  store i64 %k1, ptr %step",
            "  br label %next_step",
            "execute:",
            "  %at1 = add i64 %at, 1",
            "  store i64 %at1, ptr %pc",
            "  %word = mul i64 %at, 4",
        ]
        for place, name in enumerate(("op", "dst", "a", "b")):
            index = emit(f"add i64 %word, {place}")
            lines.append(f"  %{name} = load i32, ptr {emit(f'getelementptr i32, ptr %code, i64 {index}')}")
        for name in ("dst", "a", "b"):
            lines += [
                f"  %{name}64 = sext i32 %{name} to i64",
                f"  %{name}row = mul i64 %{name}64, {self.width}",
                f"  %p{name} = getelementptr {self.real}, ptr %regs, i64 %{name}row",
            ]
        cases = " ".join(f"i32 {number}, label %op{number}" for number in OPCODES.values())
        lines.append(f"  switch i32 %op, label %survived [{cases}]")
        for name, number in OPCODES.items():
            lines.append(f"op{number}:")
            if name == "update":
                self._update()
            elif name.removesuffix("!") in TRANSCENDENTALS:
                self._call(name, number)
                continue
            else:
                for tensor in range(self.tensors):
                    self._operation(name, tensor)
            lines.append("  br label %fetch")
        return lines

    def _operation(self, name: str, tensor: int) -> None:
        x = self._load(self._element("%pa", tensor))
        if name in REDUCTIONS:
            value = self._splat(self._reduction(name, x, tensor))
        elif name == "copy":
            value = x
        elif OPERATIONS[name].arity == 1:
            value = self.body.apply(name, [x])
        else:
            value = self.body.apply(name, [x, self._load(self._element("%pb", tensor))])
        self._store(value, self._element("%pdst", tensor))

    def _reduction(self, name: str, x: str, tensor: int) -> str:
        emit, real = self.body.emit, self.real
        one_lane = Assembly(1, real)
        if name == "norm":
            total = self._sum(emit(f"fmul {self.vector} {x}, {x}"))
            return self._times_factor(emit(f"call {real} @llvm.sqrt.{self.bits}({real} {total})"), "norm", tensor)
        mean = emit(f"fdiv {real} {self._sum(x)}, {one_lane.constant(float(LANES))}")
        if name == "mean":
            return mean
        deviation = emit(f"fsub {self.vector} {x}, {self._splat(mean)}")
        total = self._sum(emit(f"fmul {self.vector} {deviation}, {deviation}"))
        variance = emit(f"fdiv {real} {total}, {one_lane.constant(float(LANES - 1))}")
        return self._times_factor(emit(f"call {real} @llvm.sqrt.{self.bits}({real} {variance})"), "std", tensor)

    def _times_factor(self, value: str, reduction: str, tensor: int) -> str:
        address = self.body.emit(f"getelementptr {self.real}, ptr %{reduction}_factors, i64 {tensor}")
        factor = self.body.emit(f"load {self.real}, ptr {address}")
        return self.body.emit(f"fmul {self.real} {value}, {factor}")

    def _call(self, name: str, number: int) -> None:
        """Calls a C function, once if all elements are equal."""
        function, uniform = OPERATIONS[name.removesuffix("!")], name.endswith("!")
        emit, lines, real = self.body.emit, self.body.lines, self.real
        lines += ["  store i64 0, ptr %lane", f"  br label %op{number}_lane", f"op{number}_lane:"]
        lane = emit("load i64, ptr %lane")
        inputs = []
        for operand in ("%pa", "%pb")[: function.arity]:
            value = emit(f"load {real}, ptr {emit(f'getelementptr {real}, ptr {operand}, i64 {lane}')}")
            inputs.append(value if real == "double" else emit(f"fpext float {value} to double"))
        arguments = ", ".join(f"double {value}" for value in inputs)
        value = emit(f"call double @{function.c_name}({arguments})")
        if real == "float":
            value = emit(f"fptrunc double {value} to float")
        if uniform:
            for tensor in range(self.tensors):
                self._store(self._splat(value), self._element("%pdst", tensor))
            lines.append("  br label %fetch")
            return
        lines.append(f"  store {real} {value}, ptr {emit(f'getelementptr {real}, ptr %pdst, i64 {lane}')}")
        following = emit(f"add i64 {lane}, 1")
        lines.append(f"  store i64 {following}, ptr %lane")
        done = emit(f"icmp eq i64 {following}, {self.width}")
        lines.append(f"  br i1 {done}, label %fetch, label %op{number}_lane")

    def _update(self) -> None:
        """Subtracts the update, ends a non-finite run, adds to the sums."""
        emit, lines = self.body.emit, self.body.lines
        zero, updates, bad = self.body.constant(0.0), [], None
        for tensor in range(self.tensors):
            update, address = self._load(self._element("%pa", tensor)), self._fixed_row(PARAM_ROW, tensor)
            param = emit(f"fsub {self.vector} {self._load(address)}, {update}")
            self._store(param, address)
            updates.append(update)
            infinite = emit(f"fcmp une {self.vector} {emit(f'fsub {self.vector} {param}, {param}')}, {zero}")
            bad = infinite if bad is None else emit(f"or <{LANES} x i1> {bad}, {infinite}")
        dead = emit(f"call i1 @llvm.vector.reduce.or.v{LANES}i1(<{LANES} x i1> {bad})")
        lines += [f"  br i1 {dead}, label %died, label %sum_up", "died:", "  %count = add i64 %k, 1"]
        lines += ["  ret i64 %count", "sum_up:"]
        first = emit(f"mul i64 %block, {self.tensors}")
        for tensor, update in enumerate(updates):
            if self.real == "float":
                update = emit(f"fpext {self.vector} {update} to {self.doubles}")
            offset = emit(f"add i64 %row, {tensor * LANES}")
            address = emit(f"getelementptr double, ptr %coefficients, i64 {offset}")
            coefficients = emit(f"load {self.doubles}, ptr {address}, align 8")
            place = emit(f"add i64 {first}, {tensor}")
            size = emit(f"call {self.doubles} @llvm.fabs.v{LANES}f64({self.doubles} {update})")
            for values, result in ((update, "%sums"), (size, "%sizes")):
                weighted = emit(f"fmul {self.doubles} {values}, {coefficients}")
                reduce = f"@llvm.vector.reduce.fadd.v{LANES}f64(double 0x8000000000000000, {self.doubles} {weighted})"
                total = emit(f"call double {reduce}")
                address = emit(f"getelementptr double, ptr {result}, i64 {place}")
                before = emit(f"load double, ptr {address}")
                lines.append(f"  store double {emit(f'fadd double {total}, {before}')}, ptr {address}")

    def _sum(self, vector: str) -> str:
        start = Assembly(1, self.real).constant(-0.0)
        function = f"@llvm.vector.reduce.fadd.v{LANES}{self.bits}"
        return self.body.emit(f"call {self.real} {function}({self.real} {start}, {self.vector} {vector})")

    def _splat(self, value: str) -> str:
        first = self.body.emit(f"insertelement {self.vector} poison, {self.real} {value}, i64 0")
        zeros = f"<{', '.join(['i32 0'] * LANES)}>"
        return self.body.emit(f"shufflevector {self.vector} {first}, {self.vector} poison, <{LANES} x i32> {zeros}")

    def _element(self, row: str, tensor: int) -> str:
        return self.body.emit(f"getelementptr {self.real}, ptr {row}, i64 {tensor * LANES}")

    def _fixed_row(self, row: int, tensor: int) -> str:
        return self._element("%regs", row * self.tensors + tensor)

    def _load(self, address: str) -> str:
        return self.body.emit(f"load {self.vector}, ptr {address}, align {_BYTES[self.real]}")

    def _store(self, value: str, address: str) -> None:
        self.body.lines.append(f"  store {self.vector} {value}, ptr {address}, align {_BYTES[self.real]}")
