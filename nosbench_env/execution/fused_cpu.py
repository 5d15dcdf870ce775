"""Programs as fused loops on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from nosbench_env.execution.llvm import CompiledLoops, Loop, LoopFunction, Operation
from nosbench_env.execution.stages import Stage, split_into_stages
from nosbench_env.execution.step_code import StepCode, StepNode, step_codes
from nosbench_env.language.functions import REDUCTIONS, TRANSCENDENTALS
from nosbench_env.language.live_code import Kind, apply, scalar
from nosbench_env.language.program import Program

Memory = dict[int, Tensor]  # slot -> a 0-d tensor, or one of the parameter's shape

# torch vectorises these; machine code of ours would call the C library for each element.
_BARRIERS = REDUCTIONS + TRANSCENDENTALS
_CHUNK_ELEMENTS = 1 << 18  # a megabyte of float32: a few arrays of this size fit the second-level cache
_MAX_COMPILED_STEPS = 4  # kept per program: parameters that join later are at an earlier step
_PARAM, _MINUS_LR = -1, -2  # operands of a loop that are no nodes; smaller numbers are slots, see `_written`


class FusedCpuProgram:
    """A program as fused loops over contiguous float32 tensors.

    Each step has the results of `ProgramOptimizer`, up to rounding.

    Elementwise arithmetic takes one pass over memory. Reductions and transcendental functions are torch's operations,
    called between two passes, tensor after tensor, so that intermediate arrays stay in the processor's cache. Scalars
    are also computed with torch. Rounding is therefore torch's, with two exceptions. The last bit of a square root may
    differ: it is rounded correctly here, but on some processors torch's vector library misses one value in five. The
    sign of a zero after `minimum` and `maximum` may differ too.

    Args:
        program: The program.
        scaled_gradient: Makes `step` multiply the gradients by `grad_scale`.
    """

    def __init__(self, program: Program, *, scaled_gradient: bool = False) -> None:
        self.codes = step_codes(program, scaled_gradient=scaled_gradient)
        self._compiled_steps: dict[int, _CompiledStep] = {}  # by the number of the first step they are for

    @torch.no_grad()
    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor] | None,
        memories: Sequence[Memory],
        step: int,
        *,
        lr: float = 1.0,
        grad_scale: Tensor | None = None,
    ) -> bool:
        """Updates parameters and memories in place.

        Args:
            params: Contiguous float32 tensors on the CPU that have taken equally many steps.
            grads: Their gradients, in the same format; None if the program never reads them.
            memories: The carried slots of each parameter; empty before its first step. Slots that the program does
                not carry are left unchanged.
            step: The number of the step, counted from 1.
            lr: Multiplier of the update.
            grad_scale: 0-d float32 factor for the gradients.

        Returns:
            True if all parameters are finite afterwards.

        Raises:
            ValueError: If a memory lacks a slot that the program carries into this step.
        """
        number = min(step, len(self.codes.steps))
        if number not in self._compiled_steps:
            if len(self._compiled_steps) == _MAX_COMPILED_STEPS:  # the code of early steps is no longer needed
                del self._compiled_steps[min(self._compiled_steps)]
            self._compiled_steps[number] = _CompiledStep(self.codes.at(step))
        return self._compiled_steps[number].run(params, grads, memories, step, lr, grad_scale)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A stage and its loop.

    Attributes:
        stage: The stage.
        arrays: The loop's arrays: nodes, `_PARAM`, or `_written(slot)`.
        scalars: The loop's scalars: nodes, or `_MINUS_LR`.
        loop: The loop; None if it would store nothing.
    """

    stage: Stage
    arrays: tuple[int, ...]
    scalars: tuple[int, ...]
    loop: Loop | None


