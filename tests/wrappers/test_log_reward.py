import math

import pytest
from play import instant_env, write

from nosbench_env import KNOWN_PROGRAMS
from nosbench_env.wrappers import LogReward

SGD = KNOWN_PROGRAMS["SGD"]


@pytest.mark.parametrize(("loss", "reward"), [(0.0, 0.0), (math.e - 1, -1.0), (1 - math.e, 1.0), (math.nan, -3.0445)])
def test_log_reward_is_logarithmic_on_either_side(loss: float, reward: float) -> None:
    assert write(LogReward(instant_env("NOSBench-v0", lambda _: loss)), SGD) == pytest.approx(reward, abs=1e-4)
