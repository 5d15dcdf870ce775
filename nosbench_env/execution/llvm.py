"""Machine code for fused loops, by LLVM.

Compiling a loop takes about 20 ms.

The loops are written in vectors of 16 elements. LLVM's optimisation passes, which leak and take longer than everything
else, are therefore not needed. No flag allows reassociation or contraction, so every operation rounds as torch's does.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

LANES = 16

# Held while compiling and while forking: a child must not inherit LLVM's lock from a thread that it does not have.
compile_lock = threading.RLock()
os.register_at_fork(
    before=compile_lock.acquire, after_in_parent=compile_lock.release, after_in_child=compile_lock.release
)
LoopFunction = Callable[[int, int, int, int], int]


@dataclass(frozen=True, slots=True)
class Operation:
    """An elementwise operation on "a0" (array), "s0" (scalar), "v0" (result), floats."""

    op: str
    operands: tuple[str | float, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over the elements of tensors.

    The result of operation `i` is "v{i}".

    Attributes:
        num_arrays: Number of arrays ("a0", "a1", ...) of each tensor.
        num_scalars: Number of scalars ("s0", ...) of each tensor.
        operations: The operations on each element, in order.
        stores: Pairs of a value and the number of the array it is written to. All reads precede all writes.
        checked: Number of the array whose stored values are tested for being finite, or None.
    """

    num_arrays: int
    num_scalars: int
    operations: tuple[Operation, ...]
    stores: tuple[tuple[str | float, int], ...]
    checked: int | None = None


class CompiledLoops:
    """Compiled loops; their memory is freed with the object.

    `functions[i](tensors, sizes, arrays, scalars)` runs loop `i`. It returns 1 if a stored value of the checked array
    is not finite, else 0. `tensors` is the number of tensors; the others are addresses of int64 sizes `(tensors,)`, of
    pointers `(tensors, num_arrays)` and of float32 scalars `(tensors, num_scalars)`.
    """

    def __init__(self, loops: Sequence[Loop]) -> None:
        source = "\n".join([_DECLARATIONS, *(_loop_function(f"loop{i}", loop) for i, loop in enumerate(loops))])
        signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int64, *[ctypes.c_void_p] * 3)
        with compile_lock:
            self._engine = compile_llvm(source)
            self.functions: list[LoopFunction] = [
                signature(self._engine.get_function_address(f"loop{i}")) for i in range(len(loops))
            ]
        weakref.finalize(self, _close, self._engine)


