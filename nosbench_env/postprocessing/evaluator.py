"""`Evaluator` and `Change`: losses over several seeds, and their differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.tuned_program import TunedProgram
from nosbench_env.execution.settings import check_epochs, check_seed
from nosbench_env.oracles.oracle import Oracle

OnProgress = Callable[[int, int], None]
_CONFIDENCE = 0.95


class Evaluator:
    """An oracle with several seeds.

    Args:
        oracle: The oracle, which keeps the results.
        epochs: Length of training; the task's default if None.
        seeds: Seeds of the trainings.
        on_progress: Called with the numbers of evaluations done and asked for so far.

    Raises:
        ValueError: If `epochs` or a seed is out of range, or there is no seed or a repeated one.
    """

    def __init__(
        self,
        oracle: Oracle,
        epochs: int | None = None,
        seeds: Iterable[int] = (0, 1, 2),
        on_progress: OnProgress = lambda done, asked: None,
    ) -> None:
        self.oracle = oracle
        self.epochs = check_epochs(epochs) or oracle.task.default_epochs
        self.seeds = tuple(check_seed(seed) for seed in seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {self.seeds}")
        self._on_progress = on_progress
        self._done = self._asked = 0

    def at(self, seeds: Iterable[int]) -> Evaluator:
        """Returns an evaluator with other seeds."""
        return Evaluator(self.oracle, self.epochs, seeds, self._on_progress)

    def losses(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """Returns the losses, `(candidates, seeds)`; NaN or inf where training diverges."""
        return self.curves(candidates, last_epoch_only=True)[:, :, -1]

    def curves(self, candidates: Sequence[Candidate], *, last_epoch_only: bool = False) -> NDArray[np.float64]:
        """Returns the mean loss of each epoch, `(candidates, seeds, epochs)`; NaN if unknown.

        Args:
            candidates: The candidates. A tuned program that the language can express is evaluated as a program.
            last_epoch_only: True to ask for the last epoch only, which can be less work; see `Oracle`.
        """
        asked = [_plainest(candidate) for candidate in candidates]
        curves = np.full((len(asked), len(self.seeds), self.epochs), np.nan)
        self._asked += len(asked) * len(self.seeds)
        for column, seed in enumerate(self.seeds):
            finished = self._done + len(asked)
            self._progress(0)
            evaluations = self.oracle.query_many(
                asked,
                self.epochs,
                seed,
                on_trained=lambda candidate, curve: self._progress(1),
                last_epoch_only=last_epoch_only,
            )
            self._progress(finished - self._done)  # the known results
            for row, evaluation in enumerate(evaluations):
                curves[row, column, self.epochs - len(evaluation.curve) :] = evaluation.curve
                curves[row, column, -1] = evaluation.loss
        return curves

    def _progress(self, more: int) -> None:
        self._done += more
        self._on_progress(self._done, self._asked)


@dataclass(frozen=True, slots=True)
class Change:
    """The differences between losses at the same seeds; positive is worse.

    Equal seeds mean equal data and initial weights, so differences are taken seed by seed.

    Attributes:
        differences: The difference at each seed; inf where training diverges.
    """

    differences: tuple[float, ...]

    @classmethod
    def between(cls, before: NDArray[np.float64], after: NDArray[np.float64]) -> Change:
        """Returns the change from losses `(seeds,)` to other losses.

        Raises:
            ValueError: If the losses before are not all finite.
        """
        if not np.isfinite(before).all():
            raise ValueError("the program's own loss is not finite: there is nothing to compare with")
        return cls(tuple(np.where(np.isfinite(after), after - before, np.inf).tolist()))

    @property
    def diverged(self) -> int:
        """The number of seeds with divergence."""
        return sum(math.isinf(difference) for difference in self.differences)

    @property
    def mean(self) -> float:
        """The mean difference; inf if training diverges at any seed."""
        return math.inf if self.diverged else float(np.mean(self.differences))

    @property
    def deviation(self) -> float:
        """The differences' standard deviation; NaN if diverged or with one seed."""
        return math.nan if self.diverged or len(self.differences) < 2 else float(np.std(self.differences, ddof=1))

    @property
    def margin(self) -> float:
        """Half the mean's 95 % interval (Student's t); NaN if `deviation` is."""
        count = len(self.differences)
        if count < 2:
            return math.nan
        return float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) * self.deviation / math.sqrt(count)

    @property
    def verdict(self) -> str:
        """The verdict in words.

        It is "diverges"; "the same" (to the last bit, or by the oracle's identity); "worse" or "better" if the interval
        excludes 0; the same with "at each seed" if it does not but all signs agree; or "unclear".
        """
        if self.diverged:
            return "diverges"
        if not any(self.differences):
            return "the same"
        clear = abs(self.mean) > self.margin
        if clear or min(self.differences) > 0 or max(self.differences) < 0:
            return ("worse" if self.mean > 0 else "better") + " at each seed" * (not clear)
        return "unclear"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data; numbers that are not finite are None."""
        return {
            "mean": number(self.mean),
            "standard_deviation": number(self.deviation),
            "margin_95": number(self.margin),
            "differences": [number(difference) for difference in self.differences],
            "diverged": self.diverged,
            "verdict": self.verdict,
        }

    def __str__(self) -> str:
        if self.diverged:
            return f"diverges ({self.diverged} of {len(self.differences)})"
        form = ".4f" if 1e-3 <= max(abs(self.mean), self.margin) < 1e3 or not any(self.differences) else ".2g"
        return f"{self.mean:+{form}}" + ("" if math.isnan(self.margin) else f" ±{self.margin:{form}}")


def number(value: float) -> float | None:
    """Returns a number for JSON; None if it is not finite."""
    return value if math.isfinite(value) else None


def _plainest(candidate: Candidate) -> Candidate:
    program = candidate.as_program() if isinstance(candidate, TunedProgram) else None
    return candidate if program is None else program
