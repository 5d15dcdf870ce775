"""The PFN task: Bayesian linear regression (paper, Section 3.3, Appendix C)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from pfns.model.bar_distribution import FullSupportBarDistribution
from torch import Tensor

from nosbench_env.execution.step_code import step_codes
from nosbench_env.identity.probe import PFN_PROBE
from nosbench_env.language.program import Program
from nosbench_env.tasks.model_task import ModelTask
from nosbench_env.tasks.pfn_data import bucket_borders, context_sizes, initial_model, sample_batch
from nosbench_env.tasks.pfn_training import engine_for, fits_gpu_interpreter, population_limit, train_population
from nosbench_env.tasks.task import Curve, OnCurve, OnStep, Progress
from nosbench_env.tasks.training import Learner


class PFNTask(ModelTask):
    """Trains a Prior-Data Fitted Network for Bayesian ridge regression.

    Each step draws 8 data sets of 20 points and the number of points that are context, 0 to 19. The loss is the mean
    negative log likelihood of the other points, in nats per point. At seed 0 data, context sizes, bucket borders and
    initial weights are those of the paper's code.

    The loss of a training is noisy: float rounding alone moves AdamW's final loss by 0.08, and other seeds by as much.
    Rankings closer than 0.15 need several seeds.

    Args:
        device: "auto" (a GPU if available), "cpu", "cuda" or "cuda:N".
        arithmetic: "float32", or "tf32" for matrix products of reduced precision on a GPU. "tf32" is faster; its
            results are stored under keys of their own.
        population: The number of programs that `train_programs` trains side by side. None stands for 1 on a CPU, where
            more gain nothing, and for as many as fit the memory on a GPU.

    Raises:
        ValueError: If the device is unknown or not available, or can't do the arithmetic, or `population` is not a
            positive integer.
    """

    name = "pfn"
    version = 1
    default_epochs = 20  # Appendix F
    steps_per_epoch = 100
    arithmetics = ("float32", "tf32")
    probe = PFN_PROBE

    def __init__(self, device: str = "auto", arithmetic: str = "float32", population: int | None = None) -> None:
        super().__init__(device, arithmetic)
        if arithmetic == "tf32" and torch.device(self.device).type != "cuda":
            raise ValueError(f"arithmetic 'tf32' needs a GPU, the device is {self.device!r}; use 'float32'")
        if population is not None and (
            isinstance(population, bool) or not isinstance(population, int) or population < 1
        ):
            raise ValueError(f"population must be a positive integer or None, got {population!r}")
        self.population = population

    def learners(self, seed: int, steps: int) -> list[Learner]:
        """Returns the model with its losses."""
        contexts = context_sizes(steps, seed)
        # The loss of pfns counts labels in its buffers; a new one for each training keeps trainings independent.
        criterion = FullSupportBarDistribution(bucket_borders(), ignore_nan_targets=True).to(self.device)
        model = initial_model(seed).to(self.device)

        def batch_loss(step: int) -> Tensor:
            x, y = (data.to(self.device) for data in sample_batch(step, seed))
            num_context = contexts[step]
            losses = criterion(model(x, y, num_context), y[num_context:].contiguous())
            loss: Tensor = losses.mean(dim=0).nanmean()
            return loss

        return [Learner(model, batch_loss)]

    def train_programs(
        self,
        programs: Sequence[Program],
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        on_curve: OnCurve | None = None,
        last_epoch_only: bool = False,
    ) -> list[Curve]:
        """Trains with compiled programs, on a GPU side by side; see `Task.train_programs`."""
        epochs, seed = self._checked(epochs, seed)
        device = torch.device(self.device)
        curves: dict[int, Curve] = {}

        def train_side_by_side(part: Sequence[int]) -> None:
            def step_done(model: int, progress: Progress) -> None:
                if on_step is not None:
                    on_step(replace(progress, index=part[model], programs=len(programs)))

            def curve_known(model: int, curve: Curve) -> None:
                curves[part[model]] = curve
                if on_curve is not None:
                    on_curve(part[model], curve)

            chosen = [programs[index] for index in part]
            reads_gradient = any(step_codes(program).reads_gradient for program in chosen)
            train_population(
                engine_for(chosen, seed, epochs * self.steps_per_epoch, device),
                len(part),
                epochs,
                self.steps_per_epoch,
                last_epoch_only=last_epoch_only and not reads_gradient,
                on_step=step_done,
                on_curve=curve_known,
            )

        with self._arithmetic():
            for group in _compatible(programs, device):
                waiting = group
                size = self.population or population_limit([programs[index] for index in waiting], device)
                while waiting:
                    part = waiting[:size]
                    try:
                        train_side_by_side(part)
                    except RuntimeError as error:
                        if len(part) == 1 or not _is_out_of_memory(error):
                            raise
                        size = len(part) // 2
                    if device.type == "cuda":
                        torch.cuda.empty_cache()
                    waiting = [index for index in waiting if index not in curves]
        return [curves[index] for index in range(len(programs))]


def _compatible(programs: Sequence[Program], device: torch.device) -> Collection[list[int]]:
    """Groups the indices of programs that can share a population.

    A population reads gradients or does not, and runs in the GPU's interpreter or does not.
    """
    groups: dict[tuple[bool, bool], list[int]] = {}
    for index, program in enumerate(programs):
        key = step_codes(program).reads_gradient, device.type == "cpu" or fits_gpu_interpreter(program)
        groups.setdefault(key, []).append(index)
    return groups.values()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Returns True if a GPU ran out of memory.

    torch raises a type of its own. The libraries that it calls are recognised by their messages.
    """
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text
