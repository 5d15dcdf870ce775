"""`SmacSearch`: SMAC's search as `ask` and `tell`, of which `SmacNOS` and `SmacHPO` are made.

SMAC is "Sequential Model-based Algorithm Configuration" (Hutter et al., 2011; SMAC3: Lindauer et al., 2022).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, cast

import numpy as np

from nosbench_env.agents.agent import check_number_asked
from nosbench_env.candidates.candidate import AnyCandidate, candidate_from_json
from nosbench_env.evaluation import Evaluation

if TYPE_CHECKING:
    from ConfigSpace import Configuration, ConfigurationSpace

RETRAIN_AFTER, CHALLENGERS = 8, 10_000  # those of SMAC's HyperparameterOptimizationFacade
CRASH_COST = 2.0**31  # the paper's code
_TRIES = 100  # draws for something new before a small space counts as exhausted


class SmacSearch(Generic[AnyCandidate]):
    """Proposes an initial design, and then round by round what SMAC's model expects most of.

    A round fits the model to all that was told and yields `retrain_after` proposals. It has a seed of its own, made of
    the agent's and its number, and so depends on nothing but that and what was told: the state is a list of results,
    a queue and a count, and a search continued after loading it proposes what it would have proposed.

    Nothing is proposed that was told, or asked and not yet told, unless the space is exhausted.

    A candidate that fails costs 2**31, as in the paper's code, and so does one with an even higher loss.

    Args:
        space: The configurations.
        candidate_of: What a configuration stands for.
        configuration_of: The inverse; raises a ValueError for what is not in the space.
        initial_design: Gives so many first configurations, from a number and a seed.
        seed: Seed of all draws.
        initial_configs: Size of the initial design.
        retrain_after: Proposals for which the model is fitted once.
        challengers: Random configurations among which each round looks for promising ones.

    Raises:
        ValueError: If one of these three is not a positive integer.
    """

    def __init__(
        self,
        space: ConfigurationSpace,
        candidate_of: Callable[[Configuration], AnyCandidate],
        configuration_of: Callable[[AnyCandidate, ConfigurationSpace], Configuration],
        initial_design: Callable[[int, int], Iterable[Configuration]],
        seed: int,
        initial_configs: int,
        retrain_after: int,
        challengers: int,
    ) -> None:
        self._space, self._candidate_of, self._configuration_of = space, candidate_of, configuration_of
        self._initial_design, self._seed = initial_design, seed
        self._initial_configs = check_number_asked(initial_configs, "initial_configs")
        self._retrain_after = check_number_asked(retrain_after, "retrain_after")
        self._challengers = check_number_asked(challengers, "challengers")
        self._round = 0
        self._queue: deque[AnyCandidate] = deque()
        self._pending: set[AnyCandidate] = set()
        self._told: dict[AnyCandidate, tuple[Configuration, float]] = {}  # with its loss; inf if it failed

    def ask(self, n: int = 1) -> list[AnyCandidate]:
        """Proposes `n`, of as many rounds as it takes."""
        asked = []
        for _ in range(check_number_asked(n)):
            if not self._queue:
                self._queue.extend(self._next_round())
            asked.append(self._queue.popleft())
            self._pending.add(asked[-1])
        return asked

    def _next_round(self) -> list[AnyCandidate]:
        from nosbench_env.agents.smac_model import challengers, random_design

        seed = int(np.random.SeedSequence((self._seed, self._round)).generate_state(1)[0])
        self._round += 1
        wanted = self._initial_configs if self._round == 1 else self._retrain_after
        proposals: Iterable[Configuration]
        if self._round == 1:
            proposals = self._initial_design(wanted, seed)
        elif self._told:
            configurations, losses = zip(*self._told.values(), strict=True)
            costs = np.minimum(losses, CRASH_COST)
            proposals = challengers(self._space, configurations, costs, seed, self._challengers)
        else:
            proposals = ()
        found = self._new(proposals, wanted)
        if len(found) < wanted:  # the space is small, or nothing is known yet
            found |= self._new(random_design(self._space, wanted * _TRIES, seed), wanted - len(found), found)
        return list(found) or [self._candidate_of(*random_design(self._space, 1, seed))]

    def _new(
        self, proposals: Iterable[Configuration], wanted: int, found: Iterable[AnyCandidate] = ()
    ) -> dict[AnyCandidate, None]:
        """The first so many of the proposals that were neither told nor asked for nor found."""
        new: dict[AnyCandidate, None] = {}
        known = set(found)
        for configuration in proposals:
            candidate = self._candidate_of(configuration)
            if candidate not in self._told and candidate not in self._pending and candidate not in known:
                new[candidate] = None
            if len(new) == wanted:
                break
        return new

    def tell(self, candidates: Sequence[AnyCandidate], evaluations: Sequence[Evaluation[AnyCandidate]]) -> None:
        """Learns from results; of what is told twice, the first counts.

        Raises:
            ValueError: If a candidate is not in the space.
        """
        configurations = [self._configuration_of(candidate, self._space) for candidate in candidates]
        for candidate, configuration, evaluation in zip(candidates, configurations, evaluations, strict=True):
            loss = evaluation.loss if evaluation.status == "ok" else math.inf
            self._told.setdefault(candidate, (configuration, loss))
            self._pending.discard(candidate)

    def config(self) -> dict[str, Any]:
        """What it was made with, but for the space and the seed."""
        return {
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
            configuration = self._configuration_of(candidate, self._space)
            self._told[candidate] = configuration, math.inf if loss is None else loss

    def _read(self, data: Any) -> AnyCandidate:
        return cast(AnyCandidate, candidate_from_json(data))
