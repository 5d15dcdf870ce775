"""Trainings outside of the oracle, by which the study of the cache compares programs: each done once, and kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.program import Program
from nosbench_env.tasks import make_task
from nosbench_env.tasks.task import Curve, Task
from nosbench_env.tasks.worker_pool import WorkerPool, worker_command

FIRST_STEPS = 21  # steps 0 to 20: before rounding errors have grown to where they tell equal programs apart
_REPORT_EVERY_S = 10.0

OnLosses = Callable[[int, NDArray[np.float64]], None]
Train = Callable[[Sequence[Program], OnLosses], None]


def first_steps_task(name: str, device: str) -> tuple[Task, int]:
    """A task, and how many of its epochs hold the first `FIRST_STEPS` steps.

    The data of a step of "pfn" depend on its number alone, so that shorter epochs are the beginning of longer ones.
    """
    task = make_task(name, device)
    if name == "pfn":
        task.steps_per_epoch = FIRST_STEPS
    return task, math.ceil(FIRST_STEPS / task.steps_per_epoch)


def first_losses(name: str, device: str, workers: int) -> Train:
    """Trains the first steps alone; gives their `FIRST_STEPS` losses."""

    def train(programs: Sequence[Program], on_losses: OnLosses) -> None:
        task, epochs = first_steps_task(name, device)

        def on_curve(index: int, curve: Curve) -> None:
            on_losses(index, curve.step_losses.ravel()[:FIRST_STEPS])

        command = worker_command(name, str(task.steps_per_epoch))
        _train(task, programs, epochs, workers, on_curve, command=command)

    return train


def final_losses(name: str, device: str, workers: int, epochs: int) -> Train:
    """Trains to the end; gives the mean loss of the last epoch alone."""

    def train(programs: Sequence[Program], on_losses: OnLosses) -> None:
        def on_curve(index: int, curve: Curve) -> None:
            on_losses(index, curve.epoch_means[-1:])

        _train(make_task(name, device), programs, epochs, workers, on_curve, last_epoch_only=True)

    return train


def _train(
    task: Task,
    programs: Sequence[Program],
    epochs: int,
    workers: int,
    on_curve: Callable[[int, Curve], None],
    *,
    last_epoch_only: bool = False,
    command: Sequence[str] | None = None,
) -> None:
    """With seed 0, in worker processes if the task is on the CPU and there are several of both."""
    workers = min(workers, len(programs))
    if workers == 1 or task.device != "cpu":
        task.train_programs(programs, epochs, on_curve=on_curve, last_epoch_only=last_epoch_only)
        return
    pool = WorkerPool(task.name, workers, command=command)
    try:
        pool.train(
            programs,
            epochs,
            0,
            last_epoch_only=last_epoch_only,
            on_result=lambda index, curve, seconds: on_curve(index, curve),
        )
    finally:
        pool.close()


class TrainingLog:
    """Losses of trainings, one line of a file each; a program that is in it is not trained again.

    Args:
        file: The file: JSON lines with a program and its losses, numbers that are not finite as strings.
        train: Trains programs, and tells the losses of each as soon as they are known.
        report: Is told now and then how far it is.

    Raises:
        ValueError: If the file is damaged. A last line cut short by a kill is not: it is removed.
    """

    def __init__(self, file: Path, train: Train, report: Callable[[str], None]) -> None:
        self._file, self._train, self._report = file, train, report
        self._known = dict(self._read())

    def losses(self, programs: Iterable[Program]) -> dict[Program, NDArray[np.float64]]:
        """The losses of each of the programs, training those that are not known yet."""
        programs = list(dict.fromkeys(programs))
        unknown = [program for program in programs if program not in self._known]
        if unknown:
            self._report(f"{self._file.stem}: {len(unknown):,} programs to train, {len(programs):,} in all")
            self._train_unknown(unknown)
        return {program: self._known[program] for program in programs}

    def _train_unknown(self, programs: Sequence[Program]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        done, reported = 0, time.monotonic()
        with self._file.open("a", encoding="utf-8") as file:

            def on_losses(index: int, losses: NDArray[np.float64]) -> None:
                nonlocal done, reported
                kept = np.array(losses, dtype=np.float64)
                line = {"program": programs[index].to_json(), "losses": [to_json(loss) for loss in kept.tolist()]}
                file.write(json.dumps(line) + "\n")
                file.flush()
                self._known[programs[index]] = kept
                done += 1
                if time.monotonic() - reported > _REPORT_EVERY_S:
                    reported = time.monotonic()
                    self._report(f"{self._file.stem}: {done:,} of {len(programs):,} programs trained")

            self._train(programs, on_losses)

    def _read(self) -> Iterable[tuple[Program, NDArray[np.float64]]]:
        if not self._file.exists():
            return
        data = self._file.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                found = json.loads(line)
                yield Program.from_json(found["program"]), np.array([float(loss) for loss in found["losses"]])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{self._file}, line {number}, is damaged: {error}; delete that line") from error
        if len(complete) < len(data):
            with self._file.open("r+b") as file:
                file.truncate(len(complete))


def to_json(loss: float) -> Any:
    """A loss as JSON data: itself, or "nan", "inf" or "-inf"."""
    return loss if math.isfinite(loss) else str(loss)
