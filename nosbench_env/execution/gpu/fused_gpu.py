"""A single program on a GPU, by the interpreter's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nosbench_env.execution.fused_cpu import Memory, carried_array
from nosbench_env.execution.gpu.interpreter import GpuPopulation, Kernels
from nosbench_env.language.live_code import Kind
from nosbench_env.language.program import Program


class FusedGpuProgram:
    """A program on a GPU, a few launches a step.

    The counterpart of `FusedCpuProgram`.

    Args:
        program: The program.
        kernels: The compiled kernels of the device.

    Raises:
        TooLarge: If the program does not fit the interpreter.
    """

    def __init__(self, program: Program, kernels: Kernels) -> None:
        self._program, self._kernels = program, kernels
        self._populations: dict[tuple[int, ...], GpuPopulation] = {}  # of one program each, by the tensors' sizes
        self._bound: dict[tuple[int, ...], list[list[int]]] = {}  # the addresses bound last
        GpuPopulation([program], [1], kernels, "cpu")  # raises TooLarge before the first step

    def step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        memories: Sequence[Memory],
        step: int,
        *,
        lr: float = 1.0,
    ) -> None:
        """Updates parameters and memories in place; see `FusedCpuProgram.step`.

        Raises:
            ValueError: If a memory lacks a slot that the program carries into this step.
        """
        sizes = tuple(param.numel() for param in params)
        if sizes not in self._populations:
            self._populations[sizes] = GpuPopulation([self._program], sizes, self._kernels, params[0].device)
        programs = self._populations[sizes]
        code = programs.code_at(0, step)
        zero = torch.zeros((), device=params[0].device)
        for slot, kind in code.kinds_before.items():
            if kind < Kind.ARRAY:
                values = torch.stack([memory.get(slot, zero).to(zero.device) for memory in memories])
                programs.scalar_slot(0, slot, step).copy_(values)
        array_slots = [slot for slot, kind in code.kinds_after.items() if kind == Kind.ARRAY]
        for slot in array_slots:
            for param, memory in zip(params, memories, strict=True):
                memory[slot] = (
                    carried_array(param, memory, slot)
                    if code.kinds_before[slot] == Kind.ARRAY
                    else torch.empty_like(param, requires_grad=False)
                )

        columns = [params, grads, *([memory[slot] for memory in memories] for slot in array_slots)]
        addresses = [[tensor.data_ptr() for tensor in column] for column in columns]
        if addresses != self._bound.get(sizes):
            of_params, of_grads, *of_slots = (torch.tensor(column) for column in addresses)
            slots = dict(zip(array_slots, of_slots, strict=True))
            programs.bind(of_params.unsqueeze(0), of_grads.unsqueeze(0), [slots])
            self._bound[sizes] = addresses
        programs.prepare(step)
        programs.step.fill_(step)
        programs.died_at.zero_()  # the user decides when to stop
        programs.minus_lr.fill_(-lr)
        programs.launch()
        for slot, kind in code.kinds_after.items():
            if kind < Kind.ARRAY:
                for memory, value in zip(memories, programs.scalar_slot(0, slot, step + 1).clone(), strict=True):
                    memory[slot] = value
