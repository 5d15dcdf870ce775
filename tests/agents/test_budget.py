from typing import Any

import pytest

from nosbench_env import Oracle
from nosbench_env.agents import Budget, RandomSearch, search


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (Budget(queries=12), lambda result: result.queries == 12),
        (Budget(distinct=5), lambda result: result.distinct == 5),
        (Budget(simulated_seconds=1.0), lambda result: 1.0 <= result.simulated_seconds < 1.0 + 0.3),
        (Budget(queries=1000, distinct=3), lambda result: result.distinct == 3),
    ],
)
def test_budgets_end_the_search(oracle: Oracle, budget: Budget, spent: Any) -> None:
    assert spent(search(RandomSearch(), oracle, budget, epochs=1))


def test_bad_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one of"):
        Budget()
    for bad in (0, -1, 2.5, True, "7"):
        with pytest.raises(ValueError, match="queries must be a positive integer, got"):
            Budget(queries=bad)
    with pytest.raises(ValueError, match="simulated_seconds must be a positive number, got nan"):
        Budget(simulated_seconds=float("nan"))
