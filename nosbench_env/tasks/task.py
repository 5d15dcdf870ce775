"""Tasks train a model with an optimizer and return the learning curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nosbench_env.identity.probe import ANY_PROBE, Probe
from nosbench_env.language.program import Program

MakeOptimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is: `step` updates of `steps` done; `loss` is the training loss before the last one.

    Of several trainings in one call, it is that of program `index` of `programs`. The loss is NaN where none is known.
    """

    step: int
    steps: int
    loss: float
    index: int = 0
    programs: int = 1


OnStep = Callable[[Progress], None]
OnCurve = Callable[[int, "Curve"], None]


@dataclass(frozen=True, eq=False)
class Curve:
    """The learning curve of one training.

    Attributes:
        step_losses: `(epochs, steps per epoch)` float64, the training loss of each step before its update, in the
            task's unit (nats for "pfn"). NaN after the parameters turned non-finite: no further step is computed.
        stopped_at: How many updates it took until a parameter was non-finite, or None. The last update counts too:
            such a curve is finite to its end, and any longer training is known to be NaN from there on. Counted from
            the beginning of the training, whatever `first_epoch` is.
        first_epoch: Row `i` of `step_losses` is epoch `first_epoch + i`; more than 0 where only the last was asked for.
        seconds: What the steps took, for programs trained side by side their share; None if the task does not say.
        validation_losses: `(epochs,)` float64, for a task that validates: the loss on other data after each epoch's
            last update. NaN from the epoch on in which the parameters turned non-finite.
    """

    step_losses: NDArray[np.float64]
    stopped_at: int | None = None
    first_epoch: int = 0
    seconds: float | None = None
    validation_losses: NDArray[np.float64] | None = None

    @property
    def epoch_means(self) -> NDArray[np.float64]:
        """The loss of each epoch from `first_epoch` on, `(epochs,)` float64, as the oracle reports it.

        The validation loss where the task has one, else the mean of the epoch's steps.
        """
        if self.validation_losses is not None:
            return self.validation_losses
        means: NDArray[np.float64] = self.step_losses.mean(axis=1)
        return means


class Task(Protocol):
    """What the oracle needs of a task. `make_task` makes those of `TASKS`; any object with these members will do.

    Attributes:
        name: Names the task in keys of the store.
        version: Changes whenever results change.
        arithmetic: The precision of training, part of the keys: "float32".
        device: Where training runs, as torch writes it.
        default_epochs: The length of training that the benchmark reports.
        steps_per_epoch: Updates in an epoch.

    A task may have an attribute `probe`, a `Probe` that says what its tensors look like; where there is none, programs
    are told apart by `ANY_PROBE`, and none is taken to diverge without training.
    """

    name: str
    version: int
    arithmetic: str
    device: str
    default_epochs: int
    steps_per_epoch: int

    def train(
        self,
        make_optimizer: MakeOptimizer,
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        checkpoint: Path | str | None = None,
    ) -> Curve:
        """Trains a fresh model with the optimizer that `make_optimizer(model.parameters())` returns.

        Args:
            make_optimizer: Any optimizer: `torch.optim.AdamW`, or `lambda params: ProgramOptimizer(params, program)`.
            epochs: How long; `default_epochs` if None.
            seed: Data, initial weights and everything else drawn; 0 is the paper's.
            on_step: Called after every update.
            checkpoint: A file to resume from if it exists, written after every epoch. Resumed training continues to
                the last bit.

        Raises:
            ValueError: If `epochs` or `seed` is out of range, or the checkpoint belongs to another training.
        """
        ...

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
        """Trains once with each program, as `train` with `ProgramOptimizer` would; a task may do it faster.

        Args:
            programs: What to train with.
            epochs: As in `train`.
            seed: As in `train`.
            on_step: As in `train`, for each training.
            on_curve: Called with a program's index and curve as soon as it is known, so that none need be lost.
            last_epoch_only: A hint that only the last epoch's mean is asked for: a task may then return curves that
                hold only that epoch (`first_epoch = epochs - 1`), as it can with less work for a program that reads no
                gradient.
        """
        ...


def probe_of(task: Task | type[Task]) -> Probe:
    """Returns the probe of a task or its class; `ANY_PROBE` for a task without one."""
    probe: Probe = getattr(task, "probe", ANY_PROBE)
    return probe
