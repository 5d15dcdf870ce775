"""`FlatObservation`: the observation as few numbers from 0 to 1."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class FlatObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Divides each number of a `MultiDiscrete` observation by the largest it can be: a `Box` from 0 to 1, float32.

    As long as the observation itself, so a network's first layer is small: 100 inputs where `OneHotObservation` has
    2,040. The numbers name functions and slots, though, and being close means nothing.

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
        self._largest = np.maximum(space.nvec - 1, 1).astype(np.float32)
        self.observation_space = spaces.Box(0.0, 1.0, space.shape, np.float32)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.float32]:
        """The observation, from 0 to 1."""
        scaled: NDArray[np.float32] = (observation / self._largest).astype(np.float32)
        return scaled
