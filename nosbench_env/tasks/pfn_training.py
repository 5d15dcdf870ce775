"""Training of PFN populations with compiled programs, on CPU or GPU."""

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
from nosbench_env.execution.gpu.bytecode import TooLarge, bytecodes
from nosbench_env.execution.gpu.interpreter import GpuPopulation, Kernels
from nosbench_env.execution.gpu.nvrtc import cuda_kernels
from nosbench_env.execution.gpu.without_kernels import UnfusedPopulation
from nosbench_env.execution.step_code import step_codes
from nosbench_env.language.live_code import carried_slots
from nosbench_env.language.program import Program
from nosbench_env.tasks.pfn_data import context_sizes, initial_model, prepared_batch
from nosbench_env.tasks.pfn_population import Batch, PFNPopulation
from nosbench_env.tasks.task import Curve, Progress
from nosbench_env.tasks.training import MAX_GRAD_NORM

OnPopulationStep = Callable[[int, Progress], None]


@dataclass(frozen=True, slots=True)
class Block:
    """The results of consecutive steps of a population.

    Attributes:
        losses: `(steps, size)`, the loss of each model before each update; NaN if no losses were asked for.
        died_at: `(size,)`, the number of the update, counted from 1 over the training, that made a parameter
            non-finite; 0 for a model that is alive.
    """

    losses: NDArray[np.float64]
    died_at: NDArray[np.int64]


class Engine(Protocol):
    """Runs the steps of a population.

    Attributes:
        block_size: The largest number of steps of a call of `run`.
    """

    block_size: int

    def run(self, start: int, count: int, *, losses: bool) -> Block:
        """Runs `count` steps and returns their results.

        Args:
            start: The first step, counted from 0 over the training. All steps before it must have run.
            count: The number of steps, at most `block_size`.
            losses: True to compute losses that no gradient needs.
        """
        ...

    def keep(self, models: Sequence[int]) -> None:
        """Drops all models except these."""
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
    """Trains a population and drops models that die.

    Args:
        engine: The engine that runs the steps.
        size: The number of models.
        epochs: The length of training.
        steps_per_epoch: The number of updates in an epoch.
        last_epoch_only: True to compute the losses of the last epoch alone; for programs that read no gradient.
        on_step: Called with the index and progress of each model after every block of steps.
        on_curve: Called with the index and curve of a model as soon as the curve is known.
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
                step_losses = losses[first_loss:, model].reshape(-1, steps_per_epoch)
                on_curve(model, Curve(step_losses, died_at or None, first_epoch, float(seconds[model])))
            else:
                survivors.append(place)
        if not survivors:
            return
        if len(survivors) < len(alive):
            engine.keep(survivors)
            alive = [alive[place] for place in survivors]


class CpuEngine:
    """A population on one thread of the CPU.

    Args:
        programs: A program for each model.
        seed: The seed of data and initial weights.
        steps: The number of steps of the training.
    """

    block_size = 1

    def __init__(self, programs: Sequence[Program], seed: int, steps: int) -> None:
        self._seed = seed
        self._contexts = context_sizes(steps, seed)
        self._population = PFNPopulation.copies(initial_model(seed), len(programs))
        self._programs = [FusedCpuProgram(program, scaled_gradient=True) for program in programs]
        self._reads_gradient = any(step_codes(program).reads_gradient for program in programs)
        self._memories: list[list[Memory]] = [[{} for _ in self._population.shapes] for _ in programs]
        self._split_rows()

    def _split_rows(self) -> None:
        """Takes views of each model's tensors."""
        self._params, self._grads = (
            [self._population.tensors(row) for row in rows]
            for rows in (self._population.weights, self._population.grads)
        )

    def run(self, start: int, count: int, *, losses: bool) -> Block:
        """See `Engine.run`."""
        step_losses = np.full((count, self._population.size), np.nan)
        died_at = np.zeros(self._population.size, dtype=np.int64)
        for offset in range(count):
            step = start + offset
            if self._reads_gradient or losses:
                compute = self._population.loss_and_gradients if self._reads_gradient else self._population.loss
                step_losses[offset] = compute(prepared_batch(step, self._seed), self._contexts[step]).numpy()
            for model, program in enumerate(self._programs):
                if died_at[model]:
                    continue
                grads = self._grads[model] if program.codes.reads_gradient else None
                scale = None if grads is None else clip_factor(grads)
                if not program.step(self._params[model], grads, self._memories[model], step + 1, grad_scale=scale):
                    died_at[model] = step + 1
        return Block(step_losses, died_at)

    def keep(self, models: Sequence[int]) -> None:
        """See `Engine.keep`."""
        self._population = self._population.keep(models)
        self._programs = [self._programs[model] for model in models]
        self._memories = [self._memories[model] for model in models]
        self._split_rows()


