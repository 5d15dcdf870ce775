import json
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
from play import IDS, random_action

from nosbench_env.rllib import ENV_IDS, make_env, register_rllib
from nosbench_env.wrappers import ActionMaskObservation, OneHotObservation, RewardTransform

TOY = {"task": "toy", "epochs": 1, "store": "sqlite://"}


def test_all_envs_are_offered() -> None:
    assert set(ENV_IDS) == set(IDS) == {name for name in gymnasium.registry if name.startswith("NOSBench")}


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_one_dict_makes_an_env_with_its_wrappers(env_id: str) -> None:
    wrappers = {"RewardTransform": {"scale": 0.5}, "OneHotObservation": {}, "ActionMaskObservation": {}}
    config = json.loads(json.dumps(TOY | {"memory_size": 12, "wrappers": wrappers}))
    if env_id == "NOSBenchEdit-v0":
        config["start"] = "SGD"
    before = json.dumps(config)
    env = make_env(env_id, config)
    assert json.dumps(config) == before
    assert env.unwrapped.search_space.memory_size == 12
    assert isinstance(env, ActionMaskObservation)
    assert isinstance(env.env, OneHotObservation)
    assert isinstance(env.env.env, RewardTransform)
    assert env.env.env.scale == 0.5
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    assert env.step(random_action(env, np.random.default_rng(0)))[0] in env.observation_space


def test_no_wrapper_is_needed() -> None:
    assert isinstance(make_env("NOSBench-v0", TOY).observation_space, gymnasium.spaces.MultiDiscrete)


@pytest.mark.parametrize(
    ("wrappers", "message"),
    [
        ({"ActionMask": {}}, "unknown wrapper 'ActionMask'; known are ActionMaskObservation, EpisodeRecorder"),
        ({"BudgetSpent": {}}, "unknown wrapper 'BudgetSpent'"),
        (["ActionMaskObservation"], "'wrappers' must be a dict of names and arguments"),
        ({"RewardTransform": {"scale": -1.0}}, "scale must be positive"),
    ],
)
def test_bad_wrappers_are_refused(wrappers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env("NOSBench-v0", TOY | {"wrappers": wrappers})


def test_without_rllib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(ImportError, match=r"pip install 'nosbench_env\[ray\]'"):
        register_rllib()


def test_rllib_finds_the_envs_by_their_ids() -> None:
    pytest.importorskip("ray.rllib", reason="needs RLlib: pip install 'nosbench_env[ray]'")
    from ray.tune.registry import ENV_CREATOR, _global_registry

    register_rllib()
    for env_id in ENV_IDS:
        assert _global_registry.get(ENV_CREATOR, env_id)(TOY).unwrapped.spec.id == env_id
