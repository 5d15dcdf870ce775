"""Answers of an oracle: the evaluation of one candidate, and the counts of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from nosbench_env.candidates.candidate import Evaluated
from nosbench_env.language.status import Status, loss_status

Source = Literal["trained", "store", "shipped", "probe"]


@dataclass(frozen=True, slots=True)
class Evaluation(Generic[Evaluated]):
    """What the oracle says about a program, or about an optimizer of a library.

    Attributes:
        program: The program, tuned program or `OptimizerConfig`, as asked.
        task: Name of the task.
        epochs: Length of the training asked for.
        seed: Seed of the training; 0 is the paper's.
        loss: Loss of the last epoch, in the task's unit (nats for "pfn" and the other tasks here): its mean training
            loss, each step's taken before its update, which is the paper's fitness; or for tasks that validate
            ("mlp"), the loss on what was left out, after it. NaN or inf if the program diverged.
        status: "ok", "nan" or "inf": what `loss` is.
        curve: Mean loss of each epoch from `first_epoch` on; empty if the probe already showed that the program
            diverges.
        key: The key of the result in the store: equal for programs taken to be equivalent.
        hit: Whether this was answered without training.
        source: "trained" now, known from the "store" or from the results "shipped" with the package, or diverged on the
            "probe".
        seconds: What the training took when it was done; 0 if there was none.
        provenance: Where the result comes from: the program that was trained, device, versions, date.
        first_epoch: The epoch of `curve[0]`, counted from 0. Not 0 if only the last epoch was asked for, and no more is
            known.
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
        """As JSON data; numbers that are not finite are None (`status` tells which they are)."""

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
    """How often the oracle was asked, and what it cost.

    Attributes:
        queries: Programs asked about.
        trained: Trainings done.
        stored: Queries answered from the store or the results that come with the package, by another program of the
            same call, or by another asker's training.
        diverged: Queries answered by the probe.
    """

    queries: int = 0
    trained: int = 0
    stored: int = 0
    diverged: int = 0

    @property
    def hit_rate(self) -> float:
        """The share of queries answered without training; NaN before the first (paper, Table 3)."""
        return (self.stored + self.diverged) / self.queries if self.queries else float("nan")

    @property
    def hit_rate_excluding_diverged(self) -> float:
        """The same without the queries that the probe answered (paper, Table 3, "excl. NaNs")."""
        asked = self.queries - self.diverged
        return self.stored / asked if asked else float("nan")
