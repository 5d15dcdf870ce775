"""The contract of all wrappers, on every env."""

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from oracles import InstantOracle, random_loss
from play import IDS, instant_env, play_at_random, random_action
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from nosbench_env import wrappers
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

WRAPPERS: dict[str, Callable[[gymnasium.Env, Path], gymnasium.Env]] = {
    "ActionMaskObservation": lambda env, _: ActionMaskObservation(env),
    "EpisodeRecorder": lambda env, folder: EpisodeRecorder(env, folder / "episodes.jsonl"),
    "FlatObservation": lambda env, _: FlatObservation(env),
    "LengthCost": lambda env, _: LengthCost(env),
    "LogReward": lambda env, _: LogReward(env),
    "MultiObjectiveReward": lambda env, _: MultiObjectiveReward(env),
    "NoveltyBonus": lambda env, _: NoveltyBonus(env),
    "OneHotObservation": lambda env, _: OneHotObservation(env),
    "PotentialShaping": lambda env, _: PotentialShaping(env, 0.99),
    "QueryBudget": lambda env, _: QueryBudget(env, queries=1000),
    "RankReward": lambda env, _: RankReward(env),
    "RelativeReward": lambda env, _: RelativeReward(env),
    "RewardTransform": lambda env, _: RewardTransform(env, scale=0.5, low=-3, high=0.0),
    "TokenObservation": lambda env, _: TokenObservation(env),
    "many": lambda env, folder: ActionMaskObservation(
        OneHotObservation(EpisodeRecorder(PotentialShaping(NoveltyBonus(LogReward(env)), 1.0), folder / "e.jsonl"))
    ),
}
PAY_ONCE = ("LogReward", "RankReward", "many")  # not for rewards that add up
CASES = [
    (env_id, name) for env_id in IDS for name in WRAPPERS if (env_id, name) != ("NOSBenchEdit-v0", "RelativeReward")
]
everyone = pytest.mark.parametrize("wrapped", CASES, indirect=True, ids=lambda case: "-".join(case))
pytestmark = pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")  # it is wrapped


def make(env_id: str, name: str, folder: Path, **arguments: Any) -> gymnasium.Env:
    if env_id == "NOSBenchEdit-v0" and name in PAY_ONCE:
        arguments["evaluate"] = "end"
    return WRAPPERS[name](gymnasium.make(f"nosbench_env:{env_id}", task="toy", **arguments), folder)


@pytest.fixture
def wrapped(request: pytest.FixtureRequest, tmp_path: Path) -> gymnasium.Env:
    """Each wrapper around each env; the oracle answers at once."""
    return make(*request.param, tmp_path, oracle=InstantOracle(random_loss))


def test_every_wrapper_is_tested() -> None:
    names = {name for name in wrappers.__all__ if issubclass(getattr(wrappers, name), gymnasium.Wrapper)}
    assert names == set(WRAPPERS) - {"many"}


@everyone
@pytest.mark.parametrize("seed", range(2))
def test_both_checkers_pass(wrapped: gymnasium.Env, seed: int) -> None:
    wrapped.action_space.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(wrapped)
        check_env_for_sb3(wrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_both_checkers_pass_with_trainings(env_id: str, tmp_path: Path) -> None:
    arguments = {"start": "SGD", "max_edits": 3} if env_id == "NOSBenchEdit-v0" else {}
    wrapped = make(env_id, "many", tmp_path, epochs=1, device="cpu", store="sqlite://", **arguments)
    check_env(wrapped)
    check_env_for_sb3(wrapped)


@pytest.mark.parametrize(("env_id", "name"), CASES)
def test_spec_rebuilds_the_wrapped_env(env_id: str, name: str, tmp_path: Path) -> None:
    spec = make(env_id, name, tmp_path, max_instructions=15).spec
    rebuilt = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()))
    assert rebuilt.spec.additional_wrappers == spec.additional_wrappers


@everyone
def test_masks_reach_through(wrapped: gymnasium.Env) -> None:
    wrapped.reset()
    masks = wrapped.get_wrapper_attr("action_masks")()
    assert masks.dtype == np.bool_
    assert masks.shape == (gymnasium.spaces.flatdim(wrapped.action_space),)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return bool(np.all(first == second))


@everyone
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike_in_the_middle_of_an_episode(wrapped: gymnasium.Env, copied: Any) -> None:
    rng = np.random.default_rng(0)
    play_at_random(wrapped, rng)
    wrapped.reset()
    wrapped.step(random_action(wrapped, rng))
    twin = copied(wrapped)
    for episode in range(2):
        terminated = False
        if episode:
            wrapped.reset(), twin.reset()
        while not terminated:
            action = random_action(wrapped, rng)
            observation, reward, terminated, truncated, info = wrapped.step(action)
            assert observation in wrapped.observation_space
            others = twin.step(action)
            assert equal(observation, others[0])
            assert (reward, terminated, truncated, info) == others[1:]


@everyone
def test_rewards_and_ends_are_plain(wrapped: gymnasium.Env) -> None:
    rng = np.random.default_rng(1)
    for _, reward, terminated, truncated, info in play_at_random(wrapped, rng):
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert "status" in info or not terminated


def test_vector_envs_are_made_of_wrapped_envs_and_not_wrapped_themselves() -> None:
    arguments = {"task": "toy", "num_envs": 2, "vectorization_mode": "sync"}
    oracle = InstantOracle(lambda _: 1.0)
    envs = gymnasium.make_vec("nosbench_env:NOSBenchToken-v0", **arguments, wrappers=[NoveltyBonus], oracle=oracle)
    envs.reset()
    for tokens in ([0, 0], [28, 28], [36, 36]):  # r9 = square(grad), in both
        envs.step(np.array(tokens))
    assert envs.step(np.array([26, 26]))[1].tolist() == [-0.9, -0.9]  # new to each
    with pytest.raises((TypeError, AssertionError), match=r"`gymnasium\.Env`"):  # Gymnasium before 1.4 asserts
        LogReward(envs)


@pytest.mark.parametrize("name", ["LogReward", "RankReward", "RelativeReward"])
def test_wrappers_that_need_one_reward_an_episode_refuse_the_edit_env(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} .*NOSBenchEdit-v0"):
        WRAPPERS[name](gymnasium.make("nosbench_env:NOSBenchEdit-v0", task="toy"), tmp_path)


@pytest.mark.parametrize(
    ("wrapper", "arguments", "message"),
    [
        (RewardTransform, {"scale": 0.0}, "scale must be positive, got 0.0"),
        (RewardTransform, {"scale": -1.0}, "scale must be positive"),
        (RewardTransform, {"scale": math.inf}, "scale must be a finite number"),
        (RewardTransform, {"low": math.nan}, "low must be a finite number"),
        (RewardTransform, {"low": 1.0, "high": 1.0}, "low must be below high"),
        (RankReward, {"window": 0}, "window must be a positive integer, got 0"),
        (RankReward, {"window": 1.5}, "window must be a positive integer, got 1.5"),
        (NoveltyBonus, {"bonus": 0.0}, "bonus must be a finite number above 0, got 0.0"),
        (LengthCost, {"cost": math.nan}, "cost must be a finite number above 0, got nan"),
        (RelativeReward, {"reference": "Adamw"}, "Adamw"),
    ],
)
def test_bad_arguments_are_refused(wrapper: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapper(instant_env("NOSBench-v0", random_loss), **arguments)
