"""Scores of optimizers over several seeds, for `nosbench baselines` and `nosbench plot`."""

from __future__ import annotations

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
from nosbench_env.studies.study_folder import Row, StudyFolder
from nosbench_env.tasks.task import OnStep

OnScored = Callable[[str, Evaluation[Any]], None]

SCORE_FIELDS: Mapping[str, str] = {
    "rank": "Rank by the mean loss, 1 for the lowest; optimizers that fail with a seed come last.",
    "name": "Name of the optimizer.",
    "seeds": "Number of trainings.",
    "failed": "Number of trainings whose last epoch has no finite mean.",
    "mean": "Mean of the losses; empty if a training failed.",
    "sd": "Their standard deviation (n - 1); empty with fewer than two.",
    "lowest": "The lowest loss.",
    "highest": "The highest loss.",
    "paper": "Loss of the paper's code at seed 0, if known.",
    "candidate": "The optimizer.",
}
CURVE_FIELDS = ("name", "seed", "epoch", "loss")


@dataclass(frozen=True, slots=True)
class Score:
    """An optimizer's evaluations, one for each seed.

    Attributes:
        name: Name of the optimizer.
        evaluations: The evaluations, in the order of the seeds.
        paper_loss: The loss of the paper's code, if known.
    """

    name: str
    evaluations: tuple[Evaluation[Candidate], ...]
    paper_loss: float | None = None

    @property
    def losses(self) -> NDArray[np.float64]:
        """The last epoch's mean losses, `(seeds,)` float64; NaN or inf after failure."""
        return np.array([evaluation.loss for evaluation in self.evaluations])

    @property
    def mean(self) -> float:
        """The mean loss; inf if a training failed.

        So an optimizer that may fail ranks below all that do not.
        """
        losses = self.losses
        return float(losses.mean()) if np.isfinite(losses).all() else math.inf

    @property
    def curves(self) -> NDArray[np.float64]:
        """The mean loss of each epoch, `(seeds, epochs)` float64; NaN after a failure."""
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
    """Evaluates each candidate with each seed; returns scores, best first.

    Each training is stored when it ends, so a call that was interrupted can be repeated at no further cost.

    Args:
        oracle: The oracle.
        candidates: Programs and optimizers, by name.
        epochs: Length of training; the task's default if None.
        seeds: Seeds of the trainings.
        paper_losses: The losses of the paper's code, by name; only if measured on the same task and epochs.
        on_step: As in `Oracle.query_many`.
        on_scored: Called with each name and evaluation.

    Raises:
        ValueError: If there are no candidates or no seeds, or as `Oracle.query_many` does.
    """
    if not candidates or not seeds:
        raise ValueError(f"expected at least one candidate and one seed, got {len(candidates)} and {len(seeds)}")
    epochs = check_epochs(epochs) or oracle.task.default_epochs
    evaluations: dict[str, list[Evaluation[Candidate]]] = {name: [] for name in candidates}
    for seed in seeds:
        for name, evaluation in zip(
            candidates, oracle.query_many(list(candidates.values()), epochs, seed, on_step=on_step), strict=True
        ):
            evaluations[name].append(evaluation)
            if on_scored is not None:
                on_scored(name, evaluation)
    papers = paper_losses or {}
    scores = [Score(name, tuple(of_seeds), papers.get(name)) for name, of_seeds in evaluations.items()]
    return sorted(scores, key=lambda score: score.mean)


def score_rows(scores: Sequence[Score]) -> list[Row]:
    """Returns a row for each optimizer, with the fields of `SCORE_FIELDS`.

    Missing numbers are None.
    """
    rows = []
    for rank, scored in enumerate(scores, start=1):
        losses = scored.losses
        finite = losses[np.isfinite(losses)]
        whole = len(finite) == len(losses)
        rows.append(
            {
                "rank": rank,
                "name": scored.name,
                "seeds": len(losses),
                "failed": len(losses) - len(finite),
                "mean": float(losses.mean()) if whole else None,
                "sd": float(losses.std(ddof=1)) if whole and len(losses) > 1 else None,
                "lowest": float(finite.min()) if len(finite) else None,
                "highest": float(finite.max()) if whole else None,
                "paper": scored.paper_loss,
                "candidate": "; ".join(str(scored.evaluations[0].program).splitlines()),
            }
        )
    return rows


def write_tables(scores: Sequence[Score], folder: Path) -> list[Path]:
    """Writes `scores.csv` and `curves.csv` to a folder; returns their paths."""
    curves = [
        {"name": scored.name, "seed": evaluation.seed, "epoch": epoch, "loss": loss}
        for scored in scores
        for evaluation in scored.evaluations
        for epoch, loss in enumerate(evaluation.curve, start=evaluation.first_epoch + 1)
    ]
    files = StudyFolder(folder)
    files.write_csv("scores.csv", score_rows(scores), list(SCORE_FIELDS))
    files.write_csv("curves.csv", curves, CURVE_FIELDS)
    return [folder / "scores.csv", folder / "curves.csv"]