class _CompiledStep:
    """One step's code, compiled."""

    def __init__(self, code: StepCode) -> None:
        self._code = code
        stages = split_into_stages(code, _BARRIERS)
        self._passes = [_pass_of(code, stage, final=stage is stages[-1]) for stage in stages]
        self._loops = CompiledLoops([loop_pass.loop for loop_pass in self._passes if loop_pass.loop is not None])
        functions = iter(self._loops.functions)
        self._functions = [None if loop_pass.loop is None else next(functions) for loop_pass in self._passes]
        self._hands_on_arrays = any(
            code.nodes[index].kind == Kind.ARRAY for stage in stages for index in (*stage.stored, *stage.barriers)
        )
        self._constants = {i: scalar(node.detail) for i, node in enumerate(code.nodes) if node.kind == Kind.CONST}
        self._step_nodes = [(i, node) for i, node in enumerate(code.nodes) if node.kind == Kind.STEP]
        self._scalar_slots = [slot for slot, kind in code.kinds_after.items() if kind < Kind.ARRAY]
        self._arrays_before = [slot for slot, kind in code.kinds_before.items() if kind == Kind.ARRAY]
        self._new_arrays = [
            slot for slot, kind in code.kinds_after.items() if code.kinds_before[slot] < kind == Kind.ARRAY
        ]

    def run(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor] | None,
        memories: Sequence[Memory],
        step: int,
        lr: float,
        grad_scale: Tensor | None,
    ) -> bool:
        if not params:
            return True
        shared = self._shared_values(memories[0], step, grad_scale)
        bad = 0
        for part in self._parts(params):
            chunk = _Chunk(params[part], None if grads is None else grads[part], memories[part], shared)
            bad |= self._run_chunk(chunk, lr)
        return not bad

    def _parts(self, params: Sequence[Tensor]) -> Iterator[slice]:
        """Splits the tensors into chunks; one finishes all passes before the next.

        Chunks are small if a pass stores arrays for another one, which then finds them in the processor's cache.
        """
        start = size = 0
        for index, param in enumerate(params):
            if self._hands_on_arrays and size and size + param.numel() > _CHUNK_ELEMENTS:
                yield slice(start, index)
                start, size = index, 0
            size += param.numel()
        yield slice(start, len(params))

    def _shared_values(self, memory: Memory, step: int, grad_scale: Tensor | None) -> dict[int, Tensor]:
        """Computes the scalars that all tensors share."""
        values = dict(self._constants)
        for index, node in self._step_nodes:
            match node.op:
                case "step":
                    values[index] = scalar(float(step))
                case "grad_scale":
                    assert grad_scale is not None, "the program was compiled for scaled gradients"
                    values[index] = grad_scale
                case "slot":
                    values[index] = _scalar_slot(memory, int(node.detail))
                case op:
                    values[index] = apply(op, *(values[source] for source in node.inputs))
        return values

    def _run_chunk(self, chunk: _Chunk, lr: float) -> int:
        nodes = self._code.nodes
        self._find_sources(chunk)
        bad = 0
        for loop_pass, function in zip(self._passes, self._functions, strict=True):
            for index in loop_pass.stage.scalars:
                if nodes[index].kind == Kind.TENSOR:
                    chunk.apply(nodes[index], index)
            if function is not None:
                for index in loop_pass.stage.stored:
                    chunk.own[index] = [torch.empty_like(param, requires_grad=False) for param in chunk.params]
                bad |= _call(function, loop_pass, chunk, lr)
            for index in loop_pass.stage.barriers:
                chunk.apply(nodes[index], index)
        for slot in self._scalar_slots:
            for memory, value in zip(chunk.memories, chunk.values(self._code.carried[slot]), strict=False):
                memory[slot] = value
        return bad

    def _find_sources(self, chunk: _Chunk) -> None:
        """Collects the sources of each tensor."""
        for slot in self._arrays_before:
            for param, memory in zip(chunk.params, chunk.memories, strict=True):
                memory[slot] = carried_array(param, memory, slot)
        for index, node in enumerate(self._code.nodes):
            if node.kind <= Kind.STEP or node.inputs:
                continue
            match node.op:
                case "param":
                    chunk.own[index] = chunk.params
                case "grad":
                    assert chunk.grads is not None, "the program reads the gradient"
                    chunk.own[index] = chunk.grads
                case "numel":
                    chunk.own[index] = [scalar(float(param.numel())) for param in chunk.params]
                case "slot" if node.kind == Kind.TENSOR:
                    chunk.own[index] = [_scalar_slot(memory, int(node.detail)) for memory in chunk.memories]
                case "slot":
                    chunk.own[index] = [memory[int(node.detail)] for memory in chunk.memories]
        for slot in self._new_arrays:
            for param, memory in zip(chunk.params, chunk.memories, strict=True):
                memory[slot] = torch.empty_like(param, requires_grad=False)


