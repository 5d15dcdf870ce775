"""Trainings that Figure 5 looks at: with the norm of each update, and on the proxy of Appendix B."""

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

_PROXY_SEED = 42  # of the paper's code
_SEED_STRIDE = 10**6  # as on the "pfn" task, so that no seed shares its draws with another


def train_with_norms(
    task: Task, candidate: Candidate, epochs: int, seed: int, *, on_step: OnStep | None = None
) -> tuple[Curve, Floats]:
    """Trains as `Task.train` does, programs by torch's operations, and watches how far each step moves the parameters.

    Args:
        task: The task.
        candidate: What to train with.
        epochs: As in `Task.train`.
        seed: As in `Task.train`.
        on_step: As in `Task.train`.

    Returns:
        The curve, which is the one without watching to the last bit; and `(epochs * steps per epoch,)` float64, the
        update norms: for each step the Euclidean norm of the change of all parameters (of all models, if the task has
        several), taken as one vector, from what they were before `optimizer.step()` to what they are after. The
        learning rate and weight decay are in it. NaN for steps that were not done.
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
    found = np.full(curve.step_losses.size, math.nan)
    # A task that trains several models side by side, as "mlp" does its folds, steps all of them in turn.
    norms = np.sqrt(np.array(squared_norms).reshape(-1, models).sum(axis=1))
    found[: len(norms)] = norms
    return curve, found


def train_on_proxy(candidate: Candidate, steps: int, seed: int = 0) -> Floats:
    """Trains on the proxy of the paper's code (Appendix B), whose running average is its fingerprint of a program.

    Text and code differ: eq. 1 squares before it takes the norm. This is the code's, |z² / (z² + 1) + 0.5| with
    z = ‖x·A + B‖, whose gradients are not clipped.

    Args:
        candidate: What to train with; a schedule of the learning rate takes each step for an epoch.
        steps: How many losses.
        seed: What A, B and the first x are drawn with; 0 is the paper's.

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
    """The optimizer that a candidate stands for, with programs run by torch's operations."""
    if isinstance(candidate, Program):
        return ProgramOptimizer(params, candidate)
    return candidate.make_optimizer(params, epochs, steps_per_epoch)
