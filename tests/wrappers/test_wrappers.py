"""What all wrappers have in common, on every env."""

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from play import IDS, allowed_action, play_at_random
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from nosbench_env import wrappers
from nosbench_env.wrappers import (
    ActionMaskObservation,
    EpisodeRecorder,
    FlatObservation,
    LengthCost,
    LogReward,
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
everyone = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
pytestmark = pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")  # it is wrapped


@pytest.fixture(params=IDS)
def env(request: pytest.FixtureRequest) -> gymnasium.Env:
    return gymnasium.make(f"nosbench_env:{request.param}", task="toy", epochs=1, device="cpu", store="sqlite://")


def test_every_wrapper_is_tested() -> None:
    names = {name for name in wrappers.__all__ if issubclass(getattr(wrappers, name), gymnasium.Wrapper)}
    assert names == set(WRAPPERS) - {"many"}


@everyone
@pytest.mark.parametrize("seed", range(2))
def test_both_checkers_pass(env: gymnasium.Env, wrap: Any, tmp_path: Path, seed: int) -> None:
    wrapped = wrap(env, tmp_path)
    wrapped.action_space.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(wrapped)
        check_env_for_sb3(wrapped)


@everyone
def test_spec_rebuilds_the_wrapped_env(env: gymnasium.Env, wrap: Any, tmp_path: Path) -> None:
    spec = wrap(env, tmp_path).spec
    rebuilt = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()))
    assert rebuilt.spec.additional_wrappers == spec.additional_wrappers


@everyone
def test_masks_reach_through(env: gymnasium.Env, wrap: Any, tmp_path: Path) -> None:
    wrapped = wrap(env, tmp_path)
    wrapped.reset()
    masks = wrapped.get_wrapper_attr("action_masks")()
    assert masks.dtype == np.bool_
    assert masks.shape == (gymnasium.spaces.flatdim(env.action_space),)


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return bool(np.all(first == second))


@everyone
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike_in_the_middle_of_an_episode(
    env: gymnasium.Env, wrap: Any, tmp_path: Path, copied: Any
) -> None:
    wrapped, rng = wrap(env, tmp_path), np.random.default_rng(0)
    play_at_random(wrapped, rng)
    wrapped.reset()
    wrapped.step(allowed_action(wrapped, rng))
    twin = copied(wrapped)
    for episode in range(2):
        terminated = False
        if episode:
            wrapped.reset(), twin.reset()
        while not terminated:
            action = allowed_action(wrapped, rng)
            observation, reward, terminated, truncated, info = wrapped.step(action)
            assert observation in wrapped.observation_space
            others = twin.step(action)
            assert equal(observation, others[0])
            assert (reward, terminated, truncated, info) == others[1:]


@everyone
def test_rewards_and_ends_are_plain(env: gymnasium.Env, wrap: Any, tmp_path: Path) -> None:
    wrapped, rng = wrap(env, tmp_path), np.random.default_rng(1)
    for _, reward, terminated, truncated, info in play_at_random(wrapped, rng):
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert bool(info) == terminated
