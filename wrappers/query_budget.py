"""`QueryBudget`: a limit of queries for an experiment."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class BudgetSpent(RuntimeError):
    """The end of an experiment: the budget of a `QueryBudget` is spent."""


class QueryBudget(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Raises `BudgetSpent` after a number of queries.

    The two limits have the same meaning as in a search's `Budget`, so agents that play the env and search methods can
    be compared. The episode that spends the budget ends normally and `reset` still works; the next `step` raises. So
    vector envs that reset by themselves still return the last result. No episode is truncated, and the model keeps its
    learning:

        try:
            model.learn(1_000_000)
        except BudgetSpent:
            model.save("ppo")

    A step that evaluates a program is a query. Invalid programs are free, and so are programs evaluated for comparison:
    the start of `NOSBenchEdit-v0` and the reference of `RelativeReward`. In a vector env every env has a budget of its
    own. RLlib restarts a worker that raises: give it a stopping criterion instead.

    **Optimal policy:** kept, as long as there are queries left.

    Args:
        env: The environment.
        queries: Limit of queries, hits included; None for no limit.
        distinct: Limit of distinct programs by key, including those that the store already held; None for no limit.

    Attributes:
        queries_used: Queries so far.
        distinct_used: Distinct programs so far.

    Raises:
        ValueError: If neither is given, or one is not a positive integer.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], queries: int | None = None, distinct: int | None = None) -> None:
        RecordConstructorArgs.__init__(self, queries=queries, distinct=distinct)
        super().__init__(env)
        if queries is None and distinct is None:
            raise ValueError("a budget needs at least one of queries, distinct")
        for name, limit in (("queries", queries), ("distinct", distinct)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
                raise ValueError(f"{name} must be a positive integer, got {limit!r}")
        self.queries, self.distinct = queries, distinct
        self.queries_used = 0
        self._keys: set[str] = set()

    @property
    def distinct_used(self) -> int:
        """Distinct programs so far, by key."""
        return len(self._keys)

    @property
    def spent(self) -> bool:
        """True if the next step would raise."""
        return (self.queries is not None and self.queries_used >= self.queries) or (
            self.distinct is not None and self.distinct_used >= self.distinct
        )

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step in the env.

        Raises:
            BudgetSpent: If the budget is spent.
        """
        if self.spent:
            raise BudgetSpent(
                f"the budget is spent: {self.queries_used} queries for {self.distinct_used} different programs"
            )
        before = self.get_wrapper_attr("last_evaluation")
        result = self.env.step(action)
        evaluation = self.get_wrapper_attr("last_evaluation")
        if evaluation is not None and evaluation is not before:
            self.queries_used += 1
            self._keys.add(evaluation.key)
        return result
