"""`TokenObservation`: the program so far as tokens, for sequence models."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from nosbench_env.envs.instruction_env import WIDTH
from nosbench_env.language.draft import FIRST_SLOT_TOKEN, MAX_ARITY, STOP
from nosbench_env.language.program import FIRST_WRITABLE_SLOT

# A row holds a function + 1, inputs + 1 and an output slot - 8; 0 stands for a missing number.
_TOKENS_OF_ROW = np.array([-1, *[FIRST_SLOT_TOKEN - 1] * MAX_ARITY, FIRST_SLOT_TOKEN + FIRST_WRITABLE_SLOT - 1])


class TokenObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Observes the program as tokens, padded at the end with STOP.

    The tokens are the actions of `NOSBenchToken-v0`: for each instruction its function, inputs and output, of an
    incomplete one those written. The space is a `Box` of integers, `(5 * max_instructions,)` int64, from 0 to
    `token_count` - 1. It is not `MultiDiscrete`, which some libraries would encode one-hot before your model's
    embedding gets it. In `NOSBenchEdit-v0` one more number follows, that of the edits left.

    **Optimal policy:** kept; the observation holds the same.

    Args:
        env: The environment. No inner wrapper may change the observations.

    Raises:
        ValueError: If the observations are not the env's own.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.MultiDiscrete) or space != env.unwrapped.observation_space:
            raise ValueError(f"env must have its own observations, got {env}: make TokenObservation the innermost")
        search_space = self.get_wrapper_attr("search_space")
        self._length = WIDTH * search_space.max_instructions
        highest = space.nvec - 1
        highest[: self._length] = search_space.token_count - 1
        self.observation_space = spaces.Box(np.zeros_like(highest), highest, dtype=np.int64)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the observation's tokens."""
        rows, rest = observation[: self._length].reshape(-1, WIDTH), observation[self._length :]
        tokens = (rows + _TOKENS_OF_ROW)[rows > 0]
        padding = np.full(self._length - len(tokens), STOP, np.int64)
        return np.concatenate([tokens, padding, rest])
