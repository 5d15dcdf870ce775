"""Runs a program's steps on the CPU in fused loops, over any number of contiguous float32 tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from nosbench_env.execution.llvm import Function, Loop, NativeLoops, Operation
from nosbench_env.execution.stages import Stage, schedule
from nosbench_env.execution.step_code import Node, StepCode, lower
from nosbench_env.language.live_code import REDUCTIONS, TRANSCENDENTALS, Kind, apply, scalar
from nosbench_env.language.program import Program

Memory = dict[int, Tensor]  # slot -> a 0-d tensor, or one of the parameter's shape

# torch's kernels for these are vectorised; machine code would call the C library for each element.
_BARRIERS = REDUCTIONS + TRANSCENDENTALS
_CHUNK_ELEMENTS = 1 << 18  # of float32, a megabyte: some arrays of it fit the second-level cache
_MAX_STEPPERS = 4  # are kept of a program; parameters that join later are at an earlier step
_PARAM, _MINUS_LR = -1, -2  # stand for nodes where the loop's operands are listed; slots that are written are below


class FusedCpuProgram:
    """A program whose steps run as fused loops; computes what `ProgramOptimizer` computes, step for step.

    Elementwise arithmetic is one pass over memory; reductions and transcendental functions are torch's own operations,
    called between two passes, tensor after tensor, so that what lies between stays in the processor's cache. Scalars
    are computed with torch as well. So rounding is torch's, but for the last bit of a square root, which torch's vector
    library does not round correctly (one value in five, on some processors) and this does; and the sign of a zero
    after `minimum` and `maximum` may differ.

    Args:
        program: The program.
        scaled_gradient: Whether `step` gets a factor for the gradients.
    """

    def __init__(self, program: Program, *, scaled_gradient: bool = False) -> None:
        self.lowered = lower(program, scaled_gradient=scaled_gradient)
        self._steppers: dict[int, _Stepper] = {}  # by the number of the first step they are for

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
            params: Contiguous float32 tensors on the CPU, all stepped equally often before.
            grads: The gradient of each, likewise; None if the program never reads it.
            memories: The carried slots of each parameter; empty before its first step. Slots that the program does
                not carry are left alone.
            step: The number of the step, counted from 1.
            lr: Multiplier of the update.
            grad_scale: 0-d float32 factor for the gradients.

        Returns:
            Whether all parameters are finite afterwards.

        Raises:
            ValueError: If a memory does not hold what the program carries into this step.
        """
        number = min(step, len(self.lowered.steps))
        if number not in self._steppers:
            if len(self._steppers) == _MAX_STEPPERS:  # the first steps' are not needed again
                del self._steppers[min(self._steppers)]
            self._steppers[number] = _Stepper(self.lowered.at(step))
        return self._steppers[number].run(params, grads, memories, step, lr, grad_scale)


@dataclass(frozen=True, slots=True)
class _Pass:
    """A stage and its loop.

    Attributes:
        stage: The stage.
        arrays: What the loop's arrays are: nodes, `_PARAM`, or `_written(slot)`.
        scalars: What its scalars are: nodes, or `_MINUS_LR`.
        loop: The loop; None if there is nothing to store.
    """

    stage: Stage
    arrays: tuple[int, ...]
    scalars: tuple[int, ...]
    loop: Loop | None