class GpuEngine:
    """A population on a GPU, synchronised once per block of steps.

    The steps are captured as CUDA graphs, one for each number of context points, and replayed. Tests run the engine on
    a CPU, without graphs.

    Args:
        programs: A program for each model.
        seed: The seed of data and initial weights.
        steps: The number of steps of the training.
        device: The device.
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
        self._population = PFNPopulation.copies(initial_model(seed), len(programs), device)
        self._reads_gradient = any(step_codes(program).reads_gradient for program in programs)
        sizes = [shape.numel() for shape in self._population.shapes]
        self._programs: GpuPopulation | UnfusedPopulation = (
            UnfusedPopulation(programs, sizes, device, scaled_gradient=True)
            if kernels is None
            else GpuPopulation(programs, sizes, kernels, device, scaled_gradient=True)
        )
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # the step's index in its block
        self._batches: Batch | None = None
        self._stream = _side_stream(device) if device.type == "cuda" else None
        self._bind()
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _bind(self) -> None:
        """Prepares everything that depends on the tensors' addresses."""
        self._programs.bind_rows(self._population.weights, self._population.grads)
        self._losses = torch.zeros(self.block_size, self._population.size, device=self._device)
        self._graphs: dict[int | None, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._stream is not None else None
        self._warm: set[int | None] = set()  # numbers of context points whose step has run outside of a graph

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
                # The first step runs outside of a graph: libraries initialise there, which a capture forbids.
                if self._stream is not None and settled and context in self._warm:
                    self._replay(context)
                else:
                    self._step(context)
                    self._warm.add(context)
            step_losses = self._losses[:count].to("cpu", torch.float64).numpy()
            died_at = self._programs.died_at.cpu().numpy().astype(np.int64)
        return Block(step_losses, died_at)

    def keep(self, models: Sequence[int]) -> None:
        """See `Engine.keep`."""
        with torch.cuda.stream(self._stream):
            self._graphs.clear()
            self._population = self._population.keep(models)
            self._programs = self._programs.keep(models)
            self._bind()
        if self._stream is not None:
            torch.cuda.empty_cache()  # returns the memory of the dropped graphs

    def _load(self, start: int, count: int) -> None:
        """Copies the batches of a block to the device."""
        batches = [prepared_batch(step, self._seed) for step in range(start, start + count)]
        *parts, num_datasets = batches[0]
        if self._batches is None:
            buffers = [part.new_zeros(self.block_size, *part.shape, device=self._device) for part in parts]
            self._batches = Batch._make((*buffers, num_datasets))
        for buffer, parts in zip(self._batches[:4], zip(*(batch[:4] for batch in batches), strict=True), strict=True):
            buffer[:count].copy_(torch.stack(parts))

    def _step(self, context: int | None) -> None:
        """Enqueues a step without synchronisation; `context` is None without a loss."""
        if context is not None:
            assert self._batches is not None
            batch = self._batches.at(self._place)
            compute = self._population.loss_and_gradients if self._reads_gradient else self._population.loss
            self._losses.index_copy_(0, self._place, compute(batch, context).unsqueeze(0))
        if self._reads_gradient:
            self._programs.clip()
        self._programs.launch()
        self._place += 1

    def _replay(self, context: int | None) -> None:
        assert self._stream is not None
        if context not in self._graphs:
            graph = torch.cuda.CUDAGraph()
            self._stream.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")  # other threads may use CUDA
            try:
                self._step(context)
            except BaseException:
                with suppress(RuntimeError):  # it repeats that the capture failed
                    graph.capture_end()
                raise
            graph.capture_end()
            self._graphs[context] = graph
        self._graphs[context].replay()


_MAX_POPULATION = 256
_ACTIVATION_BYTES = 24e6  # of a model in a step: activations for the backward pass, and temporary tensors


def population_limit(programs: Sequence[Program], device: torch.device) -> int:
    """Returns the population size that surely fits GPU memory; 1 on CPUs."""
    if device.type == "cpu":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    buffers = 2 + max(len(carried_slots(program)) for program in programs)  # weights, gradients, slots
    num_params = sum(param.numel() for param in initial_model().parameters())
    needed = 4 * num_params * (buffers + 2) + _ACTIVATION_BYTES  # + 2: `keep` copies weights and gradients
    return max(1, min(_MAX_POPULATION, int(0.8 * free / needed)))


def engine_for(programs: Sequence[Program], seed: int, steps: int, device: torch.device) -> Engine:
    """Returns the engine for a device.

    If a program is too large for the GPU's interpreter, torch's operations run all of them there.
    """
    if device.type == "cpu":
        return CpuEngine(programs, seed, steps)
    kernels = cuda_kernels(device) if all(fits_gpu_interpreter(program) for program in programs) else None
    return GpuEngine(programs, seed, steps, device, kernels)


def fits_gpu_interpreter(program: Program) -> bool:
    """Returns True for a program that fits the GPU's interpreter."""
    try:
        bytecodes(program, scaled_gradient=True)
    except TooLarge:
        return False
    return True


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns a stream; graphs can't be captured on the default one."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def clip_factor(grads: Sequence[Tensor]) -> Tensor:
    """Returns the factor, 0-d, that `clip_grad_norm_` multiplies gradients by.

    As there, it is computed from the norms of the tensors. A norm over all values at once rounds differently, and
    `sign` enlarges the difference.
    """
    total = nn.utils.get_total_norm(grads)
    return torch.clamp(MAX_GRAD_NORM / (total + 1e-6), max=1.0)
