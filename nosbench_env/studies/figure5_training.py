"""The trainings of Figure 5: with update norms, and on the proxy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.execution.optimizer import ProgramOptimizer
from nosbench_env.identity.paper_proxy import PROXY_TARGET, proxy_tensors
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import Curve, OnStep, Task

Floats = NDArray[np.float64]

_PROXY_SEED = 42  # the paper's code
_SEED_STRIDE = 10**6  # as on the "pfn" task, so that no seed shares its draws with another


def train_with_norms(
    task: Task, candidate: Candidate, epochs: int, seed: int, *, on_step: OnStep | None = None
) -> tuple[Curve, Floats]:
    """Trains as `Task.train` does, and measures each step.

    Programs run by torch's operations.

    Args:
        task: The task.
        candidate: The optimizer to train with.
        epochs: As in `Task.train`.
        seed: As in `Task.train`.
        on_step: As in `Task.train`.

    Returns:
        The curve, which equals that of `Task.train` to the last bit; and `(epochs * steps per epoch,)` float64, the
        update norms. An update norm is the Euclidean norm of the change of all parameters (of all models, if the task
        has several) by `optimizer.step()`, as one vector, including learning rate and weight decay. It is NaN for steps
        that were not done.
    """
    squared_norms: list[float] = []
    models = 0

    def make_optimizer(params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        nonlocal models
        models += 1
        params = list(params)
        optimizer = plain_optimizer(candidate, params, epochs, task.steps_per_epoch)
        before = [torch.empty_like(param) for param in params]

        @torch.no_grad()
        def remember(*_: Any) -> None:
            for kept, param in zip(before, params, strict=True):
                kept.copy_(param)

        @torch.no_grad()
        def measure(*_: Any) -> None:
            changes = [
                torch.linalg.vector_norm(param - kept, dtype=torch.float64)
                for kept, param in zip(before, params, strict=True)
            ]
            squared_norms.append(float(torch.stack(changes).square().sum()))

        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(measure)
        return optimizer

    curve = task.train(make_optimizer, epochs, seed, on_step=on_step)
    # A task with several models, as the folds of "mlp", steps them in turn.
    measured = np.sqrt(np.array(squared_norms).reshape(-1, models).sum(axis=1))
    norms = np.full(curve.step_losses.size, math.nan)
    norms[: len(measured)] = measured
    return curve, norms


def train_on_proxy(candidate: Candidate, steps: int, seed: int = 0) -> Floats:
    """Trains on the proxy of the paper's code (Appendix B).

    The running average of its losses is the paper's fingerprint of a program. Text and code differ: eq. 1 squares
    before it takes the norm. This is the code's, |z² / (z² + 1) + 0.5| with z = ‖x·A + B‖. Its gradients are not
    clipped.

    Args:
        candidate: The optimizer; a schedule of the learning rate has one epoch per step.
        steps: Number of losses.
        seed: Seed of A, B and the first x; 0 is the paper's.

    Returns:
        `(steps,)` float64: the loss before each update. NaN after a parameter was not finite.
    """
    losses = np.full(steps, math.nan)
    with exact_arithmetic():
        a, b, start = proxy_tensors(_PROXY_SEED + _SEED_STRIDE * seed)
        x = torch.nn.Parameter(start)
        optimizer = plain_optimizer(candidate, [x], steps, 1)
        for step in range(steps):
            optimizer.zero_grad()
            z = torch.linalg.vector_norm(x @ a + b)
            loss = (z**2 / (z**2 + 1) - PROXY_TARGET).abs()
            losses[step] = loss.item()
            loss.backward()
            optimizer.step()
            if not x.isfinite().all():
                break
    return losses


def plain_optimizer(
    candidate: Candidate, params: list[torch.nn.Parameter], epochs: int, steps_per_epoch: int
) -> torch.optim.Optimizer:
    """Makes the optimizer of a candidate; programs run by torch's operations."""
    if isinstance(candidate, Program):
        return ProgramOptimizer(params, candidate)
    return candidate.make_optimizer(params, epochs, steps_per_epoch)
