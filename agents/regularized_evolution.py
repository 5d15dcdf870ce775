"""Regularized evolution (Real et al., 2019), as in the paper's Algorithm 2 (Appendix F)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from nosbench_env.agents.agent import check_agent_seed, check_number_asked, rng_state
from nosbench_env.evaluation import Evaluation
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace

POPULATION_SIZE, TOURNAMENT_SIZE = 100, 25  # Appendix F


class RegularizedEvolution:
    """Evolves a population: mutated children of tournament winners replace the oldest.

    Args:
        space: The search space; the paper's if None.
        seed: Seed of all draws.
        start: The program that fills the first population, or None for random programs. The paper starts from AdamW or
            Adadelta (Figure 1), and from random programs in its study of the cache (Appendix D).
        population_size: Size of the population.
        tournament_size: Programs drawn, with replacement; the best of them becomes the parent.

    With `ask(1)` and `tell` in turn this is the paper's algorithm. If several programs are asked for at once, all are
    children of the present population: the asynchronous variant.

    Raises:
        InvalidProgram: If `start` can't be brought into the space.
        ValueError: If a size is not positive.
    """

    name = "re"

    def __init__(
        self,
        space: SearchSpace | None = None,
        seed: int = 0,
        start: Program | None = None,
        population_size: int = POPULATION_SIZE,
        tournament_size: int = TOURNAMENT_SIZE,
    ) -> None:
        for name, size in (("population_size", population_size), ("tournament_size", tournament_size)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {size!r}")
        self.space = space or SearchSpace()
        self.seed = check_agent_seed(seed)
        self.start = None if start is None else self.space.admit(start)
        self.population_size, self.tournament_size = population_size, tournament_size
        self._rng = np.random.default_rng(self.seed)
        self._founders = 0  # members of the first population asked for
        self._population: deque[tuple[Program, float]] = deque(maxlen=population_size)  # with fitness, oldest first

    def ask(self, n: int = 1) -> list[Program]:
        """Proposes the first population, then children."""
        return [self._ask() for _ in range(check_number_asked(n))]

    def _ask(self) -> Program:
        if self._founders < self.population_size or not self._population:  # line 4
            self._founders += 1
            return self.start or self.space.sample(self._rng)
        members = self._rng.integers(len(self._population), size=self.tournament_size)  # lines 11-15
        parent, _ = max((self._population[member] for member in members), key=lambda member: member[1])  # line 16
        return self.space.mutate(parent, self._rng)  # line 17

    def tell(self, programs: Sequence[Program], evaluations: Sequence[Evaluation]) -> None:
        """Adds programs; from a full population the oldest leave (lines 19-22)."""
        for program, evaluation in zip(programs, evaluations, strict=True):
            # A failed program loses every tournament against one that did not fail.
            fitness = -evaluation.loss if evaluation.status == "ok" else -math.inf
            self._population.append((program, fitness))

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {
            "space": self.space.to_json(),
            "seed": self.seed,
            "start": None if self.start is None else self.start.to_json(),
            "population_size": self.population_size,
            "tournament_size": self.tournament_size,
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        return {
            "rng": rng_state(self._rng),
            "founders": self._founders,
            "population": [
                [program.to_json(), fitness if math.isfinite(fitness) else None]
                for program, fitness in self._population
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        self._rng.bit_generator.state = state["rng"]
        self._founders = state["founders"]
        self._population.clear()
        for program, fitness in state["population"]:
            self._population.append((Program.from_json(program), -math.inf if fitness is None else fitness))
