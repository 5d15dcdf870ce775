"""The effect of each wrapper on the optimal policy, in a space whose episodes can all be played.

The env is deterministic, so a policy is a sequence of actions.
"""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from oracles import InstantOracle, random_loss

from nosbench_env import NOSBenchEnv, Program, SearchSpace
from nosbench_env.comparison.pareto import pareto_front
from nosbench_env.language.costs import COSTS, operations
from nosbench_env.wrappers import (
    ActionMaskObservation,
    EpisodeRecorder,
    FlatObservation,
    LengthCost,
    LogReward,
    MultiObjectiveReward,
    NoveltyBonus,
    OneHotObservation,
    PotentialShaping,
    QueryBudget,
    RankReward,
    RelativeReward,
    RewardTransform,
    TokenObservation,
)

INSTRUCTIONS = Program.parse("r9 = mul(grad, 0.1); r9 = exp(r10); r10 = add(r9, param)")
SPACE = SearchSpace(max_instructions=3)
ACTIONS = [*map(SPACE.encode, INSTRUCTIONS), SPACE.stop_action]
STOP = len(INSTRUCTIONS)
# All sequences of actions that end an episode: three instructions, or fewer and STOP.
EPISODES = [
    (*written, *([STOP] if length < 3 else []))
    for length in range(4)
    for written in itertools.product(range(STOP), repeat=length)
]
REFERENCE = "r9 = mul(grad, 0.1)"
Wrap = Callable[[gymnasium.Env], gymnasium.Env]


def make(wrap: Wrap, loss: Callable[[Program], float] = random_loss) -> gymnasium.Env:
    return wrap(NOSBenchEnv("toy", max_instructions=3, oracle=InstantOracle(loss)))


def value(env: gymnasium.Env, episode: tuple[int, ...], gamma: float = 1.0) -> float:
    """The discounted return of an episode."""
    env.reset()
    total, terminated = 0.0, False
    for time, action in enumerate(episode):
        assert not terminated
        _, reward, terminated, _, _ = env.step(ACTIONS[action])
        total += gamma**time * reward
    assert terminated
    return total


def values(env: gymnasium.Env, gamma: float = 1.0) -> dict[tuple[int, ...], float]:
    return {episode: value(env, episode, gamma) for episode in EPISODES}


def optimal(returns: dict[tuple[int, ...], float]) -> set[tuple[int, ...]]:
    best = max(returns.values())
    return {episode for episode, total in returns.items() if total > best - 1e-9}


def plain(env: gymnasium.Env) -> gymnasium.Env:
    return env


KEEPS_RETURNS: dict[str, Callable[[gymnasium.Env, Path], gymnasium.Env]] = {
    "ActionMaskObservation": lambda env, _: ActionMaskObservation(env),
    "OneHotObservation": lambda env, _: OneHotObservation(env),
    "FlatObservation": lambda env, _: FlatObservation(env),
    "TokenObservation": lambda env, _: TokenObservation(env),
    "EpisodeRecorder": lambda env, folder: EpisodeRecorder(env, folder / "episodes.jsonl"),
    "QueryBudget": lambda env, _: QueryBudget(env, queries=1000),
}


def test_there_are_many_policies_and_one_is_the_best() -> None:
    assert len(EPISODES) == 1 + 3 + 9 + 27
    assert len(optimal(values(make(plain)))) == 1


@pytest.mark.parametrize("wrap", KEEPS_RETURNS.values(), ids=KEEPS_RETURNS)
def test_what_only_observes_changes_no_return(wrap: Any, tmp_path: Path) -> None:
    assert values(make(lambda env: wrap(env, tmp_path)), 0.9) == values(make(plain), 0.9)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("potential", ["usable", "gradient"])
def test_shaping_changes_no_return(gamma: float, potential: str) -> None:
    shaped = values(make(lambda env: PotentialShaping(env, gamma, potential, scale=3.0)), gamma)
    assert shaped == pytest.approx(values(make(plain), gamma))


def test_shaping_for_another_discount_changes_returns() -> None:
    shaped = values(make(lambda env: PotentialShaping(env, 0.5)), gamma=1.0)
    assert shaped != pytest.approx(values(make(plain)))


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_scale_keeps_the_order_of_policies_under_any_discount(gamma: float) -> None:
    before, after = values(make(plain), gamma), values(make(lambda env: RewardTransform(env, scale=0.1)), gamma)
    assert sorted(EPISODES, key=before.get) == sorted(EPISODES, key=after.get)


@pytest.mark.parametrize("wrap", [LogReward, partial(RelativeReward, reference=REFERENCE)], ids=["log", "relative"])
def test_log_and_reference_keep_the_order_of_policies_without_discount(wrap: Wrap) -> None:
    before, after = values(make(plain)), values(make(wrap))
    assert sorted(EPISODES, key=before.get) == sorted(EPISODES, key=after.get)


def by_length(*losses: float) -> Callable[[Program], float]:
    """A loss for each length of a program; 9 for the others."""
    return lambda program: losses[len(program)] if len(program) < len(losses) else 9.0


@pytest.mark.parametrize(
    ("wrap", "loss"),
    [
        # The rewards 2 and 3 come with the second and the third step, worth 1 and 0.75; less 2 each, 0 and 0.25.
        (partial(RelativeReward, reference="r11 = exp(step)"), by_length(9.0, -2.0, -3.0)),
        # 1 and 2.5 are worth 0.5 and 0.63; as logarithms 0.35 and 0.31.
        (LogReward, by_length(9.0, -1.0, -2.5)),
    ],
    ids=["relative", "log"],
)
def test_log_and_reference_may_change_it_with_discount(wrap: Wrap, loss: Callable[[Program], float]) -> None:
    before, after = (optimal(values(make(wrapper, loss), gamma=0.5)) for wrapper in (plain, wrap))
    assert before.isdisjoint(after)


