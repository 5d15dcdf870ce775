"""Candidates: the objects that the oracle evaluates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import TypeVar

from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.candidates.tuned_program import TunedProgram


Candidate: TypeAlias = "Program | OptimizerConfig | TunedProgram"

# The kind of candidate of an agent, and of an answer about one. Without a subscript both mean programs.
AnyCandidate = TypeVar("AnyCandidate", bound=Candidate, default=Program)
Evaluated = TypeVar("Evaluated", bound=Candidate, default=Program, covariant=True)


def candidate_from_json(data: Any) -> Candidate:
    """Reads the JSON data that a candidate's `to_json` returns.

    Raises:
        InvalidProgram, ValueError: If the data describe no candidate.
    """
    if not isinstance(data, dict):
        return Program.from_json(data)
    if "constants" in data:
        from nosbench_env.candidates.tuned_program import TunedProgram  # loads torch

        return TunedProgram.from_json(data)
    return OptimizerConfig.from_json(data)
