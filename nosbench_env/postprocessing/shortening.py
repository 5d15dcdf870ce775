"""Shortening a program in stages, with a proof of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nosbench_env.candidates.tuned_program import TunedProgram
from nosbench_env.identity.identify import identify
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program, check_program
from nosbench_env.postprocessing.evaluator import Change, Evaluator, number
from nosbench_env.postprocessing.replacements import Replacement, replacements
from nosbench_env.tasks.task import Task, probe_of

Verdict = Literal["equal to the last bit", "equal up to rounding", "different"]

# Training amplifies rounding errors by a factor that depends on program, task and length. It is measured: the same
# program is trained with updates larger and smaller by the last bit of a float32. A shorter program rounds differently
# at several places of a step, these at one, so up to ten times their effect counts as rounding. (Tuned programs are
# trained without fused kernels, which also rounds differently.)
_LAST_BIT = 2.0**-23
_ROUNDINGS = 10.0


@dataclass(frozen=True, slots=True)
class TrainingProof:
    """The comparison of two programs by training at the same seeds.

    Attributes:
        difference: The largest difference of an epoch's mean loss at any seed; inf if only one of them diverges.
        rounding: The same difference between the original and itself with updates that differ in their last bit; NaN
            if `difference` is 0, where it is not needed.
    """

    difference: float
    rounding: float

    @property
    def verdict(self) -> Verdict:
        """The verdict in words."""
        if self.difference == 0:
            return "equal to the last bit"
        # An infinite `rounding`, if rounding alone makes the program diverge, proves nothing.
        explained = math.isfinite(self.rounding) and self.difference <= _ROUNDINGS * self.rounding
        return "equal up to rounding" if explained else "different"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data; numbers that are not finite are None."""
        return {
            "difference": number(self.difference),
            "rounding": number(self.rounding),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class ShorteningStep:
    """The removal of an instruction.

    Attributes:
        replacement: The replacement; its line number is that in the program of the step before.
        change: The change of loss from the original program, if it was the reason; else None.
    """

    replacement: Replacement
    change: Change | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data."""
        data: dict[str, Any] = {
            "line": self.replacement.line,
            "instruction": str(self.replacement.instruction),
            "by": self.replacement.by,
            "program": self.replacement.program.to_json(),
        }
        return data if self.change is None else data | {"change": self.change.to_json()}


@dataclass(frozen=True, slots=True)
class Shortening:
    """A shortened program, in three stages of certainty.

    Attributes:
        original: The program.
        canonical: The program simplified: certainly equal, with the same canonical form.
        probed: A shorter program with the same fingerprint on the task.
        steps: The steps from `canonical` to `probed`.
        training: The proof of the last step by training; None if there was no step.
        refused: Steps that keep the fingerprint but fail in training, each with its proof.
        approximate: Further steps that raise the loss by at most the tolerance. Their results are not equal.
        behaviour: The end of training by the probe: "ok", "nan" or "inf".
    """

    original: Program
    canonical: Program
    probed: Program
    steps: tuple[ShorteningStep, ...]
    training: TrainingProof | None
    refused: tuple[tuple[ShorteningStep, TrainingProof], ...]
    approximate: tuple[ShorteningStep, ...]
    behaviour: str

    @property
    def approximated(self) -> Program:
        """The program after all steps, including approximate ones."""
        return self.approximate[-1].replacement.program if self.approximate else self.probed

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data."""
        return {
            "original": self.original.to_json(),
            "canonical": self.canonical.to_json(),
            "probed": self.probed.to_json(),
            "steps": [step.to_json() for step in self.steps],
            "training": None if self.training is None else self.training.to_json(),
            "refused": [step.to_json() | {"training": proof.to_json()} for step, proof in self.refused],
            "approximate": [step.to_json() for step in self.approximate],
            "approximated": self.approximated.to_json(),
            "probe": self.behaviour,
        }


def shorten(program: Program, evaluator: Evaluator, tolerance: float | None = None) -> Shortening:
    """Removes the unneeded instructions of a program, with a proof for each.

    The first stage is `program.simplified()`, which is certainly equal. The second stage removes instructions one at a
    time, with an input in place of the value, if that keeps the fingerprint on the task. Both programs are trained, and
    steps are taken back until losses are equal to the last bit or up to rounding. The effect of rounding is measured by
    trainings in which each update differs in its last bit. For a program that diverges on the probe only the first
    stage is done.

    Args:
        program: The program.
        evaluator: The evaluator, with its seeds. Its oracle must separate programs by canonical form; otherwise it
            would presuppose the equality to be proven.
        tolerance: If given, a third stage removes instructions while the mean loss is at most this much above the
            original's. The result is an approximation.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the oracle's identity is not "canonical", or the tolerance is negative, or there is one and the
            program's own loss is not finite.
    """
    if evaluator.oracle.identity != "canonical":
        raise ValueError(
            f"the oracle must have identity='canonical' to separate these programs, got {evaluator.oracle.identity!r}"
        )
    if tolerance is not None and not 0 <= tolerance < np.inf:
        raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")
    canonical = check_program(program).simplified()
    _, behaviour = identify(canonical, "fingerprint", probe_of(evaluator.oracle.task))
    steps = _probed_steps(canonical, evaluator.oracle.task) if behaviour == "ok" else []
    proof, refused = None, []
    if steps:
        measure = _Measure(canonical, evaluator)
        while steps and (proof := measure.compare(steps[-1].replacement.program)).verdict == "different":
            refused.append((steps.pop(), proof))
        proof = proof if steps else None
    probed = steps[-1].replacement.program if steps else canonical
    approximate = [] if tolerance is None else _approximate_steps(canonical, probed, evaluator, tolerance)
    return Shortening(program, canonical, probed, tuple(steps), proof, tuple(refused), tuple(approximate), behaviour)


def _probed_steps(program: Program, task: Task) -> list[ShorteningStep]:
    """Removes instructions one by one, keeping the fingerprint."""
    wanted = identify(program, "fingerprint", probe_of(task))
    steps: list[ShorteningStep] = []
    while True:
        shorter = [
            way
            for way in replacements(program)
            if len(way.program) < len(program) and identify(way.program, "fingerprint", probe_of(task)) == wanted
        ]
        if not shorter:
            return steps
        best = min(shorter, key=lambda way: len(way.program))
        steps.append(ShorteningStep(best))
        program = best.program


class _Measure:
    """The comparison of one program with others by training."""

    def __init__(self, program: Program, evaluator: Evaluator) -> None:
        self._program, self._evaluator = program, evaluator
        self._rounding: float | None = None

    def compare(self, other: Program) -> TrainingProof:
        if canonical_form(other) == canonical_form(self._program):
            return TrainingProof(0.0, np.nan)
        own, others = self._evaluator.curves([self._program, other])
        difference = _largest_difference(own, others)
        return TrainingProof(difference, np.nan if difference == 0 else self._of_rounding(own))

    def _of_rounding(self, own: NDArray[np.float64]) -> float:
        if self._rounding is None:
            twins = [TunedProgram(self._program, lr=1.0 + sign * _LAST_BIT) for sign in (1, -1)]
            self._rounding = max(_largest_difference(own, twin) for twin in self._evaluator.curves(twins))
        return self._rounding


def _largest_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Returns the difference of curves `(seeds, epochs)`; inf if only one is finite."""
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any():
        return np.inf
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0))


def _approximate_steps(
    original: Program, program: Program, evaluator: Evaluator, tolerance: float
) -> list[ShorteningStep]:
    """Removes instructions from the last to the first, while one is removable."""
    own = evaluator.losses([original])[0]
    Change.between(own, own)  # raises if the losses are not finite
    steps: list[ShorteningStep] = []
    while (step := _first_tolerable(program, evaluator, own, tolerance)) is not None:
        steps.append(step)
        program = step.replacement.program
    return steps


def _first_tolerable(
    program: Program, evaluator: Evaluator, own: NDArray[np.float64], tolerance: float
) -> ShorteningStep | None:
    """Returns the best removal of the last removable instruction, if any."""
    by_line: dict[int, list[Replacement]] = {}
    for way in replacements(program):
        if len(way.program) < len(program):
            by_line.setdefault(way.line, []).append(way)
    for line in sorted(by_line, reverse=True):
        losses = evaluator.losses([way.program for way in by_line[line]])
        changes = [Change.between(own, after) for after in losses]
        best = min(range(len(changes)), key=lambda place: changes[place].mean)
        if changes[best].mean <= tolerance:
            return ShorteningStep(by_line[line][best], changes[best])
    return None
