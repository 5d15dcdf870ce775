"""`ActionMaskObservation`: adds the action mask to the observation, as RLlib reads it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class ActionMaskObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Adds the action mask to the observation.

    The observation becomes a `Dict` of `observations`, the env's, and `action_mask`. The mask is `action_masks()` as
    float32, 1 for each allowed choice, in the form that RLlib's `ActionMaskingRLModule` reads: a number for each choice
    of the action space, factor after factor for a `MultiDiscrete`. It must be the outermost of the wrappers that change
    observations. sb3-contrib's MaskablePPO needs no such wrapper.

    **Optimal policy:** kept; the observation only holds more.

    Args:
        env: The environment; it needs `action_masks()`.

    Raises:
        ValueError: If the env has no `action_masks()`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not env.has_wrapper_attr("action_masks"):
            raise ValueError(f"env must have action_masks(), got {env}")
        choices = int(spaces.flatdim(env.action_space))
        mask = spaces.Box(0.0, 1.0, (choices,), np.float32)
        self.observation_space = spaces.Dict({"observations": env.observation_space, "action_mask": mask})

    def observation(self, observation: Any) -> dict[str, Any]:
        """Returns the observation with the mask."""
        mask = self.get_wrapper_attr("action_masks")().astype(np.float32)
        return {"observations": observation, "action_mask": mask}
