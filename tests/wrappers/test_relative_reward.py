import math
from pathlib import Path

import pytest
from oracles import random_loss
from play import instant_env, write

from nosbench_env import KNOWN_PROGRAMS, NOSBenchEnv, SearchSpace
from nosbench_env.wrappers import RelativeReward

ADAM = KNOWN_PROGRAMS["Adam"]
SGD = KNOWN_PROGRAMS["SGD"]


def test_relative_reward_is_0_for_the_reference_and_asks_for_it_once() -> None:
    env = RelativeReward(instant_env("NOSBench-v0", random_loss), reference="SGD")
    assert write(env, SGD) == 0.0
    assert write(env, ADAM) == pytest.approx(random_loss(SGD) - random_loss(ADAM))
    assert env.unwrapped.oracle.asked == [SGD, SGD, ADAM]


def test_relative_reward_takes_the_envs_conditions(tmp_path: Path) -> None:
    location = str(tmp_path / "results.sqlite")
    plain = NOSBenchEnv("toy", epochs=2, training_seed=3, store=location)
    expected = write(plain, ADAM) - write(plain, SGD)
    assert write(RelativeReward(plain, str(SGD)), ADAM) == expected


def test_a_reference_that_fails_is_refused() -> None:
    env = RelativeReward(instant_env("NOSBench-v0", lambda program: math.nan if program == SGD else 1.0), "SGD")
    with pytest.raises(ValueError, match=r"the reference's loss must be finite, got nan of\n"):
        write(env, ADAM)


def test_an_interrupted_reference_leaves_the_episode_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    env = RelativeReward(instant_env("NOSBench-v0", random_loss), reference="SGD")
    env.reset()
    with monkeypatch.context() as patched:
        patched.setattr(env.unwrapped.oracle, "query_many", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step(SearchSpace().stop_action)
    assert env.step(SearchSpace().stop_action)[2]