def test_clipping_keeps_the_best_program_only_if_it_lies_within_the_bounds() -> None:
    returns = values(make(plain))
    best, second = sorted(returns.values(), reverse=True)[:2]
    within = values(make(lambda env: RewardTransform(env, low=(best + second) / 2, high=best + 1)))
    assert optimal(within) == optimal(returns)
    beyond = values(make(lambda env: RewardTransform(env, high=second)))
    assert optimal(beyond) > optimal(returns)


def test_a_length_costs_its_price_in_loss() -> None:
    returns = values(make(plain))
    for cost in (1e-6, 0.05, 2.0):
        lengths = {episode: len(episode) - (STOP in episode) for episode in EPISODES}
        expected = {episode: returns[episode] - cost * lengths[episode] for episode in EPISODES}
        assert values(make(lambda env, cost=cost: LengthCost(env, cost))) == pytest.approx(expected)
    assert optimal(values(make(lambda env: LengthCost(env, 1e-6)))) == optimal(returns)
    assert optimal(values(make(lambda env: LengthCost(env, 2.0)))) == {(STOP,)}


def written(episode: tuple[int, ...]) -> Program:
    return Program(tuple(INSTRUCTIONS[action] for action in episode if action != STOP))


def points(loss: Callable[[Program], float], *costs: str) -> dict[tuple[int, ...], tuple[float, ...]]:
    """The loss and the costs of each episode's program."""
    programs = {episode: written(episode) for episode in EPISODES}
    return {
        episode: (loss(program), *(COSTS[name](program) for name in costs)) for episode, program in programs.items()
    }


def weighted(env: gymnasium.Env, weights: Any, **arguments: Any) -> gymnasium.Env:
    return MultiObjectiveReward(env, weights=list(weights), **arguments)


@pytest.mark.parametrize("seed", range(5))
def test_linear_weights_pay_the_weighted_sum_and_lead_to_the_front(seed: int) -> None:
    weights = np.random.default_rng(seed).uniform(0.01, 1.0, 3)
    point_of = points(random_loss, "memory", "operations")
    returns = values(make(partial(weighted, weights=weights)))
    assert returns == pytest.approx({episode: -weights @ point for episode, point in point_of.items()})
    front = {list(point_of.values())[place] for place in pareto_front(list(point_of.values()))}
    assert {point_of[episode] for episode in optimal(returns)} <= front


def to_reach(point: tuple[float, ...], ideal: tuple[float, ...]) -> list[float]:
    """Weights for which a point on the front is nearest to the ideal one."""
    return [1 / (value - best) if value > best else 1e3 for value, best in zip(point, ideal, strict=True)]


def test_chebyshev_weights_lead_to_any_program_on_the_front() -> None:
    point_of = points(random_loss, "memory", "operations")
    front = [list(point_of.values())[place] for place in pareto_front(list(point_of.values()))]
    assert len(front) > 2
    ideal = min(point[0] for point in front) - 0.5
    for point in front:
        wrap = partial(weighted, weights=to_reach(point, (ideal, 0, 0)), scalarisation="chebyshev", ideal_reward=-ideal)
        assert {point_of[episode] for episode in optimal(values(make(wrap)))} == {point}


def test_what_lies_in_a_dent_of_the_front_is_for_chebyshev_alone() -> None:
    def loss(program: Program) -> float:
        return {0: 1.0, 2: 0.9, 3: 0.0}.get(operations(program), 5.0)

    point_of = points(loss, "operations")
    dent = (0.9, 2)
    assert dent in {list(point_of.values())[place] for place in pareto_front(list(point_of.values()))}
    for weight in np.geomspace(1e-3, 1e3, 40):
        wrap = partial(weighted, weights=[1.0, weight], costs=["operations"])
        assert dent not in {point_of[episode] for episode in optimal(values(make(wrap, loss)))}
    wrap = partial(
        weighted,
        weights=to_reach(dent, (-1, 0)),
        costs=["operations"],
        scalarisation="chebyshev",
        ideal_reward=1.0,
    )
    assert {point_of[episode] for episode in optimal(values(make(wrap, loss)))} == {dent}


def test_novelty_draws_to_what_is_new_and_then_leaves_the_best_policy_the_best() -> None:
    losses = by_length(9.0, 1.0, 1.05)
    best = optimal(values(make(plain, losses)))
    env = make(lambda env: NoveltyBonus(env, 0.1), losses)
    first = value(env, (0, STOP))
    assert first == pytest.approx(-0.9)
    assert value(env, (0, 2, STOP)) == pytest.approx(-0.95)  # worse, and new
    assert value(env, (0, STOP)) == pytest.approx(-1.0)  # better, and known
    values(env)
    assert optimal(values(env)) == best
    assert values(env) == values(make(plain, losses))


@pytest.mark.parametrize("seed", range(5))
def test_ranks_keep_the_order_but_not_above_all_that_was_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    returns = values(make(plain))
    seen = [EPISODES[number] for number in rng.choice(len(EPISODES), 10, replace=False)]
    ranks = {}
    for episode in EPISODES:
        env = make(lambda env: RankReward(env, 10))
        for before in seen:
            value(env, before)
        ranks[episode] = value(env, episode)
    for first, second in itertools.combinations(EPISODES, 2):
        worse, better = sorted((first, second), key=returns.get)
        between = any(returns[worse] <= returns[other] <= returns[better] for other in seen)
        assert (ranks[worse] < ranks[better]) if between else (ranks[worse] == ranks[better])
    best_seen = max(returns[other] for other in seen)
    assert {ranks[episode] for episode in EPISODES if returns[episode] > best_seen} <= {1.0}
