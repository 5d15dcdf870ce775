"""`Agent`: the interface of a search method."""

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
    """A search method, which is asked for programs and told their evaluations.

    It holds no oracle: `search` asks it, evaluates the programs, and tells it. Most agents propose programs; an
    `Agent[OptimizerConfig]` proposes optimizers of libraries.

    An agent may also have `metrics() -> dict[str, float]`: measures of its learning by name, which `search` writes for
    TensorBoard whenever they change. They are part of its state.

    Attributes:
        name: Its short name, a key of `AGENTS`.
    """

    name: str

    def ask(self, n: int = 1) -> list[AnyCandidate]:
        """Proposes `n` programs. Several calls may come before a `tell`."""
        ...

    def tell(self, programs: Sequence[AnyCandidate], evaluations: Sequence[Evaluation[AnyCandidate]]) -> None:
        """Reports evaluations of asked programs, in any order, perhaps not all."""
        ...

    def config(self) -> dict[str, Any]:
        """Returns the arguments as JSON data; equal ones give equal proposals."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as JSON data, without programs asked but not told."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict` of an agent of equal configuration."""
        ...


class ProgramAgent(Agent[Program], Protocol):
    """A search method that proposes programs of a space, for `AgentPolicy`.

    Attributes:
        space: The search space of its programs.
    """

    space: SearchSpace


def check_agent_seed(seed: int) -> int:
    """Returns `seed` if it is an integer >= 0.

    Without a seed, a run could not be repeated or resumed.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex) or operator.index(seed) < 0:
        raise ValueError(f"seed must be an integer >= 0, got {seed!r}")
    return operator.index(seed)


def rng_state(rng: np.random.Generator) -> dict[str, Any]:
    """Returns a generator's state as JSON data."""
    return dict(rng.bit_generator.state)


def check_number_asked(n: int, name: str = "n") -> int:
    """Returns `n` if it is a positive integer.

    Raises:
        ValueError: If it is not; the message uses `name`.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {n!r}")
    return n
