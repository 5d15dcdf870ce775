"""`OneHotObservation`: the observation in one-hot encoding."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from nosbench_env.wrappers.flat_observation import multi_discrete_space


class OneHotObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Encodes each number of a `MultiDiscrete` observation one-hot.

    The result is a `Box` of 0 and 1, `(sum(nvec),)` float32. It is for agents that would read the numbers as
    magnitudes, as RLlib's default networks do. stable-baselines3 encodes `MultiDiscrete` observations one-hot itself.

    **Optimal policy:** kept; the observation holds the same.

    Args:
        env: The environment.

    Raises:
        ValueError: If its observations are not `MultiDiscrete`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = multi_discrete_space(env)
        self._first = np.cumsum(space.nvec) - space.nvec
        self.observation_space = spaces.Box(0.0, 1.0, (int(space.nvec.sum()),), np.float32)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the observation, one-hot."""
        ones = np.zeros(self.observation_space.shape or (), np.float32)
        ones[self._first + observation] = 1.0
        return ones
