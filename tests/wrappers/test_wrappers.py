import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from nosbench_env import KNOWN_PROGRAMS, Program, SearchSpace
from nosbench_env.wrappers import EpisodeRecorder, RewardTransform

SPACE = SearchSpace()
FAILS = Program.parse("r9 = log(r9); r9 = mul(r9, r10)")
WRAPPERS: dict[str, Callable[[gymnasium.Env, Path], gymnasium.Env]] = {
    "EpisodeRecorder": lambda env, folder: EpisodeRecorder(env, folder / "episodes.jsonl"),
    "RewardTransform": lambda env, folder: RewardTransform(env, scale=0.5, low=-3, high=0.0),
    "both": lambda env, folder: EpisodeRecorder(RewardTransform(env, low=-5.0), folder / "episodes.jsonl"),
}
everyone = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture
def env() -> gymnasium.Env:
    return gymnasium.make("nosbench_env:NOSBench-v0", task="toy", epochs=1, device="cpu", store="sqlite://")


def play(env: gymnasium.Env, program: Program) -> float:
    env.reset()
    for instruction in program:
        env.step(SPACE.encode(instruction))
    _, reward, terminated, _, _ = env.step(SPACE.stop_action)
    assert terminated
    return reward


@everyone
@pytest.mark.parametrize("seed", range(3))
def test_both_checkers_pass(env: gymnasium.Env, wrap: Any, tmp_path: Path, seed: int) -> None:
    wrapped = wrap(env, tmp_path)
    wrapped.action_space.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")  # it is wrapped
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
    assert wrapped.get_wrapper_attr("action_masks")().shape == (98,)


def test_reward_is_scaled_then_clipped(env: gymnasium.Env) -> None:
    adam = play(env, KNOWN_PROGRAMS["Adam"])
    assert play(RewardTransform(env, scale=0.5), KNOWN_PROGRAMS["Adam"]) == 0.5 * adam
    assert play(RewardTransform(env, scale=10, low=-2.0), KNOWN_PROGRAMS["Adam"]) == -2.0
    assert play(RewardTransform(env, high=-1.5), KNOWN_PROGRAMS["Adam"]) == -1.5
    assert play(RewardTransform(env, scale=0.1, low=-5), FAILS) == -2.0
    assert play(RewardTransform(env, low=-5), FAILS) == -5.0


def test_rewards_before_the_end_stay_0(env: gymnasium.Env) -> None:
    wrapped = RewardTransform(env, low=-3.0, high=-2.0)
    wrapped.reset()
    assert wrapped.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][0]))[1] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale must be positive, got 0.0"),
        ({"scale": -1.0}, "scale must be positive"),
        ({"scale": math.inf}, "scale must be a finite number"),
        ({"low": math.nan}, "low must be a finite number"),
        ({"low": 1.0, "high": 1.0}, "low must be below high"),
    ],
)
def test_bad_transforms_are_refused(env: gymnasium.Env, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardTransform(env, **arguments)


def test_recorder_writes_a_line_for_each_finished_program(env: gymnasium.Env, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "episodes.jsonl"
    wrapped = EpisodeRecorder(env, path)
    rewards = [play(wrapped, program) for program in (KNOWN_PROGRAMS["SGD"], FAILS, KNOWN_PROGRAMS["SGD"])]
    wrapped.reset()
    wrapped.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][0]))
    wrapped.reset()  # the unfinished one is not recorded
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["episode"] for line in lines] == [1, 2, 3]
    assert [line["reward"] for line in lines] == rewards
    assert [line["length"] for line in lines] == [5, 3, 5]
    assert [Program.from_json(line["program"]) for line in lines] == [
        KNOWN_PROGRAMS["SGD"],
        FAILS,
        KNOWN_PROGRAMS["SGD"],
    ]
    assert [line["status"] for line in lines] == ["ok", "nan", "ok"]
    assert [line["hit"] for line in lines] == [False, True, True]
    assert lines[0]["loss"] == -rewards[0]


def test_recorder_appends_to_an_existing_file(env: gymnasium.Env, tmp_path: Path) -> None:
    for _ in range(2):
        play(EpisodeRecorder(env, tmp_path / "episodes.jsonl"), KNOWN_PROGRAMS["SGD"])
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 2


def test_recorder_sees_the_transformed_reward_only_outside_of_the_transform(env: gymnasium.Env, tmp_path: Path) -> None:
    inside = RewardTransform(EpisodeRecorder(env, tmp_path / "inside.jsonl"), scale=2.0)
    outside = EpisodeRecorder(RewardTransform(env, scale=2.0), tmp_path / "outside.jsonl")
    reward = play(inside, KNOWN_PROGRAMS["SGD"])
    assert play(outside, KNOWN_PROGRAMS["SGD"]) == reward
    recorded = [json.loads((tmp_path / name).read_text())["reward"] for name in ("inside.jsonl", "outside.jsonl")]
    assert np.allclose(recorded, [reward / 2, reward])
