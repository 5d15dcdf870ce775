"""Populations on a GPU: the host's side of `interpreter.cu`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from nosbench_env.execution.gpu.bytecode import FIRST_SLOT_COLUMN, GRAD_COLUMN, PARAM_COLUMN, Bytecode, bytecodes
from nosbench_env.execution.step_code import StepCode, step_codes
from nosbench_env.language.live_code import Kind, carried_slots
from nosbench_env.language.program import Program

_TILE = 8192  # elements that a block of threads updates
_UPDATE_THREADS, _REDUCE_THREADS = 256, 512


class Kernels(Protocol):
    """The compiled kernels of `interpreter.cu`."""

    def launch(self, name: str, grid: tuple[int, int], threads: int, *arguments: Tensor | int) -> None:
        """Starts a kernel; tensors are passed as pointers."""
        ...


class GpuPopulation:
    """Several programs with a model each, stepped together.

    A step takes a few launches for all programs.

    For each step, call `prepare(step)`, then `launch()`. Once `prepare` has returned True it need not be called again.
    The step number is kept on the device, so launches can be captured in a graph and replayed.

    Args:
        programs: The programs, one per model.
        sizes: Number of elements of each tensor of a model; all models are alike.
        kernels: The compiled kernels.
        device: The device of all tensors.
        scaled_gradient: Multiplies the gradients by `grad_scales`.

    Attributes:
        grad_scales: `(programs,)` float32; set it before each launch if `scaled_gradient`.
        step: `(1,)` int32, the number of the step, counted from 1; `launch` adds 1.
        died_at: `(programs,)` int32: the step that made a parameter non-finite, or 0. A dead program is not run.
        minus_lr: `(1,)` float32, minus the multiplier of the updates.

    Raises:
        TooLarge: If a program does not fit the interpreter.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        sizes: Sequence[int],
        kernels: Kernels,
        device: torch.device | str,
        *,
        scaled_gradient: bool = False,
    ) -> None:
        self._programs, self._kernels, self.device = list(programs), kernels, torch.device(device)
        self._scaled_gradient = scaled_gradient
        self._launches = 0
        self._rows: list[dict[int, Tensor]] = [{} for _ in programs]  # array slots that `bind_rows` allocated
        self._codes = [step_codes(program, scaled_gradient=scaled_gradient) for program in programs]
        self._slots = [carried_slots(program) for program in programs]
        compiled = [bytecodes(program, scaled_gradient=scaled_gradient) for program in programs]
        self._changes_until = max(map(len, compiled), default=1)
        self._levels = [
            max((_at(of_program, step).num_levels for of_program in compiled), default=1)
            for step in range(1, self._changes_until + 1)
        ]
        self._num_tensors, num_programs = len(sizes), len(programs)
        self._num_columns = FIRST_SLOT_COLUMN + max((len(slots) for slots in self._slots), default=0)
        max_slots = max(1, self._num_columns - FIRST_SLOT_COLUMN)
        max_results = max((code.num_results for of_program in compiled for code in of_program), default=0)

        instructions, reductions, headers = _tables(compiled, self._changes_until)
        self._code, self._reductions, self._all_headers = (
            table.to(self.device) for table in (instructions, reductions, headers)
        )
        self._headers = self._all_headers[0].clone()
        self._pointers = self._zeros(num_programs, self._num_tensors, self._num_columns, dtype=torch.int64)
        self._sizes = torch.tensor(sizes, dtype=torch.int32).to(self.device)
        self._scalar_slots = self._zeros(2, num_programs, self._num_tensors, max_slots)
        self._results = self._zeros(num_programs, self._num_tensors, max(1, max_results))
        self.grad_scales = self._zeros(num_programs) + 1.0
        self.step = self._zeros(1, dtype=torch.int32) + 1
        self.died_at = self._zeros(num_programs, dtype=torch.int32)
        self.minus_lr = self._zeros(1) - 1.0
        self._norms = self._zeros(num_programs, self._num_tensors)
        tiles = [
            (tensor, start, min(start + _TILE, size))
            for tensor, size in enumerate(sizes)
            for start in range(0, size, _TILE)
        ]
        self._num_tiles = len(tiles)
        self._tiles = torch.tensor(tiles, dtype=torch.int32).to(self.device)
        self._tables = self._struct(num_programs, max_slots, max(1, max_results))

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _struct(self, num_programs: int, max_slots: int, max_results: int) -> Tensor:
        """Returns the kernels' `struct Tables`."""
        pointers = (
            self._code,
            self._reductions,
            self._headers,
            self._pointers,
            self._sizes,
            self._scalar_slots,
            self._results,
            self.grad_scales,
            self.step,
            self.died_at,
            self.minus_lr,
        )
        numbers = (
            num_programs,
            self._num_tensors,
            self._num_columns,
            max_slots,
            max_results,
            self._headers.shape[-1],
        )
        return torch.tensor([*(tensor.data_ptr() for tensor in pointers), *numbers]).to(self.device)

    def array_slots(self, program: int) -> list[int]:
        """Returns the slots that will hold an array and need bound memory."""
        return [slot for slot, kind in self._codes[program].steps[-1].kinds_after.items() if kind == Kind.ARRAY]

    def code_at(self, program: int, step: int) -> StepCode:
        """Returns the code of a program's step."""
        return self._codes[program].at(step)

    def scalar_slot(self, program: int, slot: int, step: int) -> Tensor:
        """Returns a view `(tensors,)` of a slot, scalar before the step."""
        return self._scalar_slots[step & 1, program, :, self._slots[program].index(slot)]

    def bind(self, params: Tensor, grads: Tensor | None, slots: Sequence[dict[int, Tensor]]) -> None:
        """Sets the addresses of parameters, gradients and slots.

        The tensors must stay there until the next `bind`.

        Args:
            params: `(programs, tensors)` int64: addresses of contiguous float32 tensors.
            grads: The same for the gradients; None if no program reads them.
            slots: For each program, the addresses `(tensors,)` of each of its array slots.
        """
        table = torch.zeros(self._pointers.shape, dtype=torch.int64)
        table[..., PARAM_COLUMN] = params
        if grads is not None:
            table[..., GRAD_COLUMN] = grads
        for program, of_program in enumerate(slots):
            for slot, addresses in of_program.items():
                table[program, :, FIRST_SLOT_COLUMN + self._slots[program].index(slot)] = addresses
        self._pointers.copy_(table)

    def bind_rows(self, weights: Tensor, grads: Tensor) -> None:
        """Binds the rows of two buffers `(programs, parameters)`.

        Allocates the array slots, or takes over those of the population that `keep` was called on.
        """
        offsets = 4 * torch.tensor([0, *accumulate(self._sizes.tolist())][:-1])  # bytes

        def addresses(rows: Tensor) -> Tensor:
            return torch.tensor([row.data_ptr() for row in rows]).unsqueeze(1) + offsets

        for program, memory in enumerate(self._rows):
            for slot in self.array_slots(program):
                if slot not in memory:
                    memory[slot] = torch.empty(weights.shape[1], device=self.device)
        slots = [{slot: row.data_ptr() + offsets for slot, row in memory.items()} for memory in self._rows]
        self.bind(addresses(weights), addresses(grads), slots)

    def prepare(self, step: int) -> bool:
        """Loads a step's code; returns True if all later steps keep it."""
        number = min(step, self._changes_until)
        self._headers.copy_(self._all_headers[number - 1])
        self._launches = self._levels[number - 1] - 1
        return number == self._changes_until

    def clip(self) -> None:
        """Sets `grad_scales` to clip each model's gradients to global norm 1."""
        programs = len(self._codes)
        self._kernels.launch(
            "gradient_norms", (self._num_tensors, programs), _REDUCE_THREADS, self._tables, self._norms
        )
        self._kernels.launch("clip_factors", (programs, 1), 64, self._tables, self._norms, self.grad_scales)

    def launch(self) -> None:
        """Runs a step of all programs."""
        programs = len(self._codes)
        for level in range(self._launches):
            self._kernels.launch("reduce_level", (self._num_tensors, programs), _REDUCE_THREADS, self._tables, level)
        if self._num_tiles:
            self._kernels.launch("finish_step", (self._num_tiles, programs), _UPDATE_THREADS, self._tables, self._tiles)
        self.step += 1

    def keep(self, programs: Sequence[int]) -> GpuPopulation:
        """Returns these programs before the same step, with memory unbound."""
        kept = GpuPopulation(
            [self._programs[program] for program in programs],
            self._sizes.tolist(),
            self._kernels,
            self.device,
            scaled_gradient=self._scaled_gradient,
        )
        index = torch.tensor(programs, device=self.device)
        slots = min(kept._scalar_slots.shape[-1], self._scalar_slots.shape[-1])
        kept._scalar_slots[..., :slots] = self._scalar_slots.index_select(1, index)[..., :slots]
        kept._rows = [self._rows[program] for program in programs]
        kept.step.copy_(self.step)
        kept.minus_lr.copy_(self.minus_lr)
        return kept


