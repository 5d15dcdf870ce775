"""The wrappers that change an episode's final reward, and the recorder."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from oracles import InstantOracle, random_loss
from play import instant_env

from nosbench_env import KNOWN_PROGRAMS, NOSBenchEnv, Program, SearchSpace
from nosbench_env.wrappers import (
    EpisodeRecorder,
    LengthCost,
    LogReward,
    NoveltyBonus,
    RankReward,
    RelativeReward,
    RewardTransform,
)

SPACE = SearchSpace()
FAILS = Program.parse("r9 = log(r9); r9 = mul(r9, r10)")
ADAM = KNOWN_PROGRAMS["Adam"]
SGD = KNOWN_PROGRAMS["SGD"]


@pytest.fixture
def env() -> gymnasium.Env:
    return gymnasium.make("nosbench_env:NOSBench-v0", task="toy", epochs=1, device="cpu", store="sqlite://")


def play(env: gymnasium.Env, program: Program, seed: int | None = None) -> float:
    """The final reward of writing a program; the others are 0."""
    env.reset(seed=seed)
    for instruction in program:
        assert env.step(SPACE.encode(instruction))[1] == 0.0
    _, reward, terminated, _, _ = env.step(SPACE.stop_action)
    assert terminated
    return reward


def instant(loss: Callable[[Program], float]) -> NOSBenchEnv:
    return NOSBenchEnv("toy", oracle=InstantOracle(loss))


def of_loss(loss: float) -> Program:
    """A program whose loss is told by `told_loss`."""
    return Program.parse("; ".join(["r9 = mul(grad, 0.1)"] * round(loss)))


def told_loss(program: Program) -> float:
    return float(len(program))


def test_reward_is_scaled_then_clipped(env: gymnasium.Env) -> None:
    adam = play(env, ADAM)
    assert play(RewardTransform(env, scale=0.5), ADAM) == 0.5 * adam
    assert play(RewardTransform(env, scale=10, low=-2.0), ADAM) == -2.0
    assert play(RewardTransform(env, high=-1.5), ADAM) == -1.5
    assert play(RewardTransform(env, scale=0.1, low=-5), FAILS) == -2.0
    assert play(RewardTransform(env, low=-5), FAILS) == -5.0


def test_rewards_before_the_end_stay_0(env: gymnasium.Env) -> None:
    wrapped = RewardTransform(env, low=-3.0, high=-2.0)
    wrapped.reset()
    assert wrapped.step(SPACE.encode(SGD[0]))[1] == 0.0


@pytest.mark.parametrize(("loss", "reward"), [(0.0, 0.0), (math.e - 1, -1.0), (1 - math.e, 1.0), (math.nan, -3.0445)])
def test_log_reward_is_logarithmic_on_either_side(loss: float, reward: float) -> None:
    assert play(LogReward(instant(lambda _: loss)), SGD) == pytest.approx(reward, abs=1e-4)


def test_relative_reward_is_0_for_the_reference_and_asks_for_it_once() -> None:
    env = RelativeReward(instant(random_loss), reference="SGD")
    assert play(env, SGD) == 0.0
    assert play(env, ADAM) == pytest.approx(random_loss(SGD) - random_loss(ADAM))
    assert env.unwrapped.oracle.asked == [SGD, SGD, ADAM]


def test_relative_reward_takes_the_envs_conditions(tmp_path: Path) -> None:
    location = str(tmp_path / "results.sqlite")
    plain = NOSBenchEnv("toy", epochs=2, training_seed=3, store=location)
    expected = play(plain, ADAM) - play(plain, SGD)
    assert play(RelativeReward(plain, str(SGD)), ADAM) == expected


def test_a_reference_that_fails_is_refused() -> None:
    env = RelativeReward(instant(lambda program: math.nan if program == SGD else 1.0), "SGD")
    with pytest.raises(ValueError, match=r"the reference's loss must be finite, got nan of\n"):
        play(env, ADAM)


def test_an_interrupted_reference_leaves_the_episode_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    env = RelativeReward(instant(random_loss), reference="SGD")
    env.reset()
    with monkeypatch.context() as patched:
        patched.setattr(env.unwrapped.oracle, "query_many", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step(SearchSpace().stop_action)
    assert env.step(SearchSpace().stop_action)[2]


def test_rank_compares_with_the_last_episodes_alone() -> None:
    env = RankReward(instant(told_loss), window=3)
    ranks = [play(env, of_loss(loss)) for loss in (5, 4, 6, 5, 5, 5, 6)]
    assert ranks == pytest.approx([0.5, 1.0, 0.0, 0.5, 0.5, 2 / 3, 0.0])
    assert play(env, of_loss(4), seed=1) == 0.5  # a seed begins anew


def test_novelty_is_paid_once_for_what_does_the_same() -> None:
    env = NoveltyBonus(instant(lambda _: 1.0), bonus=0.25)
    unlike, alike = Program.parse("r9 = mul(grad, 0.1)"), Program.parse("r10 = exp(step); r9 = mul(0.1, grad)")
    assert play(env, unlike) == -0.75
    assert play(env, alike) == -1.0
    assert play(env, ADAM) == -0.75
    assert len(env.seen) == 2
    assert play(env, unlike, seed=0) == -0.75


def test_failures_are_not_novel() -> None:
    assert play(NoveltyBonus(instant(lambda _: math.nan)), SGD) == -20.0


def test_every_improvement_is_scaled_and_clipped_where_each_is_paid() -> None:
    def rewards(**arguments: float) -> list[float]:
        env = RewardTransform(instant_env("NOSBenchEdit-v0", told_loss, start="SGD"), **arguments)
        env.reset()
        delete, insert = [1, 0, *SPACE.encode(SGD[0])], [0, 0, *SPACE.encode(SGD[0])]
        nothing = [1, 0, *SPACE.encode(SGD[0])]
        env.step(delete), env.step(delete), env.step(delete)
        paid = [env.step(action)[1] for action in (nothing, insert)]  # a program of 1 can't get shorter: not evaluated
        env.reset()
        return [*paid, env.step(delete)[1]]

    assert len(SGD) == 4
    assert rewards() == [0.0, -1.0, 1.0]
    assert rewards(scale=2.0) == [0.0, -2.0, 2.0]
    assert rewards(low=-3.0, high=-0.5) == [0.0, -1.0, -0.5]


def test_length_costs_by_the_instruction() -> None:
    env = LengthCost(instant(told_loss), cost=0.5)
    assert play(env, of_loss(3)) == -4.5


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
        wrapper(instant(random_loss), **arguments)


def test_recorder_writes_a_line_for_each_finished_program(env: gymnasium.Env, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "episodes.jsonl"
    wrapped = EpisodeRecorder(env, path)
    rewards = [play(wrapped, program) for program in (SGD, FAILS, SGD)]
    wrapped.reset()
    wrapped.step(SPACE.encode(SGD[0]))
    wrapped.reset()  # the unfinished one is not recorded
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["episode"] for line in lines] == [1, 2, 3]
    assert [line["reward"] for line in lines] == rewards
    assert [line["length"] for line in lines] == [5, 3, 5]
    assert [Program.from_json(line["program"]) for line in lines] == [SGD, FAILS, SGD]
    assert [line["status"] for line in lines] == ["ok", "nan", "ok"]
    assert [line["hit"] for line in lines] == [False, True, True]
    assert lines[0]["loss"] == -rewards[0]


def test_recorder_writes_a_line_for_an_invalid_end(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    env = EpisodeRecorder(instant_env("NOSBenchToken-v0", random_loss), path)
    env.reset()
    for token in (0, 28, 36, 40):  # r9 = square(grad), and a slot where a function should be
        env.step(token)
    expected = {"episode": 1, "reward": -20.0, "length": 4, "program": [["square", [1], 9]]}
    assert json.loads(path.read_text()) == expected | {"loss": None, "status": "invalid"}


def test_recorder_appends_to_an_existing_file(env: gymnasium.Env, tmp_path: Path) -> None:
    for _ in range(2):
        play(EpisodeRecorder(env, tmp_path / "episodes.jsonl"), SGD)
    assert len((tmp_path / "episodes.jsonl").read_text().splitlines()) == 2


def test_recorder_sees_the_transformed_reward_only_outside_of_the_transform(env: gymnasium.Env, tmp_path: Path) -> None:
    inside = RewardTransform(EpisodeRecorder(env, tmp_path / "inside.jsonl"), scale=2.0)
    outside = EpisodeRecorder(RewardTransform(env, scale=2.0), tmp_path / "outside.jsonl")
    reward = play(inside, SGD)
    assert play(outside, SGD) == reward
    recorded = [json.loads((tmp_path / name).read_text())["reward"] for name in ("inside.jsonl", "outside.jsonl")]
    assert np.allclose(recorded, [reward / 2, reward])
