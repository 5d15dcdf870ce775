"""`FinalReward`: what the wrappers that change the reward of a finished program have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class FinalReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs, ABC):
    """Changes the reward of the step that terminates an episode, and no other."""

    @abstractmethod
    def final_reward(self, reward: float) -> float:
        """The reward to pay instead of `reward`."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the env's, with the final reward changed."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated:
            reward = self.final_reward(float(reward))
        return observation, reward, terminated, truncated, info