def _at(codes: Sequence[Bytecode], step: int) -> Bytecode:
    return codes[min(step, len(codes)) - 1]


def _tables(codes: Sequence[Sequence[Bytecode]], num_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns instructions, reductions, and for each step the headers that locate them."""
    flat = [code for of_program in codes for code in of_program]
    code_bases = [0, *accumulate(len(code.instructions) for code in flat)]
    reduction_bases = [0, *accumulate(sum(map(len, code.reductions)) for code in flat)]
    number = {id(code): place for place, code in enumerate(flat)}
    max_levels = max((code.num_levels for code in flat), default=1)

    def header(code: Bytecode) -> list[int]:
        place = number[id(code)]
        ends = [0, *accumulate(map(len, code.reductions))]
        levels = [(end, ends[level], ends[min(level + 1, len(ends) - 1)]) for level, end in enumerate(code.scalars_end)]
        levels += [(0, 0, 0)] * (max_levels - len(levels))
        return [
            code_bases[place],
            reduction_bases[place],
            *code.final,
            code.num_levels,
            *(value for level in levels for value in level),
        ]

    instructions = [instruction for code in flat for instruction in code.instructions]
    reductions = [
        (r.kind, r.start, r.end, r.source, r.result) for code in flat for level in code.reductions for r in level
    ]
    headers = [[header(_at(of_program, step)) for of_program in codes] for step in range(1, num_steps + 1)]
    return (
        torch.tensor(instructions or [(0,) * 4], dtype=torch.int32),
        torch.tensor(reductions or [(0,) * 5], dtype=torch.int32),
        torch.tensor(headers, dtype=torch.int32),
    )
