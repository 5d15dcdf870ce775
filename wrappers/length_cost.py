"""`LengthCost`: makes instructions cost something."""

from __future__ import annotations

import math
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class LengthCost(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Subtracts `cost` from an episode's final reward for each instruction of its program.

    **Optimal policy:** changed: of two programs the shorter is now better if its loss is less than `cost` times the
    difference in length above the longer's. Of equally good programs the shortest are left. Without discounting (gamma
    1) the best program stays the best if every shorter one is worse by more than that.

    Args:
        env: The environment.
        cost: Of an instruction, in the reward's unit (nats, unless another wrapper inside changes it); > 0.

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
        """As the env's; the last step of an episode pays for the program's instructions."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            reward = float(reward) - self.cost * len(self.get_wrapper_attr("program"))
        return observation, reward, terminated, truncated, info