def compile_llvm(source: str) -> llvm.ExecutionEngine:
    """Compiles LLVM assembly; the caller must hold `compile_lock`."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(source), _target_machine())
    engine.finalize_object()
    return engine


def _close(engine: llvm.ExecutionEngine) -> None:
    with compile_lock:
        engine.close()


@cache
def _initialised_target() -> llvm.Target:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple()


@cache
def _host_features() -> str:
    try:
        features: str = llvm.get_host_cpu_features().flatten()
        return features
    except RuntimeError:  # unknown on some systems; LLVM then assumes those that the processor's name implies
        return ""


def _target_machine() -> llvm.TargetMachine:
    """Creates a target machine for one engine, its owner."""
    return _initialised_target().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=_host_features(),
        opt=2,
        codemodel="jitdefault",
        jit=True,
    )


_DECLARATIONS = (
    "\n".join(
        f"declare {type_} @llvm.{name}.{suffix}({', '.join([type_] * arity)})"
        for type_, suffix in (("float", "f32"), (f"<{LANES} x float>", f"v{LANES}f32"))
        for name, arity in (("sqrt", 1), ("fabs", 1), ("fma", 3))
    )
    + f"\ndeclare i32 @llvm.vector.reduce.or.v{LANES}i32(<{LANES} x i32>)"
)


class Assembly:
    """LLVM assembly on one element, or on a vector."""

    def __init__(self, lanes: int, real: str = "float", prefix: str | None = None) -> None:
        self.lanes, self.lines, self.real = lanes, list[str](), real
        self.float, self.int, self.bool = ((t if lanes == 1 else f"<{lanes} x {t}>") for t in (real, "i32", "i1"))
        bits = "f32" if real == "float" else "f64"
        self._suffix = bits if lanes == 1 else f"v{lanes}{bits}"
        self._prefix = prefix or ("x" if lanes == 1 else "y")

    def constant(self, value: float | int, type_: str | None = None) -> str:
        """Returns the text of a constant, equal in all elements."""
        type_ = type_ or self.real
        text = str(value) if type_ == "i32" else f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        return text if self.lanes == 1 else f"<{', '.join([f'{type_} {text}'] * self.lanes)}>"

    def emit(self, expression: str) -> str:
        """Adds a line that names the expression; returns the name."""
        name = f"%{self._prefix}{len(self.lines)}"
        self.lines.append(f"  {name} = {expression}")
        return name

    def select(self, condition: str, yes: str, no: str) -> str:
        """Selects `yes` where the condition holds, `no` elsewhere."""
        return self.emit(f"select {self.bool} {condition}, {self.float} {yes}, {self.float} {no}")

    def compare(self, predicate: str, a: str, b: str) -> str:
        """Compares by an LLVM predicate, such as "olt"."""
        return self.emit(f"fcmp {predicate} {self.float} {a}, {b}")

    def call(self, name: str, *inputs: str) -> str:
        """Calls an LLVM intrinsic."""
        arguments = ", ".join(f"{self.float} {value}" for value in inputs)
        return self.emit(f"call {self.float} @llvm.{name}.{self._suffix}({arguments})")

    def apply(self, op: str, inputs: Sequence[str]) -> str:
        """Applies an operation of the program language, or "fma"."""
        if op in ("add", "sub", "mul", "div"):
            return self.emit(f"f{op} {self.float} {inputs[0]}, {inputs[1]}")
        zero, one = self.constant(0.0), self.constant(1.0)
        match op, *inputs:
            case "square", x:
                return self.emit(f"fmul {self.float} {x}, {x}")
            case "sqrt", x:
                return self.call("sqrt", x)
            case "abs", x:
                return self.call("fabs", x)
            case "fma", a, b, c:
                return self.call("fma", a, b, c)
            case "sign", x:
                positive = self.select(self.compare("ogt", x, zero), one, zero)
                negative = self.select(self.compare("olt", x, zero), one, zero)
                return self.emit(f"fsub {self.float} {positive}, {negative}")
            case "minimum" | "maximum", a, b:  # NaN if either is
                first = self.compare("olt" if op == "minimum" else "ogt", a, b)
                return self.select(self.compare("uno", a, a), a, self.select(first, a, b))
            case "heaviside", x, v:
                return self.select(
                    self.compare("oeq", x, zero), v, self.select(self.compare("ogt", x, zero), one, zero)
                )
        raise ValueError(f"no machine code for {op!r}")

    def not_finite(self, value: str) -> str:
        """Returns 1 where a value is not finite, else 0."""
        exponent = self.constant(0x7F800000, "i32")
        bits = self.emit(f"and {self.int} {self.emit(f'bitcast {self.float} {value} to {self.int}')}, {exponent}")
        return self.emit(f"zext {self.bool} {self.emit(f'icmp eq {self.int} {bits}, {exponent}')} to {self.int}")


def _elements(loop: Loop, lanes: int, bad: str) -> tuple[str, str]:
    """Returns a loop's body for `lanes` elements, and `bad`'s new name."""
    body = Assembly(lanes)
    names: dict[str, str] = {f"s{i}": f"%s{i}" if lanes == 1 else f"%sv{i}" for i in range(loop.num_scalars)}
    used = {operand for operation in loop.operations for operand in operation.operands}
    used |= {value for value, _ in loop.stores}
    addresses = [body.emit(f"getelementptr float, ptr %a{i}, i64 %{body._prefix}i") for i in range(loop.num_arrays)]
    for i, address in enumerate(addresses):
        if f"a{i}" in used:
            names[f"a{i}"] = body.emit(f"load {body.float}, ptr {address}, align 4")

    def value_of(operand: str | float) -> str:
        return names[operand] if isinstance(operand, str) else body.constant(operand)

    for i, operation in enumerate(loop.operations):
        names[f"v{i}"] = body.apply(operation.op, [value_of(operand) for operand in operation.operands])
    for value, array in loop.stores:
        body.lines.append(f"  store {body.float} {value_of(value)}, ptr {addresses[array]}, align 4")
        if array == loop.checked:
            bad = body.emit(f"or {body.int} {bad}, {body.not_finite(value_of(value))}")
    return "\n".join(body.lines), bad


def _loop_function(name: str, loop: Loop) -> str:
    """Returns a loop over tensors: whole vectors, then single elements."""
    vector = f"<{LANES} x float>"
    vector_int = f"<{LANES} x i32>"
    zeros = f"<{', '.join(['i32 0'] * LANES)}>"
    vectors, bad_vector = _elements(loop, LANES, "%ybad")
    scalars, bad_scalar = _elements(loop, 1, "%xbad")
    head = [f"  %row = mul i64 %t, {loop.num_arrays}", "  %pointers = getelementptr ptr, ptr %arrays, i64 %row"]
    for i in range(loop.num_arrays):
        head += [f"  %pa{i} = getelementptr ptr, ptr %pointers, i64 {i}", f"  %a{i} = load ptr, ptr %pa{i}"]
    head += [f"  %srow = mul i64 %t, {loop.num_scalars}", "  %values = getelementptr float, ptr %scalars, i64 %srow"]
    for i in range(loop.num_scalars):
        head += [
            f"  %ps{i} = getelementptr float, ptr %values, i64 {i}",
            f"  %s{i} = load float, ptr %ps{i}",
            f"  %si{i} = insertelement {vector} poison, float %s{i}, i64 0",
            f"  %sv{i} = shufflevector {vector} %si{i}, {vector} poison, {vector_int} {zeros}",
        ]
    return "\n".join(
        [
            f"define i32 @{name}(i64 %tensors, ptr %sizes, ptr %arrays, ptr %scalars) {{",
            "entry:",
            "  %none = icmp eq i64 %tensors, 0",
            "  br i1 %none, label %end, label %tensor",
            "tensor:",
            "  %t = phi i64 [0, %entry], [%t1, %tensor_end]",
            "  %bad = phi i32 [0, %entry], [%bad1, %tensor_end]",
            "  %psize = getelementptr i64, ptr %sizes, i64 %t",
            "  %n = load i64, ptr %psize",
            *head,
            f"  %whole = and i64 %n, -{LANES}",
            "  %small = icmp eq i64 %whole, 0",
            "  br i1 %small, label %rest, label %vectors",
            "vectors:",
            "  %yi = phi i64 [0, %tensor], [%yi1, %vectors]",
            f"  %ybad = phi {vector_int} [zeroinitializer, %tensor], [{bad_vector}, %vectors]",
            vectors,
            f"  %yi1 = add i64 %yi, {LANES}",
            "  %ymore = icmp ult i64 %yi1, %whole",
            "  br i1 %ymore, label %vectors, label %rest",
            "rest:",
            f"  %yend = phi {vector_int} [zeroinitializer, %tensor], [{bad_vector}, %vectors]",
            f"  %ybit = call i32 @llvm.vector.reduce.or.v{LANES}i32({vector_int} %yend)",
            "  %rbad = or i32 %bad, %ybit",
            "  %done = icmp eq i64 %whole, %n",
            "  br i1 %done, label %tensor_end, label %elements",
            "elements:",
            "  %xi = phi i64 [%whole, %rest], [%xi1, %elements]",
            f"  %xbad = phi i32 [%rbad, %rest], [{bad_scalar}, %elements]",
            scalars,
            "  %xi1 = add i64 %xi, 1",
            "  %xmore = icmp ult i64 %xi1, %n",
            "  br i1 %xmore, label %elements, label %tensor_end",
            "tensor_end:",
            f"  %bad1 = phi i32 [%rbad, %rest], [{bad_scalar}, %elements]",
            "  %t1 = add i64 %t, 1",
            "  %tmore = icmp ult i64 %t1, %tensors",
            "  br i1 %tmore, label %tensor, label %end",
            "end:",
            "  %result = phi i32 [0, %entry], [%bad1, %tensor_end]",
            "  ret i32 %result",
            "}",
        ]
    )
