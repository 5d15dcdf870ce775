"""Training with candidates of all kinds: programs and other optimizers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import OnCurve, OnStep, Progress, Task


def train_candidates(
    task: Task,
    candidates: Sequence[Candidate],
    epochs: int,
    seed: int,
    *,
    on_step: OnStep | None = None,
    on_curve: OnCurve,
    last_epoch_only: bool = False,
) -> None:
    """Trains a task once with each candidate.

    Programs go to `Task.train_programs` together. The others are trained after them, one by one, by `Task.train`.

    Args:
        task: The task to train.
        candidates: The candidates to train with.
        epochs: As in `Task.train`.
        seed: As in `Task.train`.
        on_step: As in `Task.train_programs`.
        on_curve: Called with the index and the curve of a candidate as soon as the curve is known.
        last_epoch_only: As in `Task.train_programs`.
    """
    programs = {index: candidate for index, candidate in enumerate(candidates) if isinstance(candidate, Program)}
    indices = list(programs)

    def report(index: int, progress: Progress) -> None:
        if on_step is not None:
            on_step(replace(progress, index=index, programs=len(candidates)))

    if programs:
        task.train_programs(
            list(programs.values()),
            epochs,
            seed,
            on_step=None if on_step is None else lambda progress: report(indices[progress.index], progress),
            on_curve=lambda index, curve: on_curve(indices[index], curve),
            last_epoch_only=last_epoch_only,
        )
    for index, candidate in enumerate(candidates):
        if not isinstance(candidate, Program):
            make_optimizer = partial(candidate.make_optimizer, epochs=epochs, steps_per_epoch=task.steps_per_epoch)
            started = time.perf_counter()
            on_step_of_one = None if on_step is None else partial(report, index)
            curve = task.train(make_optimizer, epochs, seed, on_step=on_step_of_one)
            on_curve(index, replace(curve, seconds=time.perf_counter() - started))
