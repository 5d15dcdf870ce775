"""`SmacSearch`: SMAC as `ask` and `tell`, shared by `SmacNOS` and `SmacHPO`.

SMAC is "Sequential Model-based Algorithm Configuration" (Hutter et al., 2011; SMAC3: Lindauer et al., 2022).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

import numpy as np

from nosbench_env.agents.agent import check_agent_seed, check_number_asked
from nosbench_env.candidates.candidate import AnyCandidate, candidate_from_json
from nosbench_env.evaluation import Evaluation

if TYPE_CHECKING:
    from ConfigSpace import Configuration, ConfigurationSpace

RETRAIN_AFTER, CHALLENGERS = 8, 10_000  # as in SMAC's HyperparameterOptimizationFacade
CRASH_COST = 2.0**31  # the paper's code
_TRIES = 100  # draws for something new before a small space counts as exhausted


class SmacSearch(ABC, Generic[AnyCandidate]):
    """Proposes an initial design, then rounds of highest expected improvement.

    SMAC's local search walks through a set, whose order depends on the environment variable `PYTHONHASHSEED`. Set it to
    repeat or resume a run exactly in another process.

    A round fits SMAC's model to all results and yields `retrain_after` proposals. Its seed is made from the agent's
    seed and its number, so a round depends only on these and on the results. The state is therefore a list of results,
    a queue and a count, and a search resumed from it proposes the same.

    A candidate that was told or asked for is not proposed again, unless the space is exhausted.

    A failed candidate costs 2**31, as in the paper's code, and so does one with a loss above that.

    Args:
        configurations: The space.
        candidate_of: Returns the candidate of a configuration.
        configuration_of: The inverse; raises a ValueError for a candidate that is not in the space.
        seed: Seed of all draws.
        initial_configs: Size of the initial design.
        retrain_after: Proposals between two fits of the model.
        challengers: Random configurations from which each round starts its local search.

    Raises:
        ValueError: If the seed is not an integer >= 0, or one of the last three is not a positive integer.
    """

    def __init__(
        self,
        configurations: ConfigurationSpace,
        candidate_of: Callable[[Configuration], AnyCandidate],
        configuration_of: Callable[[AnyCandidate, ConfigurationSpace], Configuration],
        seed: int,
        initial_configs: int,
        retrain_after: int,
        challengers: int,
    ) -> None:
        self._configurations = configurations
        self._candidate_of, self._configuration_of = candidate_of, configuration_of
        self.seed = check_agent_seed(seed)
        self._initial_configs = check_number_asked(initial_configs, "initial_configs")
        self._retrain_after = check_number_asked(retrain_after, "retrain_after")
        self._challengers = check_number_asked(challengers, "challengers")
        self._round = 0
        self._queue: deque[AnyCandidate] = deque()
        self._pending: set[AnyCandidate] = set()
        self._told: dict[AnyCandidate, tuple[Configuration, float]] = {}  # with its loss; inf if it failed

    @abstractmethod
    def _initial_design(self, number: int, seed: int) -> Iterable[Configuration]:
        """Returns the first configurations."""

    def ask(self, n: int = 1) -> list[AnyCandidate]:
        """Proposes candidates; none twice, unless the space is exhausted."""
        asked = []
        for _ in range(check_number_asked(n)):
            if not self._queue:
                self._queue.extend(self._next_round())
            asked.append(self._queue.popleft())
            self._pending.add(asked[-1])
        return asked

    def _next_round(self) -> list[AnyCandidate]:
        from nosbench_env.agents.smac_model import challengers, random_design

        seed = int(np.random.SeedSequence((self.seed, self._round)).generate_state(1)[0])
        self._round += 1
        wanted = self._initial_configs if self._round == 1 else self._retrain_after
        proposals: Iterable[Configuration]
        if self._round == 1:
            proposals = self._initial_design(wanted, seed)
        elif self._told:
            configurations, losses = zip(*self._told.values(), strict=True)
            costs = np.minimum(losses, CRASH_COST)
            proposals = challengers(self._configurations, configurations, costs, seed, self._challengers)
        else:
            proposals = ()
        new: dict[AnyCandidate, None] = {}
        self._add_new(proposals, wanted, new)
        if len(new) < wanted:  # the space is small, or there are no results yet
            self._add_new(random_design(self._configurations, wanted * _TRIES, seed), wanted, new)
        return list(new) or [self._candidate_of(*random_design(self._configurations, 1, seed))]

    def _add_new(self, proposals: Iterable[Configuration], wanted: int, new: dict[AnyCandidate, None]) -> None:
        """Adds proposals neither told nor asked for, until `new` has `wanted`."""
        for configuration in proposals:
            candidate = self._candidate_of(configuration)
            if candidate not in self._told and candidate not in self._pending:
                new[candidate] = None
            if len(new) == wanted:
                break

    def tell(self, candidates: Sequence[AnyCandidate], evaluations: Sequence[Evaluation[AnyCandidate]]) -> None:
        """Learns from results; of a candidate told twice, the first counts.

        Raises:
            ValueError: If a candidate is not in the space.
        """
        configurations = [self._configuration_of(candidate, self._configurations) for candidate in candidates]
        for candidate, configuration, evaluation in zip(candidates, configurations, evaluations, strict=True):
            loss = evaluation.loss if evaluation.status == "ok" else math.inf
            self._told.setdefault(candidate, (configuration, loss))
            self._pending.discard(candidate)

    def config(self) -> dict[str, Any]:
        """See `Agent.config`."""
        return {
            "seed": self.seed,
            "initial_configs": self._initial_configs,
            "retrain_after": self._retrain_after,
            "challengers": self._challengers,
        }

    def state_dict(self) -> dict[str, Any]:
        """See `Agent.state_dict`."""
        return {
            "round": self._round,
            "queue": [candidate.to_json() for candidate in self._queue],
            "told": [
                [candidate.to_json(), loss if math.isfinite(loss) else None]
                for candidate, (_, loss) in self._told.items()
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Agent.load_state_dict`."""
        self._round = state["round"]
        self._queue = deque(self._read(data) for data in state["queue"])
        self._pending = set()
        self._told = {}
        for data, loss in state["told"]:
            candidate = self._read(data)
            configuration = self._configuration_of(candidate, self._configurations)
            self._told[candidate] = configuration, math.inf if loss is None else loss

    def _read(self, data: Any) -> AnyCandidate:
        return cast(AnyCandidate, candidate_from_json(data))
