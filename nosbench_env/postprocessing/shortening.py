"""Shortening a program: what survives, and how it is known that no more is lost than is said."""

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

# Training amplifies rounding, by how much depends on program, task and length. So it is measured: the same program is
# trained with updates that are larger, and smaller, by the last bit of a float32. A shorter program rounds differently
# at several places of a step, where these do at one: up to ten times their effect is taken to be rounding. (Tuned
# programs go the task's plain way, which rounds differently, too.)
_LAST_BIT = 2.0**-23
_ROUNDINGS = 10.0


@dataclass(frozen=True, slots=True)
class TrainingProof:
    """What training with two programs shows, at the same seeds.

    Attributes:
        difference: The largest difference of an epoch's mean loss, at any seed; inf if only one of them diverges.
        rounding: The same between the original and itself with updates that differ in their last bit; NaN where
            `difference` is 0, since it is not needed then.
    """

    difference: float
    rounding: float

    @property
    def verdict(self) -> Verdict:
        """What that means."""
        if self.difference == 0:
            return "equal to the last bit"
        # An infinite `rounding`, of a program that diverges by rounding alone, explains everything and proves nothing.
        explained = math.isfinite(self.rounding) and self.difference <= _ROUNDINGS * self.rounding
        return "equal up to rounding" if explained else "different"

    def to_json(self) -> dict[str, Any]:
        """As JSON data; numbers that are not finite are None."""
        return {
            "difference": number(self.difference),
            "rounding": number(self.rounding),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction that went, and on what grounds.

    Attributes:
        replacement: What went and what remained; lines are counted in the program of the step before.
        change: How the loss differs from the original program's, where that was the grounds; else None.
    """

    replacement: Replacement
    change: Change | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        data: dict[str, Any] = {
            "line": self.replacement.line,
            "instruction": str(self.replacement.instruction),
            "by": self.replacement.by,
            "program": self.replacement.program.to_json(),
        }
        return data if self.change is None else data | {"change": self.change.to_json()}


@dataclass(frozen=True, slots=True)
class Shortening:
    """What became of a program, in three stages of certainty.

    Attributes:
        original: The program.
        canonical: What is equal to it for certain: of the same canonical form.
        probed: What has the same fingerprint on the task, and the steps to it.
        steps: Those steps.
        training: What training says of the last one; None if there was no step.
        refused: Steps that the fingerprint allows and training does not, with what training says of each.
        approximate: Further steps, which change the loss by no more than the tolerance. Not equal.
        behaviour: How training is known to end from the probe: "ok", "nan" or "inf".
    """

    original: Program
    canonical: Program
    probed: Program
    steps: tuple[Step, ...]
    training: TrainingProof | None
    refused: tuple[tuple[Step, TrainingProof], ...]
    approximate: tuple[Step, ...]
    behaviour: str

    @property
    def approximated(self) -> Program:
        """What is left at the end, the approximate steps taken."""
        return self.approximate[-1].replacement.program if self.approximate else self.probed

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
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
    """Takes away what a program does not need, and says for each part how that is known.

    First what falls away for certain (`program.simplified()`). Then, one by one, instructions without which the
    fingerprint on the task is the same, an input standing for the value. Both programs are trained; steps are taken
    back until losses are equal to the last bit, or up to what rounding explains. That is measured: by how much losses
    move when each update differs in its last bit. Of a program that the probe finds diverging only the first is done.

    Args:
        program: The program.
        evaluator: Trains, at its seeds; its oracle must tell programs apart by their canonical form, or it would take
            for equal what is to be shown.
        tolerance: If given, then also what goes whose absence raises the mean loss by no more than this above the
            original's; which is an approximation.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the oracle's identity is not "canonical", or the tolerance is negative, or there is one and the
            program's own loss is not finite.
    """
    if evaluator.oracle.identity != "canonical":
        raise ValueError(
            f"the oracle must have identity='canonical' to tell these programs apart, it has "
            f"{evaluator.oracle.identity!r}"
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


def _probed_steps(program: Program, task: Task) -> list[Step]:
    """Takes away, one at a time, what leaves the fingerprint as it is and makes the program shortest."""
    wanted = identify(program, "fingerprint", probe_of(task))
    steps: list[Step] = []
    while True:
        shorter = [
            found
            for found in replacements(program)
            if len(found.program) < len(program) and identify(found.program, "fingerprint", probe_of(task)) == wanted
        ]
        if not shorter:
            return steps
        best = min(shorter, key=lambda found: len(found.program))
        steps.append(Step(best))
        program = best.program


class _Measure:
    """Compares programs with one by training."""

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
    """Of the curves `(seeds, epochs)`; inf if one is finite where the other is not."""
    finite = np.isfinite(a)
    if (finite != np.isfinite(b)).any():
        return np.inf
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0))


def _approximate_steps(original: Program, program: Program, evaluator: Evaluator, tolerance: float) -> list[Step]:
    """Goes through the instructions from the last to the first, until none can go any more."""
    own = evaluator.losses([original])[0]
    Change.between(own, own)  # says so if there is nothing to compare with
    steps: list[Step] = []
    while (step := _first_tolerable(program, evaluator, own, tolerance)) is not None:
        steps.append(step)
        program = step.replacement.program
    return steps


def _first_tolerable(program: Program, evaluator: Evaluator, own: NDArray[np.float64], tolerance: float) -> Step | None:
    """The best of the ways to do without the last instruction that can go; None if none can."""
    by_line: dict[int, list[Replacement]] = {}
    for found in replacements(program):
        if len(found.program) < len(program):
            by_line.setdefault(found.line, []).append(found)
    for line in sorted(by_line, reverse=True):
        losses = evaluator.losses([found.program for found in by_line[line]])
        changes = [Change.between(own, found) for found in losses]
        best = min(range(len(changes)), key=lambda place: changes[place].mean)
        if changes[best].mean <= tolerance:
            return Step(by_line[line][best], changes[best])
    return None
