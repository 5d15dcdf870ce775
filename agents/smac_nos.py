"""SMAC_NOS: Bayesian optimization over programs with SMAC's random forest (paper, Section 4.1 and Appendix F)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nosbench_env.agents.agent import check_agent_seed
from nosbench_env.agents.smac_search import CHALLENGERS, RETRAIN_AFTER, SmacSearch
from nosbench_env.agents.smac_spaces import check_installed, program_config_space, program_configuration, program_of
from nosbench_env.evaluation import Evaluation
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace

INITIAL_CONFIGS = 10  # the paper's code


class SmacNOS:
    """Proposes the programs of which a random forest expects most, after a few random ones.

    The paper names the forest and the log expected improvement (Appendix F); its code, the random initial design. All
    else is as SMAC's `HyperparameterOptimizationFacade` has it. (The code's `BlackBoxFacade` has no forest but a
    Gaussian process.)

    Args:
        space: The search space; the paper's if None. It can't have constraints.
        seed: Seed of all draws.
        initial_configs: Random programs to begin with.
        retrain_after: Proposals for which the forest is fitted once.
        challengers: Random programs among which each round looks for promising ones.

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
        self.seed = check_agent_seed(seed)
        configurations = program_config_space(self.space)

        def initial_design(number: int, seed: int) -> Any:
            from nosbench_env.agents.smac_model import random_design

            return random_design(configurations, number, seed)

        self._search = SmacSearch[Program](
            configurations,
            program_of,
            program_configuration,
            initial_design,
            self.seed,
            initial_configs,
            retrain_after,
            challengers,
        )

    def ask(self, n: int = 1) -> list[Program]:
        """Proposes programs; none twice, unless the space is exhausted."""
        return self._search.ask(n)

    def tell(self, programs: Sequence[Program], evaluations: Sequence[Evaluation]) -> None:
        """Learns from results.

        Raises:
            InvalidProgram: If a program is not in the space.
        """
        self._search.tell(programs, evaluations)

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {"space": self.space.to_json(), "seed": self.seed} | self._search.config()

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        return self._search.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        self._search.load_state_dict(state)
