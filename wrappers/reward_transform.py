"""`RewardTransform`: scales and clips the reward."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class RewardTransform(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Multiplies an episode's final reward by `scale`, then clips it to `[low, high]`.

    All other rewards are 0 and stay so. A positive scale alone keeps the optimal policy. Clipping makes programs beyond
    a bound equally good (or bad): the optimal policy is kept as long as the best program's scaled reward lies between
    `low` and `high`.

    Args:
        env: The environment.
        scale: A finite number > 0.
        low: The least reward paid; None for no bound.
        high: The greatest reward paid; None for no bound.

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
        self.scale, self.low, self.high = scale, low, high

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the env's, with the final reward transformed."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            reward = float(reward) * self.scale
            reward = reward if self.low is None else max(reward, self.low)
            reward = reward if self.high is None else min(reward, self.high)
        return observation, reward, terminated, truncated, info
