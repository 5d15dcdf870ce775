"""`LengthCost`: makes instructions cost something."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.wrappers.final_reward import FinalReward


class LengthCost(FinalReward):
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
        self.cost = cost

    def final_reward(self, reward: float) -> float:
        """The reward less the cost of the program's instructions."""
        return reward - self.cost * len(self.get_wrapper_attr("program"))
