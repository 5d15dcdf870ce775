"""`LogReward`: the reward on a logarithmic scale."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.wrappers.evaluation_reward import EvaluationReward, check_pays_once


class LogReward(EvaluationReward):
    """Pays `sign(r) * log(1 + |r|)` for an episode's final reward r.

    This shrinks differences between bad programs and keeps those between good ones, whose rewards lie around 0: -20
    becomes -3.04, -1 becomes -0.69, 0.1 becomes 0.095. Unlike a logarithm of the loss it allows losses below 0, which
    the PFN task has.

    **Optimal policy:** kept without discounting (gamma 1), since a greater reward stays greater. With a smaller gamma
    the order of a long and a short program may change.

    Args:
        env: The environment.

    Raises:
        ValueError: If the env pays more than once an episode (`NOSBenchEdit-v0` with `evaluate="step"`).
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        check_pays_once(env, "LogReward")

    def changed(self, reward: float) -> float:
        """Returns the reward on the logarithmic scale."""
        return math.copysign(math.log1p(abs(reward)), reward)
