"""SMAC_HPO: SMAC over PyTorch's optimizers and their hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nosbench_env.agents.smac_search import CHALLENGERS, RETRAIN_AFTER, SmacSearch
from nosbench_env.agents.smac_spaces import (
    check_installed,
    optimizer_config_space,
    optimizer_configuration,
    optimizer_of,
)
from nosbench_env.candidates.optimizer_config import OptimizerConfig

if TYPE_CHECKING:
    from ConfigSpace import Configuration

INITIAL_CONFIGS = 90  # ten for each hyperparameter: SMAC's default, and so the paper's with its 10,000 trials


class SmacHPO(SmacSearch[OptimizerConfig]):
    """Proposes optimizers of PyTorch with hyperparameters, from `optimizer_config_space`.

    It is the paper's tuned baseline (Section 4.1). The parts are those of SMAC's `HyperparameterOptimizationFacade`,
    which the paper's code uses.

    Args:
        seed: Seed of all draws.
        initial_configs: Points of a Sobol sequence to begin with. SMAC itself takes at most a quarter of the budget,
            which is 25 for 100 queries.
        retrain_after: Proposals between two fits of the forest.
        challengers: Random configurations from which each round starts its local search.

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
        configurations = optimizer_config_space()
        super().__init__(
            configurations, optimizer_of, optimizer_configuration, seed, initial_configs, retrain_after, challengers
        )

    def _initial_design(self, number: int, seed: int) -> Iterable[Configuration]:
        from nosbench_env.agents.smac_model import sobol_design

        return sobol_design(self._configurations, number, seed)