class _Chunk:
    """Tensors stepped together, and the values computed so far.

    Attributes:
        shared: Values that all tensors share.
        own: Values of each tensor.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor] | None,
        memories: Sequence[Memory],
        shared: Mapping[int, Tensor],
    ) -> None:
        self.params, self.grads, self.memories, self.shared = params, grads, memories, shared
        self.own: dict[int, Sequence[Tensor]] = {}

    def values(self, index: int) -> Iterable[Tensor]:
        """Iterates over a value of each tensor; endless if shared."""
        return repeat(self.shared[index]) if index in self.shared else self.own[index]

    def apply(self, node: StepNode, index: int) -> None:
        """Computes a value for each tensor."""
        # At least one input is not shared, so zip ends.
        inputs = zip(*(self.values(source) for source in node.inputs), strict=False)
        self.own[index] = [apply(node.op, *values) for values in inputs]


def _call(function: LoopFunction, loop_pass: _Pass, chunk: _Chunk, lr: float) -> int:
    """Runs a loop over all tensors of a chunk."""
    arrays = np.empty((len(chunk.params), len(loop_pass.arrays)), dtype=np.int64)
    for column, key in enumerate(loop_pass.arrays):
        if key == _PARAM:
            tensors: Iterable[Tensor] = chunk.params
        elif key < 0:
            tensors = (memory[_written(key)] for memory in chunk.memories)
        else:
            tensors = chunk.own[key]
        arrays[:, column] = [tensor.data_ptr() for tensor in tensors]
    scalars = np.empty((len(chunk.params), len(loop_pass.scalars)), dtype=np.float32)
    for column, key in enumerate(loop_pass.scalars):
        if key == _MINUS_LR:
            scalars[:, column] = -lr
        elif key in chunk.shared:
            scalars[:, column] = chunk.shared[key].item()
        else:
            scalars[:, column] = [value.item() for value in chunk.own[key]]
    sizes = np.array([param.numel() for param in chunk.params], dtype=np.int64)
    return function(len(sizes), sizes.ctypes.data, arrays.ctypes.data, scalars.ctypes.data)


def _pass_of(code: StepCode, stage: Stage, *, final: bool) -> _Pass:
    """Numbers the operands of a stage's loop."""
    arrays: list[int] = []
    scalars: list[int] = []
    operations: list[Operation] = []
    values: dict[int, str] = {}  # the nodes that this loop computes

    def position(keys: list[int], key: int) -> int:
        if key not in keys:
            keys.append(key)
        return keys.index(key)

    def operand(index: int) -> str | float:
        node = code.nodes[index]
        if node.kind == Kind.CONST:
            return node.detail
        if node.kind < Kind.ARRAY:
            return f"s{position(scalars, index)}"
        if index not in values:
            return f"a{position(arrays, _PARAM if node.op == 'param' else index)}"
        return values[index]

    for index in stage.fused:
        operation = Operation(code.nodes[index].op, tuple(operand(source) for source in code.nodes[index].inputs))
        values[index] = f"v{len(operations)}"
        operations.append(operation)
    if not final:
        stores = tuple((values[index], position(arrays, index)) for index in stage.stored)
        if not stores:
            return _Pass(stage, (), (), None)
        return _Pass(stage, tuple(arrays), tuple(scalars), Loop(len(arrays), len(scalars), tuple(operations), stores))

    # w <- w + (-lr) * update, rounded once, as torch's add_ with alpha does
    param = position(arrays, _PARAM)
    update = Operation("fma", (operand(code.update), f"s{position(scalars, _MINUS_LR)}", f"a{param}"))
    stored: list[tuple[str | float, int]] = []
    reads = {int(node.detail): index for index, node in enumerate(code.nodes) if node.op == "slot"}
    for slot, kind in code.kinds_after.items():
        if kind == Kind.ARRAY:
            value = operand(code.carried[slot])
            in_place = code.kinds_before[slot] == Kind.ARRAY and slot in reads
            stored.append((value, position(arrays, reads[slot] if in_place else _written(slot))))
    operations.append(update)
    stored.append((f"v{len(operations) - 1}", param))
    loop = Loop(len(arrays), len(scalars), tuple(operations), tuple(stored), checked=param)
    return _Pass(stage, tuple(arrays), tuple(scalars), loop)


def _written(slot: int) -> int:
    """Numbers a slot as an operand below `_MINUS_LR`; its own inverse."""
    return -3 - slot


def carried_array(param: Tensor, memory: Memory, slot: int) -> Tensor:
    """Returns a slot's array, checked and contiguous.

    Loops and kernels rely on its size without a check of their own.

    Raises:
        ValueError: If the slot is empty or differs from the parameter in shape, precision or device.
    """
    value = memory.get(slot)
    if (
        value is None
        or value.shape != param.shape
        or value.dtype != param.dtype
        or value.get_device() != param.get_device()  # a number: cheaper than torch.device
    ):
        content = "nothing" if value is None else f"{value.dtype} of shape {tuple(value.shape)} on {value.device}"
        raise ValueError(
            f"slot {slot} of a memory holds {content}, "
            f"expected {param.dtype} of shape {tuple(param.shape)} on {param.device}"
        )
    return value.contiguous()


def _scalar_slot(memory: Memory, slot: int) -> Tensor:
    """Returns a slot's scalar; 0 before the first step."""
    value = memory.get(slot)
    if value is None:
        return scalar(0.0)
    if value.dim() > 0:
        raise ValueError(f"the memory holds {tuple(value.shape)} in slot {slot}, expected a scalar")
    return value
