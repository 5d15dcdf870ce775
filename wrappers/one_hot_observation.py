"""`OneHotObservation`: each number of the observation as a one among zeros."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class OneHotObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Writes each number of a `MultiDiscrete` observation one-hot: a `Box` of 0 and 1, `(sum(nvec),)` float32.

    For agents that would read the numbers as magnitudes (RLlib's default networks do). stable-baselines3 writes
    `MultiDiscrete` observations one-hot by itself.

    **Optimal policy:** kept; the observation says the same.

    Args:
        env: The environment.

    Raises:
        ValueError: If its observations are not `MultiDiscrete`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.MultiDiscrete):
            raise ValueError(f"env must have MultiDiscrete observations, got {space}")
        self._first = np.cumsum(space.nvec) - space.nvec
        self.observation_space = spaces.Box(0.0, 1.0, (int(space.nvec.sum()),), np.float32)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.float32]:
        """The observation, one-hot."""
        ones = np.zeros(self.observation_space.shape or (), np.float32)
        ones[self._first + observation] = 1.0
        return ones
