"""Trains PFNs with programs: the compiled step, one model or a population, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nosbench_env.compiled.cpu import CompiledProgram, Memory
from nosbench_env.compiled.lowering import lower
from nosbench_env.program import Program
from nosbench_env.tasks.pfn_data import batch_of, context_sizes, initial_model
from nosbench_env.tasks.pfn_population import PFNPopulation
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
    alive = list(range(size))
    end = 0
    while end < steps:
        start, end = end, min(end + engine.block_size, steps if end >= first_loss else first_loss)
        block = engine.run(start, end - start, losses=start >= first_loss)
        losses[start:end, alive] = block.losses
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
                on_curve(model, Curve(known, died_at or None, first_epoch))
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
        self._population = PFNPopulation(initial_model(seed), len(programs))
        self._programs = [CompiledProgram(program, scaled_gradient=True) for program in programs]
        self._reads_gradient = any(lower(program).reads_gradient for program in programs)
        self._memories: list[list[Memory]] = [[{} for _ in self._population.shapes] for _ in programs]
        self._split_rows()

    def _split_rows(self) -> None:
        """Finds each model's tensors again after its row has moved."""
        weights, grads = (self._population.tensors(rows) for rows in (self._population.weights, self._population.grads))
        models = range(self._population.size)
        self._params = [[tensor[model] for tensor in weights] for model in models]
        self._grads = [[tensor[model] for tensor in grads] for model in models]

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
        self._population.keep(models)
        self._programs = [self._programs[model] for model in models]
        self._memories = [self._memories[model] for model in models]
        self._split_rows()


def clip_factor(grads: Sequence[Tensor]) -> Tensor:
    """What `clip_grad_norm_` multiplies gradients by, 0-d.

    From a norm of each tensor, as there: a norm of all values at once rounds otherwise, and `sign` makes that large.
    """
    total = nn.utils.get_total_norm(grads)
    return torch.clamp(MAX_GRAD_NORM / (total + 1e-6), max=1.0)
