"""Training with whatever the oracle evaluates: programs, tuned programs and optimizers of libraries."""

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
    """Trains once with each candidate: programs as `Task.train_programs` does, then optimizers one after the other.

    Args:
        task: Trains.
        candidates: What to train with.
        epochs: As in `Task.train`.
        seed: As in `Task.train`.
        on_step: As in `Task.train_programs`.
        on_curve: Called with a candidate's index and curve as soon as it is known.
        last_epoch_only: As in `Task.train_programs`.
    """
    programs = {place: found for place, found in enumerate(candidates) if isinstance(found, Program)}
    places = list(programs)

    def tell(place: int, progress: Progress) -> None:
        if on_step is not None:
            on_step(replace(progress, index=place, programs=len(candidates)))

    if programs:
        task.train_programs(
            list(programs.values()),
            epochs,
            seed,
            on_step=None if on_step is None else lambda progress: tell(places[progress.index], progress),
            on_curve=lambda index, curve: on_curve(places[index], curve),
            last_epoch_only=last_epoch_only,
        )
    for place, config in enumerate(candidates):
        if not isinstance(config, Program):
            make_optimizer = partial(config.make_optimizer, epochs=epochs, steps_per_epoch=task.steps_per_epoch)
            started = time.perf_counter()
            curve = task.train(make_optimizer, epochs, seed, on_step=None if on_step is None else partial(tell, place))
            on_curve(place, replace(curve, seconds=time.perf_counter() - started))
