"""Ablation: which instructions of a program matter, and how much."""

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
    """A program without one of its instructions, and what that does to the loss."""

    replacement: Replacement
    losses: tuple[float, ...]
    change: Change

    def to_json(self) -> dict[str, Any]:
        """As JSON data; numbers that are not finite are None."""
        return {
            "by": self.replacement.by,
            "program": self.replacement.program.to_json(),
            "losses": [number(loss) for loss in self.losses],
            "change": self.change.to_json(),
        }


@dataclass(frozen=True, slots=True)
class InstructionEffect:
    """What becomes of the loss without an instruction.

    Attributes:
        line: The instruction, counted from 1.
        instruction: The instruction.
        variants: Each way to do without it, the least harmful first; one that is the same comes before those that only
            seem to be better.
    """

    line: int
    instruction: Instruction
    variants: tuple[Ablated, ...]

    @property
    def change(self) -> Change:
        """The change with what best stands for it: what the instruction itself is worth."""
        return self.variants[0].change


@dataclass(frozen=True, slots=True)
class Ablation:
    """What each live instruction of a program is worth.

    Attributes:
        program: The program.
        losses: Its own losses, one for each seed.
        effects: Of each live instruction, line after line.
    """

    program: Program
    losses: tuple[float, ...]
    effects: tuple[InstructionEffect, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON data; numbers that are not finite are None."""
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
    """Takes each live instruction out, in every way that `replacements` knows, and evaluates what remains.

    Instructions are taken out one at a time, so two that can stand for each other both seem not to matter. What the
    oracle takes to be equivalent to the program has its losses: the change is 0.

    Args:
        program: The program.
        evaluator: Evaluates, at its seeds.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the program's own loss is not finite at a seed.
    """
    found = replacements(program)
    losses: NDArray[np.float64] = evaluator.losses([program, *(replacement.program for replacement in found)])
    ablated = [
        Ablated(replacement, tuple(after.tolist()), Change.between(losses[0], after))
        for replacement, after in zip(found, losses[1:], strict=True)
    ]
    effects = []
    for line, variants in groupby(ablated, key=lambda variant: variant.replacement.line):
        ordered = sorted(variants, key=_harm)
        effects.append(InstructionEffect(line, program[line - 1], tuple(ordered)))
    return Ablation(program, tuple(losses[0].tolist()), tuple(effects))


def _harm(variant: Ablated) -> tuple[bool, float]:
    return variant.change.verdict not in ("better", "the same"), variant.change.mean