class _Stepper:
    """One step's code, compiled."""

    def __init__(self, code: StepCode) -> None:
        self._code = code
        stages = schedule(code, _BARRIERS)
        self._passes = [_plan(code, stage, final=stage is stages[-1]) for stage in stages]
        self._native = NativeLoops([plan.loop for plan in self._passes if plan.loop is not None])
        functions = iter(self._native.functions)
        self._functions = [None if plan.loop is None else next(functions) for plan in self._passes]
        self._hands_on_arrays = any(
            code.nodes[index].kind == Kind.ARRAY for stage in stages for index in (*stage.stored, *stage.barriers)
        )
        self._constants = {i: scalar(node.detail) for i, node in enumerate(code.nodes) if node.kind == Kind.CONST}
        self._step_nodes = [(i, node) for i, node in enumerate(code.nodes) if node.kind == Kind.STEP]
        before = dict(code.signature)
        self._scalar_slots = [slot for slot, kind in code.next_signature if kind < Kind.ARRAY]
        self._arrays_before = [slot for slot, kind in code.signature if kind == Kind.ARRAY]
        self._new_arrays = [slot for slot, kind in code.next_signature if before[slot] < Kind.ARRAY == kind]

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
        """Which tensors go through all passes together: all, or few if one pass hands arrays on to another.

        What it hands on is then still in the processor's cache when it is read.
        """
        start = size = 0
        for index, param in enumerate(params):
            if self._hands_on_arrays and size and size + param.numel() > _CHUNK_ELEMENTS:
                yield slice(start, index)
                start, size = index, 0
            size += param.numel()
        yield slice(start, len(params))

    def _shared_values(self, memory: Memory, step: int, grad_scale: Tensor | None) -> dict[int, Tensor]:
        """The scalars that are the same for all tensors."""
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
        for plan, function in zip(self._passes, self._functions, strict=True):
            for index in plan.stage.scalars:
                if nodes[index].kind == Kind.TENSOR:
                    chunk.apply(nodes[index], index)
            if function is not None:
                for index in plan.stage.stored:
                    chunk.own[index] = [torch.empty_like(param, requires_grad=False) for param in chunk.params]
                bad |= _call(function, plan, chunk, lr)
            for index in plan.stage.barriers:
                chunk.apply(nodes[index], index)
        for slot in self._scalar_slots:
            for memory, value in zip(chunk.memories, chunk.values(self._code.carried[slot]), strict=False):
                memory[slot] = value
        return bad

    def _find_sources(self, chunk: _Chunk) -> None:
        """Finds what each tensor brings into the step; checks the sizes, which the loops trust."""
        for slot in self._arrays_before:
            for param, memory in zip(chunk.params, chunk.memories, strict=True):
                value = memory.get(slot)
                if value is None or value.numel() != param.numel() or value.dtype != torch.float32:
                    raise ValueError(
                        f"slot {slot} of a memory holds "
                        f"{'nothing' if value is None else f'{value.dtype} of shape {tuple(value.shape)}'}, "
                        f"expected float32 of shape {tuple(param.shape)}"
                    )
                if not value.is_contiguous():
                    memory[slot] = value.contiguous()
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
    """Tensors that go through a step together, and the values computed for them so far, by node.

    Attributes:
        shared: Values that are the same for all tensors.
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
        """A value of each tensor; for ever, if it is shared."""
        return repeat(self.shared[index]) if index in self.shared else self.own[index]

    def apply(self, node: Node, index: int) -> None:
        """Computes a value for each tensor."""
        # At least one input is of the tensors' own, so zip ends.
        inputs = zip(*(self.values(source) for source in node.inputs), strict=False)
        self.own[index] = [apply(node.op, *values) for values in inputs]


def _call(function: Function, plan: _Pass, chunk: _Chunk, lr: float) -> int:
    """Runs a loop over all tensors of a chunk."""
    arrays = np.empty((len(chunk.params), len(plan.arrays)), dtype=np.int64)
    for column, key in enumerate(plan.arrays):
        if key == _PARAM:
            tensors: Iterable[Tensor] = chunk.params
        elif key < 0:
            tensors = (memory[_slot(key)] for memory in chunk.memories)
        else:
            tensors = chunk.own[key]
        arrays[:, column] = [tensor.data_ptr() for tensor in tensors]
    scalars = np.empty((len(chunk.params), len(plan.scalars)), dtype=np.float32)
    for column, key in enumerate(plan.scalars):
        if key == _MINUS_LR:
            scalars[:, column] = -lr
        elif key in chunk.shared:
            scalars[:, column] = chunk.shared[key].item()
        else:
            scalars[:, column] = [value.item() for value in chunk.own[key]]
    sizes = np.array([param.numel() for param in chunk.params], dtype=np.int64)
    return function(len(sizes), sizes.ctypes.data, arrays.ctypes.data, scalars.ctypes.data)


def _plan(code: StepCode, stage: Stage, *, final: bool) -> _Pass:
    """Numbers the operands of a stage's loop."""
    arrays: list[int] = []
    scalars: list[int] = []
    operations: list[Operation] = []
    values: dict[int, str] = {}  # nodes computed in this loop

    def position(found: list[int], key: int) -> int:
        if key not in found:
            found.append(key)
        return found.index(key)

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
    for slot, kind in code.next_signature:
        if kind == Kind.ARRAY:
            value = operand(code.carried[slot])
            in_place = dict(code.signature)[slot] == Kind.ARRAY and slot in reads
            stored.append((value, position(arrays, reads[slot] if in_place else _written(slot))))
    operations.append(update)
    stored.append((f"v{len(operations) - 1}", param))
    loop = Loop(len(arrays), len(scalars), tuple(operations), tuple(stored), checked=param)
    return _Pass(stage, tuple(arrays), tuple(scalars), loop)


def _written(slot: int) -> int:
    return -3 - slot


def _slot(key: int) -> int:
    return -3 - key


def _scalar_slot(memory: Memory, slot: int) -> Tensor:
    """What a slot holds that is a scalar; 0 before the first step."""
    value = memory.get(slot)
    if value is None:
        return scalar(0.0)
    if value.dim() > 0:
        raise ValueError(f"the memory holds {tuple(value.shape)} in slot {slot}, expected a scalar")
    return value
