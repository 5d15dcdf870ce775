"""Candidates: everything that the oracle evaluates, and how they are read from JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import TypeVar

from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.candidates.tuned_program import TunedProgram


Candidate: TypeAlias = "Program | OptimizerConfig | TunedProgram"


AnyCandidate = TypeVar("AnyCandidate", bound="Program | OptimizerConfig | TunedProgram", default=Program)


Evaluated = TypeVar("Evaluated", bound="Program | OptimizerConfig | TunedProgram", default=Program, covariant=True)


def candidate_from_json(data: Any) -> Candidate:
    """A program, a tuned one or an optimizer from what its `to_json` gave: a list or an object.

    Raises:
        InvalidProgram, ValueError: If it is none.
    """
    if not isinstance(data, dict):
        return Program.from_json(data)
    if "constants" in data:
        from nosbench_env.candidates.tuned_program import TunedProgram  # loads torch

        return TunedProgram.from_json(data)
    return OptimizerConfig.from_json(data)
