"""How long an optimizer's step takes here and now, beside PyTorch's own; measured, so never twice the same."""

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
from nosbench_env.execution.step_code import lower
from nosbench_env.language.program import Program, check_program

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Task

_ROUND_SECONDS = 0.02  # that each optimizer steps for in a round, at least
_GRADIENT = 0.01  # standard deviation of the gradients' elements


@dataclass(frozen=True, slots=True)
class StepTime:
    """What a step of an optimizer takes.

    Attributes:
        name: "program", "SGD" or "AdamW"; the latter two are PyTorch's, with its defaults.
        fused: Whether it is the fused form, else the plain one.
        seconds: Of a step over all tensors; the median of the rounds.
        low: The first quartile of the rounds.
        high: The third.
    """

    name: str
    fused: bool
    seconds: float
    low: float
    high: float


def step_times(program: Program, shapes: Iterable[Sequence[int]], *, rounds: int = 11, seed: int = 0) -> list[StepTime]:
    """Measures steps of a program and of PyTorch's SGD and AdamW, each plain and fused, on one CPU thread.

    The optimizers take turns, so that what else the machine does falls on all of them. Each steps tensors of its own,
    with the same weights and gradients, which are put back before each round. Two figures of one call can be compared;
    figures of two machines, or of a busy and of a quiet hour, can't.

    Args:
        program: The program.
        shapes: Shapes of the parameter tensors; `parameter_shapes` gives those of a task.
        rounds: How many turns each optimizer has, of a fiftieth of a second or a step.
        seed: Of weights and gradients.

    Returns:
        Six figures: of the program, SGD and AdamW, each plain and then fused.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If there are no shapes, or no rounds.
    """
    steps = len(lower(check_program(program)).steps) + 1  # until the code stays the same
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
    """The shapes of the parameter tensors that a task trains, for any task: a training is begun and given up."""
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
    """Ends a training whose parameters are known."""


class _Timed:
    """An optimizer with tensors of its own, stepped until it does the same at every step."""

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
        # PyTorch's plain form is the one that it takes by itself.
        options: dict[str, Any] = {"fused": True} if fused else {}
        optimizer = make(self._params, **options)
        self._timer = Timer("step()", globals={"step": optimizer.step}, num_threads=1)
        self._timer.timeit(steps)
        self._number = max(1, math.ceil(_ROUND_SECONDS / self._timer.timeit(1).mean))

    def measure(self) -> None:
        """One round."""
        with torch.no_grad():
            for param, start in zip(self._params, self._start, strict=True):
                param.copy_(start)
        self._rounds.append(self._timer.timeit(self._number).mean)

    def result(self) -> StepTime:
        low, median, high = np.quantile(self._rounds, (0.25, 0.5, 0.75)).tolist()
        return StepTime(self.name, self.fused, median, low, high)
