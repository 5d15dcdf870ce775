"""Trains PFNs with programs: the compiled step, one model or a population, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nosbench_env.execution.fused_cpu import FusedCpuProgram, Memory
from nosbench_env.execution.gpu.bytecode import TooLarge, assemble
from nosbench_env.execution.gpu.interpreter import GpuPopulation, Kernels
from nosbench_env.execution.gpu.nvrtc import cuda_kernels
from nosbench_env.execution.gpu.without_kernels import UnfusedPopulation
from nosbench_env.execution.step_code import lower
from nosbench_env.language.live_code import carried_slots
from nosbench_env.language.program import Program
from nosbench_env.tasks.pfn_data import batch_of, context_sizes, initial_model
from nosbench_env.tasks.pfn_population import Batches, PFNPopulation
from nosbench_env.tasks.task import Curve, Progress
from nosbench_env.tasks.training import MAX_GRAD_NORM

OnPopulationStep = Callable[[int, Progress], None]


@dataclass(frozen=True, slots=True)
class Block:
    """What some consecutive steps of a population gave.

    Attributes:
        losses: `(steps, size)`: each model's loss before each update; NaN if none was asked for.
        died_at: `(size,)`: the number of the update, counted from 1 over the training, that made a parameter
            non-finite; 0 for a model that lives.
    """

    losses: NDArray[np.float64]
    died_at: NDArray[np.int64]


class Engine(Protocol):
    """Runs the steps of a population.

    Attributes:
        block_size: After how many steps, at most, to look at what they gave.
    """

    block_size: int

    def run(self, start: int, count: int, *, losses: bool) -> Block:
        """Runs steps `start`, ... (counted from 0 over the training).

        Args:
            start: The first step, all before it being done.
            count: How many; at most `block_size`.
            losses: Whether the losses are asked for.
        """
        ...

    def keep(self, models: Sequence[int]) -> None:
        """Drops all models but these."""
        ...


def train_population(
    engine: Engine,
    size: int,
    epochs: int,
    steps_per_epoch: int,
    *,
    last_epoch_only: bool,
    on_step: OnPopulationStep | None,
    on_curve: Callable[[int, Curve], None],
) -> None:
    """Trains all models of a population; those that die are dropped on the way.

    Args:
        engine: Runs the steps.
        size: How many models.
        epochs: How long.
        steps_per_epoch: Updates in an epoch.
        last_epoch_only: Whether to skip all losses but the last epoch's; for programs that don't read the gradient.
        on_step: Called with a model's number and progress, after every block of steps.
        on_curve: Called with a model's number and curve as soon as it is known.
    """
    steps = epochs * steps_per_epoch
    first_epoch = epochs - 1 if last_epoch_only else 0
    first_loss = first_epoch * steps_per_epoch
    losses = np.full((steps, size), np.nan)
    seconds = np.zeros(size)
    alive = list(range(size))
    end = 0
    while end < steps:
        start, end = end, min(end + engine.block_size, steps if end >= first_loss else first_loss)
        started = time.perf_counter()
        block = engine.run(start, end - start, losses=start >= first_loss)
        losses[start:end, alive] = block.losses
        seconds[alive] += (time.perf_counter() - started) / len(alive)
        survivors = []
        for place, model in enumerate(alive):
            died_at = int(block.died_at[place])
            done = died_at or end
            if on_step is not None:
                on_step(model, Progress(done, steps, float(losses[done - 1, model])))
            if died_at:
                losses[died_at:, model] = np.nan
            if died_at or end == steps:
                known = losses[first_loss:, model].reshape(-1, steps_per_epoch)
                on_curve(model, Curve(known, died_at or None, first_epoch, float(seconds[model])))
            else:
                survivors.append(place)
        if not survivors:
            return
        if len(survivors) < len(alive):
            engine.keep(survivors)
            alive = [alive[place] for place in survivors]


class CPUEngine:
    """A population on the CPU: one thread, each model's step a compiled program over its row.

    Args:
        programs: One for each model.
        seed: Seed of data and initial weights.
        steps: How long the training is.
    """

    block_size = 1

    def __init__(self, programs: Sequence[Program], seed: int, steps: int) -> None:
        self._seed = seed
        self._contexts = context_sizes(steps, seed)
        self._population = PFNPopulation.alike(initial_model(seed), len(programs))
        self._programs = [FusedCpuProgram(program, scaled_gradient=True) for program in programs]
        self._reads_gradient = any(lower(program).reads_gradient for program in programs)
        self._memories: list[list[Memory]] = [[{} for _ in self._population.shapes] for _ in programs]
        self._split_rows()

    def _split_rows(self) -> None:
        """Finds each model's tensors again after its row has moved."""
        self._params, self._grads = (
            [self._population.tensors(row) for row in rows]
            for rows in (self._population.weights, self._population.grads)
        )

    def run(self, start: int, count: int, *, losses: bool) -> Block:
        """See `Engine.run`."""
        found = np.full((count, self._population.size), np.nan)
        died_at = np.zeros(self._population.size, dtype=np.int64)
        for offset in range(count):
            step = start + offset
            context = self._contexts[step]
            if self._reads_gradient:
                found[offset] = self._population.loss_and_gradients(batch_of(step, self._seed), context).numpy()
            elif losses:
                found[offset] = self._population.loss(batch_of(step, self._seed), context).numpy()
            for model, program in enumerate(self._programs):
                if died_at[model]:
                    continue
                grads = self._grads[model] if program.lowered.reads_gradient else None
                scale = None if grads is None else clip_factor(grads)
                if not program.step(self._params[model], grads, self._memories[model], step + 1, grad_scale=scale):
                    died_at[model] = step + 1
        return Block(found, died_at)

    def keep(self, models: Sequence[int]) -> None:
        """See `Engine.keep`."""
        self._population = self._population.keep(models)
        self._programs = [self._programs[model] for model in models]
        self._memories = [self._memories[model] for model in models]
        self._split_rows()


