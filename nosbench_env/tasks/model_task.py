"""`ModelTask`: the common part of tasks that train torch models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from nosbench_env.execution.numerics import exact_arithmetic, resolve_device
from nosbench_env.execution.optimizer import ProgramOptimizer
from nosbench_env.execution.settings import check_arithmetic, check_epochs, check_seed
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep, Progress
from nosbench_env.tasks.training import Learner, train_learners


class ModelTask(ABC):
    """A task with a training loop; a subclass sets up the models.

    A subclass implements `learners` and sets `name`, `version`, `default_epochs` and `steps_per_epoch`; see `Task`.

    Args:
        device: "auto" (a GPU if available), "cpu", "cuda" or "cuda:N".
        arithmetic: One of the task's `arithmetics`.

    Attributes:
        arithmetics: The arithmetics that the task can compute in.
        fused: True if `train_programs` compiles each program, which pays off for large tensors.

    Raises:
        ValueError: If the device or the arithmetic is unknown or not available.
    """

    name: str
    version: int
    default_epochs: int
    steps_per_epoch: int
    arithmetics: ClassVar[tuple[str, ...]] = ("float32",)
    fused = False

    def __init__(self, device: str = "auto", arithmetic: str = "float32") -> None:
        self.device = resolve_device(device)
        self.arithmetic = check_arithmetic(arithmetic)
        if arithmetic not in self.arithmetics:
            known = " or ".join(map(repr, self.arithmetics))
            raise ValueError(f"the {self.name} task computes only in {known}, got arithmetic {arithmetic!r}")

    @abstractmethod
    def learners(self, seed: int, steps: int) -> Sequence[Learner]:
        """Returns newly initialised models and their losses for a training.

        It runs in plain float32 on one thread. Draw weights under `execution.numerics.seeded`.
        """

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
        epochs, seed = self._checked(epochs, seed)
        with self._arithmetic():
            learners = self.learners(seed, epochs * self.steps_per_epoch)
            return train_learners(self, learners, make_optimizer, epochs, seed, on_step, checkpoint)

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
        """Trains with one program after the other; see `Task.train_programs`."""
        curves = []
        for index, program in enumerate(programs):

            def report(progress: Progress, index: int = index) -> None:
                if on_step is not None:
                    on_step(replace(progress, index=index, programs=len(programs)))

            make_optimizer = partial(ProgramOptimizer, program=program, fused=self.fused)
            curve = self.train(make_optimizer, epochs, seed, on_step=None if on_step is None else report)
            if on_curve is not None:
                on_curve(index, curve)
            curves.append(curve)
        return curves

    def _checked(self, epochs: int | None, seed: int) -> tuple[int, int]:
        return check_epochs(epochs) or self.default_epochs, check_seed(seed)

    def _arithmetic(self) -> AbstractContextManager[None]:
        return exact_arithmetic(tf32=self.arithmetic == "tf32")
