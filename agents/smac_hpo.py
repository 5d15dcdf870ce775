"""SMAC_HPO: SMAC over PyTorch's optimizers and their hyperparameters, the paper's tuned baseline (Section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nosbench_env.agents.agent import check_agent_seed
from nosbench_env.agents.smac_search import CHALLENGERS, RETRAIN_AFTER, SmacSearch
from nosbench_env.agents.smac_spaces import (
    check_installed,
    optimizer_config_space,
    optimizer_configuration,
    optimizer_of,
)
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.evaluation import Evaluation

INITIAL_CONFIGS = 90  # ten a hyperparameter: SMAC's default, and so the paper's, for its 10,000 trials


class SmacHPO:
    """Proposes optimizers of PyTorch with hyperparameters: the space of `optimizer_config_space`.

    The parts are those of SMAC's `HyperparameterOptimizationFacade`, which the paper's code uses.

    Args:
        seed: Seed of all draws.
        initial_configs: Points of a Sobol sequence to begin with. SMAC takes no more than a quarter of the budget: for
            100 queries give 25.
        retrain_after: Proposals for which the forest is fitted once.
        challengers: Random configurations among which each round looks for promising ones.

    Raises:
        ValueError: If SMAC is not installed, or a number is not positive.
    """

    name = "smac-hpo"

    def __init__(
        self,
        seed: int = 0,
        initial_configs: int = INITIAL_CONFIGS,
        retrain_after: int = RETRAIN_AFTER,
        challengers: int = CHALLENGERS,
    ) -> None:
        check_installed("smac", "ConfigSpace")
        self.seed = check_agent_seed(seed)
        configurations = optimizer_config_space()

        def initial_design(number: int, seed: int) -> Any:
            from nosbench_env.agents.smac_model import sobol_design

            return sobol_design(configurations, number, seed)

        self._search = SmacSearch[OptimizerConfig](
            configurations,
            optimizer_of,
            optimizer_configuration,
            initial_design,
            self.seed,
            initial_configs,
            retrain_after,
            challengers,
        )

    def ask(self, n: int = 1) -> list[OptimizerConfig]:
        """Proposes optimizers, none twice."""
        return self._search.ask(n)

    def tell(self, programs: Sequence[OptimizerConfig], evaluations: Sequence[Evaluation[OptimizerConfig]]) -> None:
        """Learns from results.

        Raises:
            ValueError: If an optimizer is not in the space.
        """
        self._search.tell(programs, evaluations)

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {"seed": self.seed} | self._search.config()

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        return self._search.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        self._search.load_state_dict(state)
