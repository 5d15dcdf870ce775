"""Trainings without the oracle, for the cache study's comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.program import Program
from nosbench_env.studies.processes import Reporter
from nosbench_env.studies.settings import Report
from nosbench_env.tasks import make_task
from nosbench_env.tasks.task import Curve, Task
from nosbench_env.tasks.worker_pool import WorkerPool, worker_command

FIRST_STEPS = 21  # steps 0 to 20, before rounding errors separate equal programs

OnLosses = Callable[[int, NDArray[np.float64]], None]
Train = Callable[[Sequence[Program], OnLosses], None]


def first_steps_task(name: str, device: str) -> tuple[Task, int]:
    """Returns a task and the epochs that hold the first `FIRST_STEPS` steps.

    On "pfn" the data of a step depend only on its number, so shorter epochs are the beginning of longer ones.
    """
    task = make_task(name, device)
    if name == "pfn":
        task.steps_per_epoch = FIRST_STEPS
    return task, math.ceil(FIRST_STEPS / task.steps_per_epoch)


def first_losses(name: str, device: str, workers: int) -> Train:
    """Returns a trainer that gives the losses of the first `FIRST_STEPS` steps."""

    def train(programs: Sequence[Program], on_losses: OnLosses) -> None:
        task, epochs = first_steps_task(name, device)

        def on_curve(index: int, curve: Curve) -> None:
            on_losses(index, curve.step_losses.ravel()[:FIRST_STEPS])

        command = worker_command(name, str(task.steps_per_epoch))
        _train(task, programs, epochs, workers, on_curve, command=command)

    return train


def final_losses(name: str, device: str, workers: int, epochs: int) -> Train:
    """Returns a trainer that gives the mean loss of the last epoch."""

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
    """Trains with seed 0, several programs on the CPU in worker processes."""
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
    """The losses of trainings, kept as lines of a file.

    A program in the file is not trained again.

    Args:
        file: The file: JSON lines with a program and its losses, with numbers that are not finite as strings.
        train: Trains programs and passes on the losses of each as soon as they are known.
        report: Called at times with the progress.

    Raises:
        ValueError: If the file is damaged. A last line cut short by a kill is removed.
    """

    def __init__(self, file: Path, train: Train, report: Report) -> None:
        self._file, self._train, self._report = file, train, report
        self._known = dict(self._read())

    def losses(self, programs: Iterable[Program]) -> dict[Program, NDArray[np.float64]]:
        """Returns the losses of programs, after training the new ones."""
        programs = list(dict.fromkeys(programs))
        unknown = [program for program in programs if program not in self._known]
        if unknown:
            self._report(f"{self._file.stem}: {len(unknown):,} programs to train, {len(programs):,} in all")
            self._train_unknown(unknown)
        return {program: self._known[program] for program in programs}

    def _train_unknown(self, programs: Sequence[Program]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)

        def progress() -> str:
            done = sum(program in self._known for program in programs)
            return f"{self._file.stem}: {done:,} of {len(programs):,} programs trained"

        reporter = Reporter(self._report, progress)
        with self._file.open("a", encoding="utf-8") as file:

            def on_losses(index: int, losses: NDArray[np.float64]) -> None:
                kept = np.array(losses, dtype=np.float64)
                line = {"program": programs[index].to_json(), "losses": [to_json(loss) for loss in kept.tolist()]}
                file.write(json.dumps(line) + "\n")
                file.flush()
                self._known[programs[index]] = kept
                reporter.tell()

            self._train(programs, on_losses)

    def _read(self) -> Iterable[tuple[Program, NDArray[np.float64]]]:
        if not self._file.exists():
            return
        data = self._file.read_bytes()
        complete = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                entry = json.loads(line)
                yield Program.from_json(entry["program"]), np.array([float(loss) for loss in entry["losses"]])
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ValueError(f"{self._file}, line {number}, is damaged: {error}; delete that line") from error
        if len(complete) < len(data):
            with self._file.open("r+b") as file:
                file.truncate(len(complete))


def to_json(loss: float) -> Any:
    """Returns a loss as JSON: a number, "nan", "inf" or "-inf"."""
    return loss if math.isfinite(loss) else str(loss)
