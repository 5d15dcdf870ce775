"""An oracle's answers: the evaluation of a candidate, and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from nosbench_env.candidates.candidate import Evaluated
from nosbench_env.language.status import Status, loss_status

Source = Literal["trained", "store", "shipped", "probe"]


@dataclass(frozen=True, slots=True)
class Evaluation(Generic[Evaluated]):
    """The oracle's answer about a program or an optimizer of a library.

    Attributes:
        program: The program, tuned program or `OptimizerConfig`, as asked.
        task: Name of the task.
        epochs: Length of the training asked for.
        seed: Seed of the training; 0 is the paper's.
        loss: Loss of the last epoch, in the task's unit (nats for "pfn" and most other tasks). It is the epoch's mean
            training loss, with each step's loss taken before its update, which is the paper's fitness. Tasks that
            validate ("mlp") report the loss on held-out data after the epoch. NaN or inf if the program diverged.
        status: "ok", "nan" or "inf", from the loss.
        curve: Mean loss of each epoch from `first_epoch` on; empty if the program diverges on the probe.
        key: The key of the result in the store, shared by equivalent programs.
        hit: True if this was answered without training.
        source: "trained" now, known from the "store" or from the results "shipped" with the package, or diverged on the
            "probe".
        seconds: Duration of the training when it was done; 0 if there was none.
        provenance: The origin of the result: the program that was trained, device, versions, date.
        first_epoch: The epoch of `curve[0]`, counted from 0. It is not 0 if only the last epoch was asked for and no
            other is known.
    """

    program: Evaluated
    task: str
    epochs: int
    seed: int
    loss: float
    status: Status
    curve: tuple[float, ...]
    key: str
    hit: bool
    source: Source
    seconds: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    first_epoch: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data, with None for non-finite numbers."""

        def number(value: float) -> float | None:
            return value if loss_status(value) == "ok" else None

        return {
            "program": self.program.to_json(),
            "task": self.task,
            "epochs": self.epochs,
            "seed": self.seed,
            "loss": number(self.loss),
            "status": self.status,
            "curve": [number(mean) for mean in self.curve],
            "first_epoch": self.first_epoch,
            "key": self.key,
            "hit": self.hit,
            "source": self.source,
            "seconds": self.seconds,
            "provenance": dict(self.provenance),
        }


@dataclass(slots=True)
class Statistics:
    """Counts of an oracle's queries by source of the answer.

    Attributes:
        queries: All queries.
        trained: Trainings done.
        stored: Queries answered from the store or the shipped results, by another program of the same call, or by
            another asker's training.
        diverged: Queries answered by the probe.
    """

    queries: int = 0
    trained: int = 0
    stored: int = 0
    diverged: int = 0

    def count(self, source: Source) -> None:
        """Counts one query."""
        self.queries += 1
        self.trained += source == "trained"
        self.stored += source in ("store", "shipped")
        self.diverged += source == "probe"

    @property
    def hit_rate(self) -> float:
        """The share of queries answered without training (Table 3); initially NaN."""
        return (self.stored + self.diverged) / self.queries if self.queries else float("nan")

    @property
    def hit_rate_excluding_diverged(self) -> float:
        """The hit rate without queries answered by the probe (Table 3, "excl. NaNs")."""
        asked = self.queries - self.diverged
        return self.stored / asked if asked else float("nan")
