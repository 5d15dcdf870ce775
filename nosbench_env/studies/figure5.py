"""The paper's Figure 5: how far optimizers move in each step, and their curves on the proxy and on the task."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nosbench_env.candidates.baselines import BASELINES
from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.execution.settings import check_device_name, check_epochs
from nosbench_env.identity.paper_proxy import PROXY_STEPS
from nosbench_env.studies.figure5_training import train_on_proxy, train_with_norms
from nosbench_env.studies.made_by import made_by
from nosbench_env.studies.processes import JobError, Report, Reporter, end_with_parent, in_processes
from nosbench_env.studies.study_folder import Row, StudyError, StudyFolder, finite
from nosbench_env.studies.trainings import to_json
from nosbench_env.tasks import check_task_name, make_task, task_class
from nosbench_env.tasks.worker_pool import check_workers

PAPER_CANDIDATES = ("Incumbent", "AdamW", "Adadelta")  # Appendix E

Floats = NDArray[np.float64]

FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "figure5_update_norms.csv": {
            "candidate": "Name of the optimizer.",
            "seed": "Seed of the training.",
            "step": "Number of the step, from 1.",
            "update_norm": "Euclidean norm of the change of all parameters in this step, taken as one vector.",
        },
        "figure5_task_curves.csv": {
            "candidate": "Name of the optimizer.",
            "seed": "Seed of the training.",
            "epoch": "Number of the epoch, from 1.",
            "loss": "Mean training loss of the epoch's steps, each before its update.",
        },
        "figure5_proxy_curves.csv": {
            "candidate": "Name of the optimizer.",
            "seed": "Seed of what the proxy draws; 0 is the paper's.",
            "step": "Number of the step, from 1.",
            "loss": "The proxy's loss before this step's update.",
        },
        "figure5.csv": {
            "candidate": "Name of the optimizer.",
            "seeds": "Trainings, and draws of the proxy.",
            "final loss": "Mean training loss of the last epoch, over the seeds.",
            "final loss std": "Standard deviation over the seeds (n - 1); nan for a single one.",
            "update norm": "Mean update norm of all steps, over the seeds.",
            "first epoch's": "Mean update norm of the first epoch.",
            "last epoch's": "Mean update norm of the last epoch.",
            "proxy after 10": f"The proxy's loss after {PROXY_STEPS - 1} updates, the last that the paper's "
            "fingerprint looks at; mean over the seeds.",
            "proxy at the end": "The proxy's last loss; mean over the seeds.",
        },
    }
)


@dataclass(frozen=True, slots=True)
class Figure5Settings:
    """What Figure 5 shows.

    Attributes:
        task: Name of the task.
        epochs: Length of its trainings.
        seeds: Trainings with each optimizer: with seeds 0, 1, ...
        proxy_steps: How many losses on the proxy; the paper's fingerprint looks at 10.

    Raises:
        ValueError: If a number is not positive, or the task is unknown.
    """

    task: str = "pfn"
    epochs: int = 20
    seeds: int = 3
    proxy_steps: int = 100

    def __post_init__(self) -> None:
        check_task_name(self.task)
        check_epochs(self.epochs)
        for name in ("seeds", "proxy_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")


# The paper trains for 20 epochs (Appendix F); it does not say over how many seeds, nor how far on the proxy.
SIZES: Mapping[str, Figure5Settings] = MappingProxyType(
    {
        "minutes": Figure5Settings(task="toy"),
        "machine": Figure5Settings(),
        "paper": Figure5Settings(seeds=10),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What one training with one optimizer showed.

    Attributes:
        name: What the optimizer is called.
        seed: Of the training.
        update_norms: `(steps,)` float64; see `train_with_norms`.
        epoch_means: `(epochs,)` float64.
    """

    name: str
    seed: int
    update_norms: Floats
    epoch_means: Floats


