"""Ablation: the effect of each instruction of a program on the loss."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.program import Instruction, Program
from nosbench_env.postprocessing.evaluator import Change, Evaluator, number
from nosbench_env.postprocessing.replacements import Replacement, replacements


@dataclass(frozen=True, slots=True)
class Ablated:
    """A program without one of its instructions, and its change of loss."""

    replacement: Replacement
    losses: tuple[float, ...]
    change: Change

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data; numbers that are not finite are None."""
        return {
            "by": self.replacement.by,
            "program": self.replacement.program.to_json(),
            "losses": [number(loss) for loss in self.losses],
            "change": self.change.to_json(),
        }


@dataclass(frozen=True, slots=True)
class InstructionEffect:
    """The effect of removing an instruction.

    Attributes:
        line: Number of the instruction, counted from 1.
        instruction: The instruction.
        variants: All replacements of the instruction, the least harmful first. A variant with the same losses comes
            before variants with an unclear gain.
    """

    line: int
    instruction: Instruction
    variants: tuple[Ablated, ...]

    @property
    def change(self) -> Change:
        """The best replacement's change: the worth of the instruction."""
        return self.variants[0].change


@dataclass(frozen=True, slots=True)
class Ablation:
    """The worth of each live instruction of a program.

    Attributes:
        program: The program.
        losses: The program's losses, one for each seed.
        effects: The effect of each live instruction, in order.
    """

    program: Program
    losses: tuple[float, ...]
    effects: tuple[InstructionEffect, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns JSON data; numbers that are not finite are None."""
        return {
            "program": self.program.to_json(),
            "losses": [number(loss) for loss in self.losses],
            "instructions": [
                {
                    "line": effect.line,
                    "instruction": str(effect.instruction),
                    "change": effect.change.to_json(),
                    "variants": [variant.to_json() for variant in effect.variants],
                }
                for effect in self.effects
            ],
        }


def ablate(program: Program, evaluator: Evaluator) -> Ablation:
    """Evaluates the program without each live instruction, by all `replacements`.

    Instructions are removed one at a time, so two that can replace each other both seem unimportant. A variant that the
    oracle's identity merges with the program has the program's losses, and its change is 0.

    Args:
        program: The program.
        evaluator: The evaluator, with its seeds.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the program's own loss is not finite at a seed.
    """
    ways = replacements(program)
    losses: NDArray[np.float64] = evaluator.losses([program, *(replacement.program for replacement in ways)])
    ablated = [
        Ablated(replacement, tuple(after.tolist()), Change.between(losses[0], after))
        for replacement, after in zip(ways, losses[1:], strict=True)
    ]
    effects = []
    for line, variants in groupby(ablated, key=lambda variant: variant.replacement.line):
        ordered = sorted(variants, key=_harm)
        effects.append(InstructionEffect(line, program[line - 1], tuple(ordered)))
    return Ablation(program, tuple(losses[0].tolist()), tuple(effects))


def _harm(variant: Ablated) -> tuple[bool, float]:
    return variant.change.verdict not in ("better", "the same"), variant.change.mean
