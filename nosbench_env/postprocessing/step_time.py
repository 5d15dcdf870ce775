"""Step times of optimizers on this machine, beside PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.benchmark import Timer

from nosbench_env.execution.optimizer import ProgramOptimizer
from nosbench_env.execution.step_code import step_codes
from nosbench_env.language.program import Program, check_program

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Task

_ROUND_SECONDS = 0.02  # least time that an optimizer steps in a round
_GRADIENT = 0.01  # standard deviation of the gradients' elements


@dataclass(frozen=True, slots=True)
class StepTime:
    """The measured time of an optimizer's step.

    Attributes:
        name: "program", "SGD" or "AdamW"; the latter two are PyTorch's, with its defaults.
        fused: True for the fused form, False for the plain one.
        seconds: Seconds of a step over all tensors; the median of the rounds.
        low: The first quartile of the rounds.
        high: The third quartile.
    """

    name: str
    fused: bool
    seconds: float
    low: float
    high: float


def step_times(program: Program, shapes: Iterable[Sequence[int]], *, rounds: int = 11, seed: int = 0) -> list[StepTime]:
    """Times steps of a program, SGD and AdamW on one CPU thread.

    The optimizers take turns, so that other load on the machine affects all of them. Each steps its own tensors, with
    the same weights and gradients, which are restored before each round. Times of one call are comparable; times of
    different machines, or under different load, are not.

    Args:
        program: The program.
        shapes: Shapes of the parameter tensors; `parameter_shapes` gives those of a task.
        rounds: Number of turns of each optimizer; a turn lasts a fiftieth of a second, or a step if that is longer.
        seed: Seed of weights and gradients.

    Returns:
        Six times: of the program, SGD and AdamW, each plain and then fused.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If there are no shapes, or no rounds.
    """
    steps = len(step_codes(check_program(program)).steps) + 1  # after these steps the code stays the same
    tensors = [tuple(shape) for shape in shapes]
    if not tensors:
        raise ValueError("shapes must be those of at least one tensor, got none")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds!r}")
    timed = [
        _Timed(name, fused, make, tensors, steps, seed)
        for name, make in (
            ("program", partial(ProgramOptimizer, program=program)),
            ("SGD", partial(torch.optim.SGD, lr=1e-3)),
            ("AdamW", torch.optim.AdamW),
        )
        for fused in (False, True)
    ]
    for _ in range(rounds):
        for one in timed:
            one.measure()
    return [one.result() for one in timed]


def parameter_shapes(task: Task) -> list[tuple[int, ...]]:
    """Returns the shapes of a task's parameter tensors, from a stopped training."""
    shapes: list[tuple[int, ...]] = []

    def look(params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        shapes.extend(tuple(param.shape) for param in params)
        raise _Seen

    try:
        task.train(look, 1)
    except _Seen:
        return shapes
    raise ValueError(f"task {task.name!r} trained without making an optimizer: its parameters are not known")


class _Seen(Exception):
    """The end of a training whose parameters are known."""


class _Timed:
    """An optimizer with its own tensors, warmed up to equal steps."""

    def __init__(
        self,
        name: str,
        fused: bool,
        make: Callable[..., torch.optim.Optimizer],
        shapes: Sequence[tuple[int, ...]],
        steps: int,
        seed: int,
    ) -> None:
        self.name, self.fused = name, fused
        self._rounds: list[float] = []
        generator = torch.Generator().manual_seed(seed)

        def drawn(shape: tuple[int, ...]) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")

        self._start = [drawn(shape) for shape in shapes]
        self._params = [torch.nn.Parameter(start.clone()) for start in self._start]
        for param in self._params:
            param.grad = drawn(tuple(param.shape)).mul_(_GRADIENT)
        # PyTorch's plain form is its default.
        options: dict[str, Any] = {"fused": True} if fused else {}
        optimizer = make(self._params, **options)
        self._timer = Timer("step()", globals={"step": optimizer.step}, num_threads=1)
        self._timer.timeit(steps)
        self._number = max(1, math.ceil(_ROUND_SECONDS / self._timer.timeit(1).mean))

    def measure(self) -> None:
        """Measures one round."""
        with torch.no_grad():
            for param, start in zip(self._params, self._start, strict=True):
                param.copy_(start)
        self._rounds.append(self._timer.timeit(self._number).mean)

    def result(self) -> StepTime:
        low, median, high = np.quantile(self._rounds, (0.25, 0.5, 0.75)).tolist()
        return StepTime(self.name, self.fused, median, low, high)