@dataclass(frozen=True, slots=True)
class _Trainings:
    """Trains one at a time, and keeps each in a file of its own."""

    folder: Path
    task: str
    device: str
    epochs: int

    def train(self, candidate: Candidate, seed: int, on_step: Callable[[], None]) -> None:
        """Trains and writes the file, calling `on_step` after each step. What was not finished begins anew."""
        task = make_task(self.task, self.device)
        curve, norms = train_with_norms(task, candidate, self.epochs, seed, on_step=lambda progress: on_step())
        data = {
            "candidate": candidate.to_json(),
            "task": task.name,
            "task_version": task.version,
            "epochs": self.epochs,
            "seed": seed,
            "update_norms": list(map(to_json, norms.tolist())),
            "epoch_means": list(map(to_json, curve.epoch_means.tolist())),
            "made_by": made_by(task.device),
        }
        files, name = StudyFolder(self.folder), self.file(candidate, seed).name
        files.write_text(name, json.dumps(data, allow_nan=False) + "\n")

    def read(self, name: str, candidate: Candidate, seed: int) -> Watched:
        """What a training showed.

        Raises:
            StudyError: If its file is damaged.
        """
        path = self.file(candidate, seed)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if (data["candidate"], data["seed"], data["epochs"]) != (candidate.to_json(), seed, self.epochs):
                raise ValueError("it holds another training")
            if (data["task"], data["task_version"]) != (self.task, version := task_class(self.task).version):
                raise ValueError(f"it is of version {data['task_version']} of the task, here is version {version}")
            norms, means = (np.array(list(map(float, data[key]))) for key in ("update_norms", "epoch_means"))
            if len(means) != self.epochs or len(norms) % self.epochs:
                raise ValueError(f"it holds {len(means)} epochs and {len(norms)} steps")
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise StudyError(f"{path} is damaged: {error}; delete it to train again") from error
        return Watched(name, seed, norms, means)

    def file(self, candidate: Candidate, seed: int) -> Path:
        """The file of a training; the same for an optimizer whatever it is called."""
        digest = hashlib.sha256(json.dumps(candidate.to_json(), sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{digest}-{seed}.json"


class Figure5Study:
    """The trainings of Figure 5, its tables and what they show; all kept in a folder.

    A training that is in the folder is not done again.

    Args:
        folder: Where all is kept.
        settings: What is shown.
        candidates: The optimizers, by the names to call them; the paper's if None.
        device: Where to train.
        workers: How many trainings at once, each in a process of its own.
        report: Is told how far it is.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: Figure5Settings,
        candidates: Mapping[str, Candidate] | None = None,
        *,
        device: str = "auto",
        workers: int = 1,
        report: Report = lambda text: None,
    ) -> None:
        self.files = StudyFolder(folder, "--output")
        self.settings = settings
        self.candidates = dict(candidates or {name: BASELINES[name].candidate for name in PAPER_CANDIDATES})
        self._device, self._workers, self._report = check_device_name(device), check_workers(workers), report
        self._trainings = _Trainings(self.files.path / "trainings", settings.task, device, settings.epochs)

    def run(self) -> list[Row]:
        """Trains what is not trained yet, writes the tables, and returns the summary: a row for each optimizer.

        Raises:
            StudyError: If the folder belongs to another study, is in use or damaged.
            ValueError: If an optimizer's library is not installed, or refuses its hyperparameters.
        """
        for name, candidate in self.candidates.items():
            if isinstance(candidate, OptimizerConfig) and (missing := candidate.missing()) is not None:
                raise ValueError(f"{name} {missing}")
        with self.files.opened({"figure": 5, "task": self.settings.task, "epochs": self.settings.epochs}):
            self._train()
            watched = [
                self._trainings.read(name, candidate, seed)
                for name, candidate in self.candidates.items()
                for seed in range(self.settings.seeds)
            ]
            proxy = {
                name: np.array(
                    [train_on_proxy(candidate, self.settings.proxy_steps, seed) for seed in range(self.settings.seeds)]
                )
                for name, candidate in self.candidates.items()
            }
            return self._write(watched, proxy)

    def _train(self) -> None:
        waiting = [
            (candidate, seed)
            for seed in range(self.settings.seeds)
            for candidate in self.candidates.values()
            if not self._trainings.file(candidate, seed).exists()
        ]
        if not waiting:
            return
        total = len(waiting)
        self._report(f"{total} of {len(self.candidates) * self.settings.seeds} trainings to do")
        reporter = Reporter(self._report)

        def progress() -> str:
            done = sum(self._trainings.file(candidate, seed).exists() for candidate, seed in waiting)
            return f"{done} of {total} trainings done"

        def tell() -> None:
            reporter.tell(progress)

        # A training in this process tells how far it is itself.
        on_step = tell if min(self._workers, total) == 1 else end_with_parent
        jobs = [partial(self._trainings.train, candidate, seed, on_step) for candidate, seed in waiting]
        try:
            in_processes(jobs, self._workers, tell)
        except JobError as error:
            raise StudyError(f"a training failed: {error}") from None

    def _write(self, watched: Sequence[Watched], proxy: Mapping[str, Floats]) -> list[Row]:
        summary = [self._row(name, [w for w in watched if w.name == name], losses) for name, losses in proxy.items()]
        self.files.write_csv("figure5.csv", summary)
        self.files.write_csv(
            "figure5_update_norms.csv",
            [
                {"candidate": found.name, "seed": found.seed, "step": step, "update_norm": norm}
                for found in watched
                for step, norm in enumerate(found.update_norms.tolist(), start=1)
            ],
        )
        self.files.write_csv(
            "figure5_task_curves.csv",
            [
                {"candidate": found.name, "seed": found.seed, "epoch": epoch, "loss": loss}
                for found in watched
                for epoch, loss in enumerate(found.epoch_means.tolist(), start=1)
            ],
        )
        self.files.write_csv(
            "figure5_proxy_curves.csv",
            [
                {"candidate": name, "seed": seed, "step": step, "loss": loss}
                for name, of_seeds in proxy.items()
                for seed, losses in enumerate(of_seeds.tolist())
                for step, loss in enumerate(losses, start=1)
            ],
        )
        self.files.write_json(
            "figure5.json",
            {
                "figure": 5,
                "settings": asdict(self.settings),
                "candidates": {name: candidate.to_json() for name, candidate in self.candidates.items()},
                "made_by": made_by(make_task(self.settings.task, self._device).device),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "table": [finite(row) for row in summary],
                "fields": {name: dict(fields) for name, fields in FIELDS.items()},
            },
        )
        return summary

    def _row(self, name: str, watched: Sequence[Watched], proxy: Floats) -> Row:
        """The row of an optimizer; a failed training makes its means NaN."""
        finals = np.array([found.epoch_means[-1] for found in watched])
        norms = np.array([found.update_norms for found in watched])
        steps = norms.shape[1] // self.settings.epochs
        seen = min(PROXY_STEPS, proxy.shape[1])
        return {
            "candidate": name,
            "seeds": len(watched),
            "final loss": float(finals.mean()),
            "final loss std": float(finals.std(ddof=1)) if len(finals) > 1 else math.nan,
            "update norm": float(norms.mean()),
            "first epoch's": float(norms[:, :steps].mean()),
            "last epoch's": float(norms[:, -steps:].mean()),
            "proxy after 10": float(proxy[:, seen - 1].mean()),
            "proxy at the end": float(proxy[:, -1].mean()),
        }
