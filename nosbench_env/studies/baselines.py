"""How good optimizers are, over several seeds: what `nosbench baselines` and `nosbench plot` show."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.evaluation import Evaluation
from nosbench_env.execution.settings import check_epochs
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.tasks.task import OnStep

OnScored = Callable[[str, Evaluation[Any]], None]

SCORE_FIELDS: Mapping[str, str] = {
    "rank": "Place by the mean loss, 1 for the lowest; those that fail with a seed come last.",
    "name": "Name of the optimizer.",
    "seeds": "Trainings.",
    "failed": "Trainings whose last epoch's mean is not finite.",
    "mean": "Mean of the losses; empty if a training failed.",
    "sd": "Their standard deviation (n - 1); empty with fewer than two.",
    "lowest": "The lowest loss.",
    "highest": "The highest loss.",
    "paper": "What the paper's code reaches at seed 0, where that is known.",
    "candidate": "What was trained with.",
}
CURVE_FIELDS = ("name", "seed", "epoch", "loss")


@dataclass(frozen=True, slots=True)
class Score:
    """An optimizer's evaluations, one for each seed.

    Attributes:
        name: What to call it.
        evaluations: In the order of the seeds.
        paper_loss: What the paper's code reaches, where that is known.
    """

    name: str
    evaluations: tuple[Evaluation[Candidate], ...]
    paper_loss: float | None = None

    @property
    def losses(self) -> NDArray[np.float64]:
        """The last epoch's mean of each training, `(seeds,)` float64; NaN or inf where it failed."""
        return np.array([evaluation.loss for evaluation in self.evaluations])

    @property
    def mean(self) -> float:
        """The mean loss; inf if a training failed, since an optimizer that may fail is worse than any that does not."""
        losses = self.losses
        return float(losses.mean()) if np.isfinite(losses).all() else math.inf

    @property
    def curves(self) -> NDArray[np.float64]:
        """The mean loss of each epoch, `(seeds, epochs)` float64; NaN where a training had failed."""
        epochs = max((evaluation.epochs for evaluation in self.evaluations), default=0)
        curves = np.full((len(self.evaluations), epochs), math.nan)
        for row, evaluation in zip(curves, self.evaluations, strict=True):
            known = evaluation.curve
            row[evaluation.first_epoch : evaluation.first_epoch + len(known)] = known
        return curves


def score(
    oracle: Oracle,
    candidates: Mapping[str, Candidate],
    *,
    epochs: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    paper_losses: Mapping[str, float | None] | None = None,
    on_step: OnStep | None = None,
    on_scored: OnScored | None = None,
) -> list[Score]:
    """Evaluates each candidate with each seed; the best first.

    Everything trained is stored at once, so that an interrupted call goes on where it was.

    Args:
        oracle: Evaluates.
        candidates: Programs and optimizers, by the names to call them.
        epochs: Length of training; the task's default if None.
        seeds: Seeds of the trainings.
        paper_losses: What the paper's code reaches, by name; only where it was measured on the same task and epochs.
        on_step: As in `Oracle.query_many`.
        on_scored: Called with a name and its evaluation with one seed.

    Raises:
        ValueError: If there are no candidates or no seeds, or as `Oracle.query_many` does.
    """
    if not candidates or not seeds:
        raise ValueError(f"expected one candidate and one seed or more, got {len(candidates)} and {len(seeds)}")
    epochs = check_epochs(epochs) or oracle.task.default_epochs
    found: dict[str, list[Evaluation[Candidate]]] = {name: [] for name in candidates}
    for seed in seeds:
        for name, evaluation in zip(
            candidates, oracle.query_many(list(candidates.values()), epochs, seed, on_step=on_step), strict=True
        ):
            found[name].append(evaluation)
            if on_scored is not None:
                on_scored(name, evaluation)
    known = paper_losses or {}
    scores = [Score(name, tuple(evaluations), known.get(name)) for name, evaluations in found.items()]
    return sorted(scores, key=lambda score: score.mean)


def score_rows(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The table, a row for each optimizer, with the fields of `SCORE_FIELDS`; None where there is no number."""
    rows = []
    for rank, found in enumerate(scores, start=1):
        losses = found.losses
        finite = losses[np.isfinite(losses)]
        whole = len(finite) == len(losses)
        rows.append(
            {
                "rank": rank,
                "name": found.name,
                "seeds": len(losses),
                "failed": len(losses) - len(finite),
                "mean": float(losses.mean()) if whole else None,
                "sd": float(losses.std(ddof=1)) if whole and len(losses) > 1 else None,
                "lowest": float(finite.min()) if len(finite) else None,
                "highest": float(finite.max()) if whole else None,
                "paper": found.paper_loss,
                "candidate": "; ".join(str(found.evaluations[0].program).splitlines()),
            }
        )
    return rows


def write_tables(scores: Sequence[Score], folder: Path) -> list[Path]:
    """Writes `scores.csv` and `curves.csv` to a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    curves = [
        {"name": found.name, "seed": evaluation.seed, "epoch": epoch, "loss": loss}
        for found in scores
        for evaluation in found.evaluations
        for epoch, loss in enumerate(evaluation.curve, start=evaluation.first_epoch + 1)
    ]
    paths = folder / "scores.csv", folder / "curves.csv"
    for path, fields, rows in zip(paths, (SCORE_FIELDS, CURVE_FIELDS), (score_rows(scores), curves), strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(fields), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return list(paths)
