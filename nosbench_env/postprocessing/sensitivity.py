"""Sensitivity: the loss against constants and the learning rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nosbench_env.candidates.tuned_program import ConstantUse, TunedProgram, constant_uses
from nosbench_env.language.program import Program
from nosbench_env.postprocessing.evaluator import Change, Evaluator, number

CONSTANT_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
LR_FACTORS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The losses of a program with one number multiplied by several factors.

    Attributes:
        use: The use of the constant; None for the learning rate of the update.
        value: The number that is multiplied.
        factors: The factors in ascending order, including 1.
        losses: The losses at each factor, one for each seed.
    """

    use: ConstantUse | None
    value: float
    factors: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]

    @property
    def changes(self) -> tuple[Change, ...]:
        """The change of losses at each factor against factor 1."""
        own = np.array(self.losses[self.factors.index(1.0)])
        return tuple(Change.between(own, np.array(losses)) for losses in self.losses)

    @property
    def best(self) -> float:
        """The factor of lowest mean loss; of ties, the nearest to 1."""
        distances = [abs(math.log(factor)) for factor in self.factors]
        means = [change.mean for change in self.changes]
        return min(zip(means, distances, self.factors, strict=True))[2]

    @property
    def gain(self) -> Change:
        """The change of losses from factor 1 to the best factor.

        As the best of several it looks better than it is.
        """
        return self.changes[self.factors.index(self.best)]

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data; numbers that are not finite are None."""
        return {
            "use": None if self.use is None else [self.use.line, self.use.place],
            "value": self.value,
            "best_factor": self.best,
            "gain": self.gain.to_json(),
            "factors": [
                {"factor": factor, "losses": [number(loss) for loss in losses], "change": change.to_json()}
                for factor, losses, change in zip(self.factors, self.losses, self.changes, strict=True)
            ],
        }


def sensitivity(program: Program, evaluator: Evaluator, factors: Sequence[float] = CONSTANT_FACTORS) -> list[Sweep]:
    """Multiplies each use of a constant in a program by several factors.

    If the product is another constant of the language, the variant is evaluated as a program.

    Args:
        program: The program.
        evaluator: The evaluator, with its seeds.
        factors: Positive numbers; 1 is added.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If a factor is not positive and finite, or the program's own loss is not finite at a seed.
    """
    factors = check_factors(factors)
    tuned = {
        use: [TunedProgram(program, {use: value * factor}) for factor in factors]
        for use, value in constant_uses(program).items()
    }
    losses = _losses(program, itertools.chain(*tuned.values()), evaluator)
    return [
        Sweep(use, value, factors, tuple(losses[candidate] for candidate in tuned[use]))
        for use, value in constant_uses(program).items()
    ]


def lr_scale(program: Program, evaluator: Evaluator, factors: Sequence[float] = LR_FACTORS) -> Sweep:
    """Multiplies a program's update by several factors, to check its learning rate.

    Args:
        program: The program.
        evaluator: The evaluator, with its seeds.
        factors: As in `sensitivity`.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: As `sensitivity` does.
    """
    factors = check_factors(factors)
    tuned = [TunedProgram(program, lr=factor) for factor in factors]
    losses = _losses(program, tuned, evaluator)
    return Sweep(None, 1.0, factors, tuple(losses[candidate] for candidate in tuned))


def check_factors(factors: Sequence[float]) -> tuple[float, ...]:
    """Returns distinct factors in ascending order, including 1.

    Raises:
        ValueError: If one is not positive and finite.
    """
    for factor in factors:
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < math.inf:
            raise ValueError(f"factors must be positive, finite numbers, got {factor!r}")
    return tuple(sorted({1.0, *map(float, factors)}))


def _losses(
    program: Program, tuned: Iterable[TunedProgram], evaluator: Evaluator
) -> dict[TunedProgram, tuple[float, ...]]:
    """Returns each candidate's losses, after checking the program's own."""
    (own,) = evaluator.losses([program])
    Change.between(own, own)
    distinct = list(dict.fromkeys(tuned))  # the program itself occurs for every use
    return {
        candidate: tuple(losses.tolist())
        for candidate, losses in zip(distinct, evaluator.losses(distinct), strict=True)
    }
