"""SMAC_NOS: Bayesian optimization over programs with SMAC's random forest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nosbench_env.agents.smac_search import CHALLENGERS, RETRAIN_AFTER, SmacSearch
from nosbench_env.agents.smac_spaces import check_installed, program_config_space, program_configuration, program_of
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace

if TYPE_CHECKING:
    from ConfigSpace import Configuration

INITIAL_CONFIGS = 10  # the paper's code


class SmacNOS(SmacSearch[Program]):
    """Proposes random programs, then those of highest expected improvement (random forest).

    The forest and the log expected improvement are the paper's (Section 4.1 and Appendix F), the random initial design
    its code's. All else follows SMAC's `HyperparameterOptimizationFacade`. (The code uses `BlackBoxFacade`, which has a
    Gaussian process in place of a forest.)

    Args:
        space: The search space; the paper's if None. It can't have constraints.
        seed: Seed of all draws.
        initial_configs: Random programs to begin with.
        retrain_after: Proposals between two fits of the forest.
        challengers: Random programs from which each round starts its local search.

    Raises:
        ValueError: If SMAC is not installed, the space has constraints, or a number is not positive.
    """

    name = "smac-nos"

    def __init__(
        self,
        space: SearchSpace | None = None,
        seed: int = 0,
        initial_configs: int = INITIAL_CONFIGS,
        retrain_after: int = RETRAIN_AFTER,
        challengers: int = CHALLENGERS,
    ) -> None:
        check_installed("smac", "ConfigSpace")
        self.space = space or SearchSpace()
        configurations = program_config_space(self.space)
        super().__init__(
            configurations, program_of, program_configuration, seed, initial_configs, retrain_after, challengers
        )

    def _initial_design(self, number: int, seed: int) -> Iterable[Configuration]:
        from nosbench_env.agents.smac_model import random_design

        return random_design(self._configurations, number, seed)

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {"space": self.space.to_json()} | super().config()
