"""The paper's Figure 5: update norms, proxy and task curves."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from nosbench_env.identity.paper_proxy import PROXY_STEPS
from nosbench_env.studies.figure5_training import train_on_proxy, train_with_norms
from nosbench_env.studies.processes import do_jobs
from nosbench_env.studies.settings import DEFAULT_RESOURCES, Resources, StudySettings
from nosbench_env.studies.study_folder import Row, StudyError, StudyFolder, finite, made_by
from nosbench_env.studies.trainings import to_json
from nosbench_env.tasks import make_task, task_class

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
            "seed": "Seed of the proxy's random tensors; 0 is the paper's.",
            "step": "Number of the step, from 1.",
            "loss": "Loss on the proxy before the update of this step.",
        },
        "figure5.csv": {
            "candidate": "Name of the optimizer.",
            "seeds": "Number of trainings, and of trainings on the proxy.",
            "final loss": "Mean training loss of the last epoch, over the seeds.",
            "final loss std": "Standard deviation over the seeds (n - 1); nan for a single one.",
            "update norm": "Mean update norm of all steps, over the seeds.",
            "first epoch's": "Mean update norm of the first epoch.",
            "last epoch's": "Mean update norm of the last epoch.",
            "proxy after 10": f"Loss on the proxy after {PROXY_STEPS - 1} updates, the last that the paper's "
            "fingerprint uses; mean over the seeds.",
            "proxy at the end": "The last loss on the proxy; mean over the seeds.",
        },
    }
)


@dataclass(frozen=True)
class Figure5Settings(StudySettings):
    """The content and the size of Figure 5.

    Each optimizer has a training with each seed, on the task and on the proxy.

    Attributes:
        proxy_steps: Number of losses on the proxy; the paper's fingerprint uses 10.

    Raises:
        ValueError: If an integer is not positive, or the task is unknown.
    """

    epochs: int = 20
    proxy_steps: int = 100


# The paper trains for 20 epochs (Appendix F). It states neither the number of seeds nor the steps on the proxy.
SIZES: Mapping[str, Figure5Settings] = MappingProxyType(
    {
        "minutes": Figure5Settings(task="toy"),
        "machine": Figure5Settings(),
        "paper": Figure5Settings(seeds=10),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """The results of a training with one optimizer.

    Attributes:
        name: Name of the optimizer.
        seed: Seed of the training.
        update_norms: `(steps,)` float64; see `train_with_norms`.
        epoch_means: `(epochs,)` float64.
    """

    name: str
    seed: int
    update_norms: Floats
    epoch_means: Floats


@dataclass(frozen=True, slots=True)
class _Trainings:
    """Trainings on the task, each in its own file."""

    folder: Path
    task: str
    device: str
    epochs: int

    def train(self, candidate: Candidate, seed: int, on_step: Callable[[], None]) -> None:
        """Trains and writes the file.

        Calls `on_step` after each step. An unfinished training starts anew.
        """
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
        StudyFolder(self.folder).write(self.file(candidate, seed).name, json.dumps(data, allow_nan=False) + "\n")

    def read(self, name: str, candidate: Candidate, seed: int) -> Watched:
        """Reads the results of a training.

        Raises:
            StudyError: If the file is damaged.
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
        """Returns the file of a training, independent of the optimizer's name."""
        digest = hashlib.sha256(json.dumps(candidate.to_json(), sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{digest}-{seed}.json"


class Figure5Study:
    """The trainings of Figure 5, and its tables, in a folder.

    A training in the folder is not repeated.

    Args:
        folder: The folder.
        settings: The settings.
        candidates: The optimizers by name; the paper's if None.
        resources: The resources; the study has no store.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: Figure5Settings,
        candidates: Mapping[str, Candidate] | None = None,
        resources: Resources = DEFAULT_RESOURCES,
    ) -> None:
        self.files, self.settings, self._resources = StudyFolder(folder), settings, resources
        self.candidates = dict(candidates or {name: BASELINES[name].candidate for name in PAPER_CANDIDATES})
        self._trainings = _Trainings(self.files.path / "trainings", settings.task, resources.device, settings.epochs)

    def run(self) -> list[Row]:
        """Trains as needed, writes the tables, and returns a row per optimizer.

        Raises:
            StudyError: If the folder belongs to another study, is in use or damaged.
            JobError: If a training fails in its process.
            ValueError: If the library of an optimizer is not installed, or rejects its hyperparameters.
        """
        for name, candidate in self.candidates.items():
            if isinstance(candidate, OptimizerConfig) and (missing := candidate.missing()) is not None:
                raise ValueError(f"{name} {missing}")
        seeds = range(self.settings.seeds)
        with self.files.opened({"figure": 5, "task": self.settings.task, "epochs": self.settings.epochs}):
            self._train()
            watched = [
                self._trainings.read(name, candidate, seed)
                for name, candidate in self.candidates.items()
                for seed in seeds
            ]
            proxy = {
                name: np.array([train_on_proxy(candidate, self.settings.proxy_steps, seed) for seed in seeds])
                for name, candidate in self.candidates.items()
            }
            return self._write(watched, proxy)

    def _train(self) -> None:
        """Does the missing trainings."""
        every = [(candidate, seed) for seed in range(self.settings.seeds) for candidate in self.candidates.values()]
        waiting = [training for training in every if not self._trainings.file(*training).exists()]
        if not waiting:
            return
        self._resources.report(f"{len(waiting)} of {len(every)} trainings to do")

        def progress() -> str:
            done = sum(self._trainings.file(*training).exists() for training in waiting)
            return f"{done} of {len(waiting)} trainings done"

        jobs = [partial(self._trainings.train, *training) for training in waiting]
        do_jobs(jobs, self._resources.workers, self._resources.report, progress)

    def _write(self, watched: Sequence[Watched], proxy: Mapping[str, Floats]) -> list[Row]:
        summary = [self._row(name, [w for w in watched if w.name == name], losses) for name, losses in proxy.items()]
        norms = [(training.name, training.seed, training.update_norms) for training in watched]
        means = [(training.name, training.seed, training.epoch_means) for training in watched]
        losses = [(name, seed, curve) for name, curves in proxy.items() for seed, curve in enumerate(curves)]
        self.files.write_csv("figure5.csv", summary)
        for name, curves in (("update_norms", norms), ("task_curves", means), ("proxy_curves", losses)):
            file = f"figure5_{name}.csv"
            self.files.write_csv(file, list(_curve_rows(file, curves)))
        self.files.write_json(
            "figure5.json",
            {
                "figure": 5,
                "settings": asdict(self.settings),
                "candidates": {name: candidate.to_json() for name, candidate in self.candidates.items()},
                "made_by": made_by(make_task(self.settings.task, self._resources.device).device),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "table": [finite(row) for row in summary],
                "fields": {name: dict(fields) for name, fields in FIELDS.items()},
            },
        )
        return summary

    def _row(self, name: str, watched: Sequence[Watched], proxy: Floats) -> Row:
        """Returns an optimizer's row, with NaN means after a failed training."""
        finals = np.array([training.epoch_means[-1] for training in watched])
        norms = np.array([training.update_norms for training in watched])
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


def _curve_rows(file: str, curves: Sequence[tuple[str, int, Floats]]) -> Iterator[Row]:
    """Yields rows of curves with optimizer and seed; see `FIELDS`."""
    for name, seed, curve in curves:
        for number, value in enumerate(curve.tolist(), start=1):
            yield dict(zip(FIELDS[file], (name, seed, number, value), strict=True))