class DeviceEngine:
    """A population on a GPU, without waiting for it within a block of steps; also runs on the CPU, for tests.

    On a GPU the steps are captured as CUDA graphs, one for each number of context points, and replayed.

    Args:
        programs: One for each model.
        seed: Seed of data and initial weights.
        steps: How long the training is.
        device: Where.
        kernels: The interpreter's kernels; None to run the programs by torch's operations.

    Raises:
        TooLarge: If a program does not fit the interpreter.
    """

    block_size = 50

    def __init__(
        self, programs: Sequence[Program], seed: int, steps: int, device: torch.device, kernels: Kernels | None
    ) -> None:
        self._seed, self._device = seed, device
        self._contexts = context_sizes(steps, seed)
        self._population = PFNPopulation.alike(initial_model(seed), len(programs), device)
        self._reads_gradient = any(lower(program).reads_gradient for program in programs)
        sizes = [shape.numel() for shape in self._population.shapes]
        self._programs: GpuPopulation | UnfusedPopulation = (
            UnfusedPopulation(programs, sizes, device, scaled_gradient=True)
            if kernels is None
            else GpuPopulation(programs, sizes, kernels, device, scaled_gradient=True)
        )
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # of the step in its block
        self._batches: Batches | None = None
        self._stream = _side_stream(device) if device.type == "cuda" else None
        self._bind()
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _bind(self) -> None:
        """Begins anew with what depends on where the population lies."""
        self._programs.bind_rows(self._population.weights, self._population.grads)
        self._losses = torch.zeros(self.block_size, self._population.size, device=self._device)
        self._graphs: dict[int | None, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._stream is not None else None
        self._warm: set[int | None] = set()  # for which numbers of context points a step has run outside of a graph

    def run(self, start: int, count: int, *, losses: bool) -> Block:
        """See `Engine.run`."""
        with torch.cuda.stream(self._stream):
            self._losses.fill_(torch.nan)
            self._place.zero_()
            if losses or self._reads_gradient:
                self._load(start, count)
            for step in range(start, start + count):
                settled = self._programs.prepare(step + 1)
                context = self._contexts[step] if losses or self._reads_gradient else None
                # A first step outside of a graph lets libraries set up what they may not while one is captured.
                if self._stream is not None and settled and context in self._warm:
                    self._replay(context)
                else:
                    self._step(context)
                    self._warm.add(context)
            found = self._losses[:count].to("cpu", torch.float64).numpy()
            died_at = self._programs.died_at.cpu().numpy().astype(np.int64)
        return Block(found, died_at)

    def keep(self, models: Sequence[int]) -> None:
        """See `Engine.keep`."""
        with torch.cuda.stream(self._stream):
            self._graphs.clear()
            self._population = self._population.keep(models)
            self._programs = self._programs.keep(models)
            self._bind()
        if self._stream is not None:
            torch.cuda.empty_cache()  # the memory of the graphs that are gone

    def _load(self, start: int, count: int) -> None:
        """Puts the batches of a block where the steps read them."""
        drawn = [batch_of(step, self._seed) for step in range(start, start + count)]
        x, y, bucket, offset = (torch.stack(parts) for parts in list(zip(*drawn, strict=True))[:4])
        block = Batches(x, y, bucket, offset, drawn[0].num_datasets)
        if self._batches is None:
            self._batches = block.room(self._device, self.block_size)
        self._batches.replace(block)

    def _step(self, context: int | None) -> None:
        """One step of all models, asking nothing of the device; `context` is None if no loss is needed."""
        if context is not None:
            assert self._batches is not None
            batch = self._batches.at(self._place)
            of_models = self._population.loss_and_gradients if self._reads_gradient else self._population.loss
            self._losses.index_copy_(0, self._place, of_models(batch, context).unsqueeze(0))
        if self._reads_gradient:
            self._programs.clip()
        self._programs.launch()
        self._place += 1

    def _replay(self, context: int | None) -> None:
        assert self._stream is not None
        if context not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            self._stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")  # other threads may go on
            try:
                self._step(context)
            except BaseException:
                with suppress(RuntimeError):  # which says no more than that the capture failed
                    graph.capture_end()
                raise
            graph.capture_end()
            self._graphs[context] = graph
        self._graphs[context].replay()


_MAX_POPULATION = 256
_ACTIVATION_BYTES = 24e6  # of a model and step, what is kept for the backward pass and what comes and goes


def largest_population(programs: Sequence[Program], device: torch.device) -> int:
    """How many of the programs to train side by side: one on a CPU, what surely fits the free memory on a GPU."""
    if device.type == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    buffers = 2 + max(len(carried_slots(program)) for program in programs)  # weights, gradients, slots
    num_params = sum(param.numel() for param in initial_model().parameters())
    needed = 4 * num_params * (buffers + 2) + _ACTIVATION_BYTES  # dropping models copies weights and gradients
    return max(1, min(_MAX_POPULATION, int(0.8 * free / needed)))


def make_engine(programs: Sequence[Program], seed: int, steps: int, device: torch.device) -> Engine:
    """The engine for a device. Programs too large for the GPU's kernels run by torch's operations there."""
    if device.type == "cpu":
        return CPUEngine(programs, seed, steps)
    kernels = cuda_kernels(device) if all(fits_kernels(program) for program in programs) else None
    return DeviceEngine(programs, seed, steps, device, kernels)


def fits_kernels(program: Program) -> bool:
    """Whether the GPU's interpreter has room for a program; all of the paper's search space fit."""
    try:
        assemble(program, scaled_gradient=True)
    except TooLarge:
        return False
    return True


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that populations run on: graphs can't be captured on the default one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def clip_factor(grads: Sequence[Tensor]) -> Tensor:
    """What `clip_grad_norm_` multiplies gradients by, 0-d.

    From a norm of each tensor, as there: a norm of all values at once rounds otherwise, and `sign` makes that large.
    """
    total = nn.utils.get_total_norm(grads)
    return torch.clamp(MAX_GRAD_NORM / (total + 1e-6), max=1.0)
