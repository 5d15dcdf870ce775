"""`RewardTransform`: scaled and clipped rewards."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.wrappers.evaluation_reward import EvaluationReward


class RewardTransform(EvaluationReward):
    """Scales an evaluated program's reward, then clips it to `[low, high]`.

    **Optimal policy:** kept by scaling alone. Clipping makes all programs beyond a bound equal. Without discounting
    (gamma 1) the optimal policy is kept as long as the best program's scaled reward lies between `low` and `high`. With
    a smaller gamma, clipping may also change the order of a long and a short program. In `NOSBenchEdit-v0` with
    `evaluate="step"` each improvement is clipped by itself, so clipped rewards do not add up to the whole improvement,
    and the optimal policy changes.

    Args:
        env: The environment.
        scale: A finite number > 0.
        low: The lowest reward; None for no bound.
        high: The highest reward; None for no bound.

    Raises:
        ValueError: If `scale` is not positive, a number not finite, or `low` not below `high`.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], scale: float = 1.0, low: float | None = None, high: float | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, scale=scale, low=low, high=high)
        super().__init__(env)
        for name, value in (("scale", scale), ("low", low), ("high", high)):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale!r}: another sign would reward bad programs")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"low must be below high, got {low!r} and {high!r}")
        self.scale = float(scale)
        self.low, self.high = None if low is None else float(low), None if high is None else float(high)

    def changed(self, reward: float) -> float:
        """Returns the reward, scaled and clipped."""
        reward *= self.scale
        reward = reward if self.low is None else max(reward, self.low)
        return reward if self.high is None else min(reward, self.high)
