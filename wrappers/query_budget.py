"""`QueryBudget`: ends an experiment after so many queries."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class BudgetSpent(RuntimeError):
    """The budget of a `QueryBudget` is spent: the experiment is over."""


class QueryBudget(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Lets an agent ask for so many programs, then raises `BudgetSpent`.

    The two limits mean what they mean in a search's `Budget`, so agents that play the env and search methods can be
    compared. The episode that spends the budget ends as ever; `reset` still works; the next `step` raises. So whatever
    resets by itself, vector envs above all, still hands out the last result. No episode is cut short, and what was
    learned before stays:

        try:
            model.learn(1_000_000)
        except BudgetSpent:
            model.save("ppo")

    A step that evaluates a program is a query. Invalid programs cost nothing; nor does what is asked for comparison,
    the start of `NOSBenchEdit-v0` and the reference of `RelativeReward`. In a vector env every env has a budget of its
    own. RLlib restarts a worker that raises: give it a stopping criterion instead.

    **Optimal policy:** kept, for as long as there are queries left.

    Args:
        env: The environment.
        queries: How many programs may be asked about, hits included; None for no limit.
        distinct: How many different ones (by key), whether or not a store knew them; None for no limit.

    Attributes:
        queries_used: Programs asked about.
        distinct_used: Different ones.

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
        """How many different programs were asked about, by key."""
        return len(self._keys)

    @property
    def spent(self) -> bool:
        """Whether the next step would raise."""
        return (self.queries is not None and self.queries_used >= self.queries) or (
            self.distinct is not None and self.distinct_used >= self.distinct
        )

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the env's.

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
