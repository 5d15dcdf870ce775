"""What a search method is: it is asked for programs and told how good they are."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol, SupportsIndex

import numpy as np

from nosbench_env.candidates.candidate import AnyCandidate
from nosbench_env.evaluation import Evaluation
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace


class Agent(Protocol[AnyCandidate]):
    """A search method. It holds no oracle: `search` asks it, evaluates, and tells it.

    What it proposes are programs, or else optimizers of libraries: an `Agent[OptimizerConfig]`.

    An agent may also have `metrics() -> dict[str, float]`: figures of how it learns, by name, which `search` writes for
    TensorBoard whenever they change. They belong to its state.

    Attributes:
        name: Its short name, a key of `AGENTS`.
    """

    name: str

    def ask(self, n: int = 1) -> list[AnyCandidate]:
        """Proposes `n` programs. Several may be asked for before any is told."""
        ...

    def tell(self, programs: Sequence[AnyCandidate], evaluations: Sequence[Evaluation[AnyCandidate]]) -> None:
        """Reports the evaluations of asked programs, in any order and number; some may never be."""
        ...

    def config(self) -> dict[str, Any]:
        """What it was made with, as JSON data. Agents of equal configuration propose equal programs."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Its state as JSON data. Programs asked for and not yet told are not part of it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Returns to a state of `state_dict` of an agent of equal configuration."""
        ...


class ProgramAgent(Agent[Program], Protocol):
    """A search method that proposes programs of a search space; `AgentPolicy` plays it through the env.

    Attributes:
        space: Where its programs come from.
    """

    space: SearchSpace


def check_agent_seed(seed: int) -> int:
    """`seed` if it is an integer >= 0; without one, a run could be neither repeated nor resumed."""
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex) or operator.index(seed) < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
    return operator.index(seed)


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """A generator's state as JSON data."""
    return dict(rng.bit_generator.state)


def check_number_asked(n: int, name: str = "n") -> int:
    """`n` if it is a positive integer."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {n!r}")
    return n
