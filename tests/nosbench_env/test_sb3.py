import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import MadeUpOracle
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from nosbench_env import NOSBenchEditEnv, NOSBenchEnv, NOSBenchTokenEnv
from nosbench_env.envs.vector_env import NOSBenchTokenVectorEnv
from nosbench_env.sb3 import NOSBenchVecEnv, make_sb3_env

SHORT = {"max_instructions": 3, "memory_size": 12}
KINDS = {
    "instructions": ("NOSBench-v0", NOSBenchEnv, SHORT),
    "tokens": ("NOSBenchToken-v0", NOSBenchTokenEnv, SHORT),
    "tokens, constrained": ("NOSBenchToken-v0", NOSBenchTokenEnv, SHORT | {"constraints": ["used"]}),
    "edits": ("NOSBenchEdit-v0", NOSBenchEditEnv, {"max_edits": 4, "start": "SGD"}),
}
SMALL_NET = {"policy_kwargs": {"net_arch": [16]}, "device": "cpu", "seed": 0}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Networks this small are slower with several threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(kind: str, n_envs: int = 3, **arguments: Any) -> NOSBenchVecEnv:
    name, _, own = KINDS[kind]
    return make_sb3_env(f"nosbench_env:{name}", n_envs, **own, **arguments)


def make_dummy(kind: str, n_envs: int, **arguments: Any) -> DummyVecEnv:
    _, env_type, own = KINDS[kind]
    return DummyVecEnv([lambda: Monitor(env_type(**own, **arguments))] * n_envs)


def assert_same(actual: Any, expected: Any) -> None:
    """Equal at every depth, in dtypes too, but for the seconds of a monitor."""
    if isinstance(expected, np.ndarray):
        assert (type(actual), actual.dtype) == (np.ndarray, expected.dtype)
        np.testing.assert_array_equal(actual, expected)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected.keys() - {"t"}:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert (type(actual), actual) == (type(expected), expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), heeding=st.sampled_from([0.0, 0.9, 1.0]))
def test_every_step_is_that_of_a_dummy_vec_env(kind: str, seed: int, heeding: float) -> None:
    rng, oracle = np.random.default_rng(seed), MadeUpOracle()
    envs, dummy = make(kind, oracle=oracle), make_dummy(kind, 3, oracle=oracle)
    envs.action_space.seed(seed)
    assert_same((envs.observation_space, envs.action_space), (dummy.observation_space, dummy.action_space))
    assert envs.seed(7) == dummy.seed(7)
    assert_same(envs.reset(), dummy.reset())
    for _ in range(40):
        masks = envs.env_method("action_masks")
        assert_same(masks, dummy.env_method("action_masks"))
        actions = [envs.action_space.sample() for _ in range(3)]
        if "tokens" in kind:
            actions = [
                rng.choice(np.flatnonzero(mask)) if rng.random() < heeding else action
                for mask, action in zip(masks, actions, strict=True)
            ]
        assert_same(envs.step(np.array(actions)), dummy.step(np.array(actions)))
        assert envs.reset_infos == dummy.reset_infos
    for name in ("program", "np_random_seed", "render_mode"):
        assert envs.get_attr(name) == dummy.get_attr(name)


def test_options_are_used_at_the_next_reset_alone() -> None:
    envs = make("edits", 2, oracle=MadeUpOracle())
    envs.set_options([{"program": "Adam"}, {}])
    envs.reset()
    adam, sgd = envs.get_attr("program")
    assert adam != sgd
    envs.reset()
    assert envs.get_attr("program") == [sgd, sgd]


@pytest.mark.parametrize("kind", ["tokens", "tokens, constrained"])
def test_methods_and_attributes_of_some_environments(kind: str) -> None:
    envs = make(kind, 3, oracle=MadeUpOracle())
    envs.reset()
    envs.step(np.array([26, 26, 26]))  # STOP first is not allowed
    envs.step(np.array([0, 0, 0]))
    (state,) = envs.env_method("get_state", indices=1)
    assert state["partial"] == [0]
    assert len(envs.env_method("action_masks", indices=[0, 2])) == 2
    envs.set_attr("failure_reward", -3.0, indices=[2])
    assert envs.get_attr("failure_reward") == [-20.0, -20.0, -3.0]
    assert envs.get_attr("failure_reward", indices=2) == [-3.0]
    assert envs.step(np.array([26, 26, 26]))[1].tolist() == [-20.0, -20.0, -3.0]
    assert envs.env_method("set_state", state, indices=[0])[0][0] == 1
    assert envs.env_method("get_state", indices=[0]) == [state]
    assert (envs.has_attr("action_masks"), envs.has_attr("no_such_thing")) == (True, False)


def test_a_vector_env_of_another_autoreset_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the autoreset mode 'SameStep', got 'NextStep'"):
        NOSBenchVecEnv(NOSBenchTokenVectorEnv(2))


class Statuses(BaseCallback):
    """Counts how episodes end."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def _on_step(self) -> bool:
        self.counts.update(info["status"] for info in self.locals["infos"] if "status" in info)
        return True


def test_maskable_ppo_writes_nothing_invalid_in_10000_steps() -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    envs = make_sb3_env("nosbench_env:NOSBenchToken-v0", 50, seed=0, oracle=MadeUpOracle())
    model = sb3_contrib.MaskablePPO("MlpPolicy", envs, n_steps=100, batch_size=1000, n_epochs=2, **SMALL_NET)
    statuses = Statuses()
    model.learn(10_000, callback=statuses)
    assert model.num_timesteps == 10_000
    assert statuses.counts["invalid"] == 0
    assert statuses.counts.total() > 100
    assert statuses.counts.keys() == {"ok", "nan", "inf"}
    evaluation = pytest.importorskip("sb3_contrib.common.maskable.evaluation")
    returns, lengths = evaluation.evaluate_policy(model, envs, 8, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 8
    assert min(lengths) > 1


def test_ppo_trains_and_logs_what_episodes_pay(tmp_path: Path) -> None:
    envs = make("instructions", 8, oracle=MadeUpOracle())
    model = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, n_epochs=1, **SMALL_NET)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(512)
    model.logger.close()
    with (tmp_path / "progress.csv").open() as file:
        lines = list(csv.DictReader(file))
    expected = safe_mean([episode["r"] for episode in model.ep_info_buffer])
    assert float(lines[-1]["rollout/ep_rew_mean"]) == pytest.approx(expected)
    assert 1 <= float(lines[-1]["rollout/ep_len_mean"]) <= 3
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=10)
    assert -20 <= mean <= 5


def test_what_monitors_and_normalizes_takes_it(tmp_path: Path) -> None:
    envs = make("tokens", 4, oracle=MadeUpOracle(), monitor=False)
    assert envs.env_is_wrapped(Monitor) == [False] * 4
    monitored = VecMonitor(envs, str(tmp_path / "log"), info_keywords=("program",))
    normalized = VecNormalize(monitored, norm_obs=False)
    normalized.reset()
    actual = [infos for *_, infos in (normalized.step(np.array([26] * 4)) for _ in range(3))]
    assert [info["episode"]["r"] for infos in actual for info in infos] == [-20.0] * 12
    normalized.close()
    assert len((tmp_path / "log.monitor.csv").read_text().splitlines()) == 2 + 12
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        VecMonitor(make("tokens", oracle=MadeUpOracle()))
