"""`LengthCost`: a cost for each instruction."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class LengthCost(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Subtracts `cost` per instruction from an episode's final reward.

    **Optimal policy:** changed. The shorter of two programs is better if its loss exceeds the longer one's by less than
    `cost` times the difference in length. Of equally good programs the shortest are optimal. Without discounting (gamma
    1) the best program stays the best if every shorter one is worse by more than that.

    Args:
        env: The environment.
        cost: Cost of an instruction, in the reward's unit (nats, unless an inner wrapper changes it); > 0.

    Raises:
        ValueError: If `cost` is not a finite number above 0.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], cost: float = 0.001) -> None:
        RecordConstructorArgs.__init__(self, cost=cost)
        super().__init__(env)
        if not math.isfinite(cost) or cost <= 0:
            raise ValueError(f"cost must be a finite number above 0, got {cost!r}")
        self.cost = float(cost)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step; the last one pays for the program's instructions."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            reward = float(reward) - self.cost * len(self.get_wrapper_attr("program"))
        return observation, reward, terminated, truncated, info
