"""The protocol of tasks, which train models and return learning curves."""

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
    """The progress of a training.

    Attributes:
        step: The number of updates done.
        steps: The number of updates of the whole training.
        loss: The training loss before the last update; NaN if it was not computed.
        index: The index of the program in a call that trains with several.
        programs: The number of programs in that call.
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
            task's unit (nats for "pfn"). NaN after a parameter turned non-finite, since no further step is computed.
        stopped_at: The number of the update that made a parameter non-finite, counted from 1 over the whole training;
            None if all parameters stayed finite. It may be the last update: then the curve is finite to its end, and
            all losses of a longer training are NaN from there on.
        first_epoch: The epoch of the first row of `step_losses`. It is above 0 if only the last epoch was asked for.
        seconds: The time of the steps, or its share for programs trained side by side; None if unknown.
        validation_losses: `(epochs,)` float64, the loss on other data after each epoch's last update, for a task that
            validates. NaN from the epoch in which a parameter turned non-finite.
    """

    step_losses: NDArray[np.float64]
    stopped_at: int | None = None
    first_epoch: int = 0
    seconds: float | None = None
    validation_losses: NDArray[np.float64] | None = None

    @property
    def epoch_means(self) -> NDArray[np.float64]:
        """The losses that the oracle reports, `(epochs,)` float64.

        They are validation losses if the task has them, otherwise means of step losses. The first is that of epoch
        `first_epoch`.
        """
        if self.validation_losses is not None:
            return self.validation_losses
        means: NDArray[np.float64] = self.step_losses.mean(axis=1)
        return means


class Task(Protocol):
    """The members of a task that the oracle uses.

    `make_task` makes the tasks of `TASKS`. Any other object with these members can be passed to the oracle;
    `nosbench_env.tasks.model_task.ModelTask` implements most of them.

    Attributes:
        name: The name of the task in keys of the store.
        version: A number that changes whenever results change.
        arithmetic: The precision of training, part of the keys: "float32".
        device: The device of training, as torch writes it.
        default_epochs: The length of training that the benchmark reports.
        steps_per_epoch: The number of updates in an epoch.

    A task may also have a `probe`, a `Probe` that describes its tensors. Without one, fingerprints use `ANY_PROBE`, and
    no program is judged to diverge without training.
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
        """Trains a new model with the optimizer that `make_optimizer(model.parameters())` returns.

        Args:
            make_optimizer: Makes the optimizer: `torch.optim.AdamW`, or
                `lambda params: ProgramOptimizer(params, program)`.
            epochs: The length of training; `default_epochs` if None.
            seed: The seed of data, initial weights and all other random draws; 0 is the paper's.
            on_step: Called after every update.
            checkpoint: A file that is written after every epoch and, if it exists, resumed from. A resumed training is
                bit-identical to an uninterrupted one.

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
        """Trains once with each program, as `train` with `ProgramOptimizer` does.

        A task may compile programs or train several side by side. The losses then agree up to rounding.

        Args:
            programs: The programs to train with.
            epochs: As in `train`.
            seed: As in `train`.
            on_step: As in `train`, for each training.
            on_curve: Called with the index and the curve of a program as soon as the curve is known, so that an
                interrupt loses no finished curve.
            last_epoch_only: A hint that only the loss of the last epoch is needed. A task may then return curves of
                that epoch alone (`first_epoch = epochs - 1`); for programs that read no gradient this saves work.
        """
        ...


def probe_of(task: Task | type[Task]) -> Probe:
    """Returns the probe of a task or class; `ANY_PROBE` without one."""
    probe: Probe = getattr(task, "probe", ANY_PROBE)
    return probe
