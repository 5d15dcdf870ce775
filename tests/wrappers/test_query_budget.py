"""`QueryBudget`."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from oracles import InstantOracle
from play import IDS, instant_env, play_at_random
from stable_baselines3 import PPO

from nosbench_env import NOSBenchEnv, Program, SearchSpace
from nosbench_env.wrappers import BudgetSpent, QueryBudget

SPACE = SearchSpace()
UNLIKE = [Program.parse(f"r9 = mul(grad, {number})") for number in ("0.1", "0.01", "0.001")]
LIKE_THE_FIRST = Program.parse("r10 = exp(step); r9 = mul(0.1, grad)")


def play(env: gymnasium.Env, program: Program) -> bool:
    env.reset()
    for instruction in program:
        env.step(SPACE.encode(instruction))
    return env.step(SPACE.stop_action)[2]


def instant() -> NOSBenchEnv:
    return NOSBenchEnv("toy", oracle=InstantOracle(lambda _: 1.0))


def test_the_step_after_the_last_query_raises() -> None:
    env = QueryBudget(instant(), queries=2)
    for number in range(2):
        assert not env.spent
        assert play(env, UNLIKE[0])
        assert env.queries_used == number + 1
    assert env.spent
    observation, _ = env.reset()
    assert not observation.any()
    with pytest.raises(BudgetSpent, match="the budget is spent: 2 queries for 1 different programs"):
        env.step(SPACE.stop_action)
    assert env.unwrapped.oracle.asked == [UNLIKE[0]] * 2


def test_programs_that_do_the_same_count_once_as_distinct() -> None:
    env = QueryBudget(instant(), distinct=3)
    for program in (UNLIKE[0], LIKE_THE_FIRST, UNLIKE[0], UNLIKE[1], UNLIKE[1], UNLIKE[2]):
        assert play(env, program)
    assert (env.queries_used, env.distinct_used, env.spent) == (6, 3, True)
    with pytest.raises(BudgetSpent):
        play(env, UNLIKE[0])


def test_whichever_is_spent_first_ends_it() -> None:
    env = QueryBudget(instant(), queries=2, distinct=2)
    play(env, UNLIKE[0])
    play(env, UNLIKE[0])
    assert (env.spent, env.distinct_used) == (True, 1)


@pytest.mark.parametrize("env_id", IDS)
def test_every_evaluated_step_is_a_query(env_id: str) -> None:
    env = QueryBudget(gymnasium.make(f"nosbench_env:{env_id}", task="toy", epochs=1, store="sqlite://"), queries=1000)
    rng = np.random.default_rng(0)
    infos = [info for _ in range(3) for *_, info in play_at_random(env, rng) if info]
    assert env.queries_used == len(infos) > 0
    assert env.distinct_used <= len({info["program"] for info in infos})


def test_an_invalid_program_costs_nothing() -> None:
    env = QueryBudget(instant_env("NOSBenchToken-v0", lambda _: 1.0), queries=1)
    env.reset()
    assert env.step(40)[4]["status"] == "invalid"
    assert env.queries_used == 0


def test_training_ends_with_the_budget_and_every_query_counts() -> None:
    env = QueryBudget(instant(), queries=20)
    with pytest.raises(BudgetSpent):
        PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, device="cpu").learn(10_000)
    assert len(env.unwrapped.oracle.asked) == env.queries_used == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "at least one of queries, distinct"),
        ({"queries": 0}, "queries must be a positive integer, got 0"),
        ({"distinct": 1.5}, "distinct must be a positive integer, got 1.5"),
        ({"queries": True}, "queries must be a positive integer, got True"),
    ],
)
def test_bad_budgets_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryBudget(instant(), **arguments)
