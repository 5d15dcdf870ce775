"""`Evaluator`: the losses of programs and tuned programs over several seeds, each training done once."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nosbench_env.oracle import Oracle
from nosbench_env.postprocessing.tuned_program import TunedProgram
from nosbench_env.program import Program
from nosbench_env.tasks import check_epochs, check_seed

OnProgress = Callable[[int, int], None]
_CONFIDENCE = 0.95


class Evaluator:
    """Evaluates programs at several seeds.

    Programs go through the oracle, which keeps their results. A `TunedProgram` that is no program of the language is
    trained here, one at a time; its result is kept in a file, if one is named.

    Args:
        oracle: Evaluates programs, and has the task.
        epochs: Length of training; the task's default if None.
        seeds: Seeds of the trainings.
        file: JSON lines with the results of tuned programs; made when needed. None keeps none.
        on_progress: Is told how many evaluations are done, of how many asked for so far.

    Raises:
        ValueError: If `epochs` or a seed is out of range, there is no seed or one twice, or the file is damaged. A last
            line cut short by a kill is no damage: it is removed.
    """

    def __init__(
        self,
        oracle: Oracle,
        epochs: int | None = None,
        seeds: Iterable[int] = (0, 1, 2),
        file: Path | None = None,
        on_progress: OnProgress = lambda done, asked: None,
    ) -> None:
        self.oracle = oracle
        self.epochs = check_epochs(epochs) or oracle.task.default_epochs
        self.seeds = tuple(check_seed(seed) for seed in seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different numbers, got {self.seeds}")
        self._file, self._on_progress = file, on_progress
        self._known: dict[str, list[float]] = {} if file is None else _read(file)
        self._done = self._asked = 0

    def at(self, seeds: Iterable[int]) -> Evaluator:
        """The same at other seeds."""
        return Evaluator(self.oracle, self.epochs, seeds, self._file, self._on_progress)

    def losses(self, candidates: Sequence[Program | TunedProgram]) -> NDArray[np.float64]:
        """The loss of each at each seed, `(candidates, seeds)`; NaN or inf where it diverges."""
        return self.curves(candidates, last_epoch_only=True)[:, :, -1]

    def curves(
        self, candidates: Sequence[Program | TunedProgram], *, last_epoch_only: bool = False
    ) -> NDArray[np.float64]:
        """The mean loss of each epoch, `(candidates, seeds, epochs)`; NaN where it is not known.

        Args:
            candidates: What to evaluate.
            last_epoch_only: Whether only the last epoch is asked for, which can be less work; see `Oracle`.
        """
        curves = np.full((len(candidates), len(self.seeds), self.epochs), np.nan)
        self._asked += curves.shape[0] * curves.shape[1]
        self._progress(0)
        plain = [candidate.as_program() if isinstance(candidate, TunedProgram) else candidate for candidate in candidates]
        places = [place for place, program in enumerate(plain) if program is not None]
        programs = [program for program in plain if program is not None]
        for column, seed in enumerate(self.seeds):
            before = self._done
            evaluations = self.oracle.query_many(
                programs,
                self.epochs,
                seed,
                on_trained=lambda program, curve: self._progress(1),
                last_epoch_only=last_epoch_only,
            )
            self._progress(before + len(programs) - self._done)  # those that were known
            for place, evaluation in zip(places, evaluations, strict=True):
                curve = evaluation.curve[: self.epochs - evaluation.first_epoch]
                curves[place, column, self.epochs - len(curve) :] = curve
                curves[place, column, -1] = evaluation.loss
            for place, candidate in enumerate(candidates):
                if isinstance(candidate, TunedProgram) and plain[place] is None:
                    curves[place, column] = self._train(candidate, seed)
                    self._progress(1)
        return curves

    def _train(self, tuned: TunedProgram, seed: int) -> list[float]:
        task = self.oracle.task
        key = f"{task.name}-{task.version}/seed={seed}/{task.arithmetic}/{tuned.identity}"
        if len(self._known.get(key, ())) < self.epochs:
            started = time.perf_counter()
            means = task.train(tuned.optimizer, self.epochs, seed).epoch_means.tolist()
            self._known[key] = means
            if self._file is not None:
                line = {"key": key, **tuned.to_json(), "epoch_means": [_text(mean) for mean in means]}
                line["seconds"] = round(time.perf_counter() - started, 3)
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
        return self._known[key][: self.epochs]

    def _progress(self, more: int) -> None:
        self._done += more
        self._on_progress(self._done, self._asked)


def _text(value: float) -> Any:
    """A number as JSON data: itself, or "nan", "inf" or "-inf"."""
    return value if math.isfinite(value) else str(value)


def _read(file: Path) -> dict[str, list[float]]:
    """The longest curve of each key."""
    known: dict[str, list[float]] = {}
    if not file.exists():
        return known
    data = file.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            found = json.loads(line)
            key, means = found["key"], [float(mean) for mean in found["epoch_means"]]
            if not isinstance(key, str):
                raise ValueError(f"its key is {key!r}")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ValueError(f"{file}, line {number}, is damaged ({error}); delete that line or the file") from None
        if len(means) > len(known.get(key, ())):
            known[key] = means
    if len(complete) < len(data):
        with file.open("r+b") as opened:
            opened.truncate(len(complete))
    return known


@dataclass(frozen=True, slots=True)
class Change:
    """By how much losses differ from others at the same seeds; more is worse.

    Equal seeds mean equal data and initial weights, so differences are taken seed by seed.

    Attributes:
        differences: The difference at each seed; inf where it diverges.
    """

    differences: tuple[float, ...]

    @classmethod
    def between(cls, before: NDArray[np.float64], after: NDArray[np.float64]) -> Change:
        """The change from losses `(seeds,)` to others.

        Raises:
            ValueError: If those before are not all finite: there is nothing to compare with.
        """
        if not np.isfinite(before).all():
            raise ValueError("the program's own loss is not finite: there is nothing to compare with")
        return cls(tuple(np.where(np.isfinite(after), after - before, np.inf).tolist()))

    @property
    def diverged(self) -> int:
        """At how many seeds it diverges."""
        return sum(math.isinf(difference) for difference in self.differences)

    @property
    def mean(self) -> float:
        """The mean difference; inf if it diverges at any seed."""
        return math.inf if self.diverged else float(np.mean(self.differences))

    @property
    def deviation(self) -> float:
        """The standard deviation of the differences; NaN if it diverges or there is but one seed."""
        return math.nan if self.diverged or len(self.differences) < 2 else float(np.std(self.differences, ddof=1))

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of the mean (Student's t); NaN as `deviation`."""
        count = len(self.differences)
        if count < 2:
            return math.nan
        return float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) * self.deviation / math.sqrt(count)

    @property
    def verdict(self) -> str:
        """The change in words.

        "diverges", "the same" (to the last bit), "worse" or "better" where the interval excludes 0, or "unclear".
        """
        if self.diverged:
            return "diverges"
        if not any(self.differences):
            return "the same"
        if not abs(self.mean) > self.margin:
            return "unclear"
        return "worse" if self.mean > 0 else "better"

    def to_json(self) -> dict[str, Any]:
        """As JSON data; numbers that are not finite are None."""
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
        spread = "" if math.isnan(self.margin) else f" ±{self.margin:.4f}"
        return f"{self.mean:+.4f}{spread}"


def number(value: float) -> float | None:
    """A number for JSON: itself, or None if it is not finite."""
    return value if math.isfinite(value) else None
