"""`TokenObservation`: the program so far as a sequence of tokens, for sequence models."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from nosbench_env.program import FIRST_WRITABLE_SLOT
from nosbench_env.search_space import MAX_ARITY, STOP

FIRST_SLOT_TOKEN = STOP + 1
_WIDTH = 2 + MAX_ARITY


class TokenObservation(gymnasium.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Shows the program so far as the tokens that `NOSBenchToken-v0` takes as actions, padded at the end with STOP.

    An instruction is its function, its inputs and its output; an unfinished one is shown as far as it goes. The space
    is a `Box` of integers, `(5 * max_instructions,)` int64, from 0 to `token_count` - 1, rather than `MultiDiscrete`,
    which some libraries would write one-hot before your model's embedding sees it.

    **Optimal policy:** kept; the observation says the same.

    Args:
        env: The environment; no other wrapper in it may have changed the observations.

    Raises:
        ValueError: If the observations are not the env's own.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if env.observation_space != env.unwrapped.observation_space:
            raise ValueError(f"env must have its own observations, got {env}: make TokenObservation the innermost")
        space = self.get_wrapper_attr("search_space")
        self._length = _WIDTH * space.max_instructions
        last_token = FIRST_SLOT_TOKEN + space.memory_size - 1
        self.observation_space = spaces.Box(0, last_token, (self._length,), np.int64)

    def observation(self, observation: NDArray[np.int64]) -> NDArray[np.int64]:
        """The observation's tokens."""
        # Each row is a function and inputs, plus 1, and an output slot less 8; 0 stands for what is not there.
        shift = np.array([-1, *[FIRST_SLOT_TOKEN - 1] * MAX_ARITY, FIRST_SLOT_TOKEN + FIRST_WRITABLE_SLOT - 1])
        numbers = observation[: self._length]
        written = numbers > 0
        tokens = np.full(self._length, STOP, np.int64)
        tokens[: np.count_nonzero(written)] = (numbers.reshape(-1, _WIDTH) + shift).ravel()[written]
        return tokens
