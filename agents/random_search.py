"""Random search: independent draws from the search space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nosbench_env.agents.agent import check_agent_seed, check_number_asked, rng_state
from nosbench_env.evaluation import Evaluation
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace


class RandomSearch:
    """Draws independent programs from the search space (paper, Section 4.1).

    Args:
        space: The search space; the paper's if None.
        seed: Seed of the draws.
    """

    name = "rs"

    def __init__(self, space: SearchSpace | None = None, seed: int = 0) -> None:
        self.space = space or SearchSpace()
        self.seed = check_agent_seed(seed)
        self._rng = np.random.default_rng(self.seed)

    def ask(self, n: int = 1) -> list[Program]:
        """Draws `n` programs."""
        return [self.space.sample(self._rng) for _ in range(check_number_asked(n))]

    def tell(self, programs: Sequence[Program], evaluations: Sequence[Evaluation]) -> None:
        """Ignores the evaluations."""

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {"space": self.space.to_json(), "seed": self.seed}

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        return {"rng": rng_state(self._rng)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        self._rng.bit_generator.state = state["rng"]
