"""`FlatObservation`: the observation as numbers from 0 to 1."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class FlatObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Divides each number of a `MultiDiscrete` observation by its largest value.

    The result is a `Box` from 0 to 1, float32, of the same length. So a network's first layer is small: 100 inputs
    where `OneHotObservation` has 2,040. But the numbers name functions and slots, so close numbers are not similar.

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
        self._largest = np.maximum(space.nvec - 1, 1).astype(np.float32)
        self.observation_space = spaces.Box(0.0, 1.0, space.shape, np.float32)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.float32]:
        """Returns the observation, from 0 to 1."""
        scaled: NDArray[np.float32] = (observation / self._largest).astype(np.float32)
        return scaled


def multi_discrete_space(env: gymnasium.Env[Any, Any]) -> spaces.MultiDiscrete:
    """Returns the observation space of an env.

    Raises:
        ValueError: If it is not `MultiDiscrete`.
    """
    space = env.observation_space
    if not isinstance(space, spaces.MultiDiscrete):
        raise ValueError(f"env must have MultiDiscrete observations, got {space}")
    return space
