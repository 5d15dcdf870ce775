"""The paper's task: training a small PFN on Bayesian linear regression (Section 3.3 and Appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pfns.model.bar_distribution import FullSupportBarDistribution
from torch import Tensor, nn

from nosbench_env.execution.numerics import exact_arithmetic, resolve_device
from nosbench_env.execution.settings import check_arithmetic, check_epochs, check_seed
from nosbench_env.execution.step_code import lower
from nosbench_env.identity.probe import PFN_PROBE
from nosbench_env.language.program import Program
from nosbench_env.tasks.pfn_data import bucket_borders, context_sizes, initial_model, sample_batch
from nosbench_env.tasks.pfn_training import fits_kernels, largest_population, make_engine, train_population
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep, Progress
from nosbench_env.tasks.training import train_model


class PFNTask:
    """Trains a Prior-Data Fitted Network for Bayesian ridge regression, as the paper's benchmark does.

    Each step draws 8 data sets of 20 points and the number of points that are context, 0 to 19; the loss is the mean
    negative log likelihood of the others, in nats per point. At seed 0 data, context sizes, bucket borders and initial
    weights are those of the paper's code.

    The loss of a run is noisy: float rounding alone moves AdamW's final loss by 0.08 and other seeds by as much, so
    rankings closer than 0.15 need several seeds.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        arithmetic: "float32", or "tf32" for matrix products of reduced precision on a GPU: faster, and results of
            their own, under keys of their own.
        population: How many programs `train_programs` trains side by side; None for one on a CPU (more gain nothing
            there) and what fits the memory on a GPU.

    Raises:
        ValueError: If the device is unknown or not available, or can't do the arithmetic, or `population` is not a
            positive integer.
    """

    name = "pfn"
    version = 1
    default_epochs = 20  # Appendix F
    steps_per_epoch = 100
    probe = PFN_PROBE

    def __init__(self, device: str = "auto", arithmetic: str = "float32", population: int | None = None) -> None:
        self.device = resolve_device(device)
        self.arithmetic = check_arithmetic(arithmetic)
        if arithmetic == "tf32" and torch.device(self.device).type != "cuda":
            raise ValueError(f"arithmetic 'tf32' needs a GPU, the device is {self.device!r}; use 'float32'")
        if population is not None and (
            isinstance(population, bool) or not isinstance(population, int) or population < 1
        ):
            raise ValueError(f"population must be a positive integer or None, got {population!r}")
        self.population = population

    def train(
        self,
        make_optimizer: MakeOptimizer,
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        checkpoint: Path | str | None = None,
    ) -> Curve:
        """Trains with any optimizer; see `Task.train`."""
        epochs, seed = check_epochs(epochs) or self.default_epochs, check_seed(seed)
        with exact_arithmetic(tf32=self.arithmetic == "tf32"):
            contexts = context_sizes(epochs * self.steps_per_epoch, seed)
            # The loss of pfns counts what it has seen in its buffers; a fresh one leaves no trace between trainings.
            criterion = FullSupportBarDistribution(bucket_borders(), ignore_nan_targets=True).to(self.device)
            model = initial_model(seed).to(self.device)

            def batch_loss(model: nn.Module, step: int) -> Tensor:
                x, y = (data.to(self.device) for data in sample_batch(step, seed))
                num_context = contexts[step]
                losses = criterion(model(x, y, num_context), y[num_context:].contiguous())
                loss: Tensor = losses.mean(dim=0).nanmean()
                return loss

            return train_model(self, model, batch_loss, make_optimizer, epochs, seed, on_step, checkpoint)

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
        """Trains once with each program; see `Task.train_programs`."""
        epochs, seed = check_epochs(epochs) or self.default_epochs, check_seed(seed)
        curves: dict[int, Curve] = {}
        with exact_arithmetic(tf32=self.arithmetic == "tf32"):
            for group in _alike(programs, torch.device(self.device)):
                waiting = list(group)
                size = self._population_size([programs[index] for index in waiting])
                while waiting:
                    part = waiting[:size]
                    try:
                        self._train_population(
                            programs, part, epochs, seed, on_step, on_curve, curves, last_epoch_only=last_epoch_only
                        )
                    except RuntimeError as error:
                        if len(part) == 1 or not _is_out_of_memory(error):
                            raise
                        size = len(part) // 2
                    if torch.device(self.device).type == "cuda":
                        torch.cuda.empty_cache()
                    waiting = [index for index in waiting if index not in curves]
        return [curves[index] for index in range(len(programs))]

    def _train_population(
        self,
        programs: Sequence[Program],
        part: Sequence[int],
        epochs: int,
        seed: int,
        on_step: OnStep | None,
        on_curve: OnCurve | None,
        curves: dict[int, Curve],
        *,
        last_epoch_only: bool,
    ) -> None:
        """Trains those of `programs` that `part` names side by side; adds each curve to `curves` when it is known."""

        def step_done(model: int, progress: Progress) -> None:
            if on_step is not None:
                on_step(replace(progress, index=part[model], programs=len(programs)))

        def curve_known(model: int, curve: Curve) -> None:
            curves[part[model]] = curve
            if on_curve is not None:
                on_curve(part[model], curve)

        chosen = [programs[index] for index in part]
        needs_training = any(lower(program).reads_gradient for program in chosen)
        train_population(
            make_engine(chosen, seed, epochs * self.steps_per_epoch, torch.device(self.device)),
            len(part),
            epochs,
            self.steps_per_epoch,
            last_epoch_only=last_epoch_only and not needs_training,
            on_step=step_done,
            on_curve=curve_known,
        )

    def _population_size(self, programs: Sequence[Program]) -> int:
        """How many programs to train side by side."""
        if self.population is not None:
            return self.population
        return largest_population(programs, torch.device(self.device))


def _alike(programs: Sequence[Program], device: torch.device) -> Iterator[list[int]]:
    """Numbers of the programs that can be trained side by side: with or without gradients, with or without kernels."""
    groups: dict[tuple[bool, bool], list[int]] = {}
    for index, program in enumerate(programs):
        key = lower(program).reads_gradient, device.type == "cpu" or fits_kernels(program)
        groups.setdefault(key, []).append(index)
    yield from groups.values()


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory ran out: torch says so with a type of its own, the libraries that it calls in words."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text
