"""`EvaluationReward`: the base of wrappers that change a program's reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.envs.edit_env import NOSBenchEditEnv


class EvaluationReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs, ABC):
    """Changes the reward of steps that evaluate or reject a program.

    In `NOSBench-v0`, `NOSBenchToken-v0` and `NOSBenchEdit-v0` with `evaluate="end"` that is the last step of an
    episode. With `evaluate="step"` it is also each step that changes the program. Other rewards are kept.
    """

    @abstractmethod
    def changed(self, reward: float) -> float:
        """Returns the reward to pay instead of `reward`."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step in the env, and changes its reward."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "status" in info:
            reward = self.changed(float(reward))
        return observation, reward, terminated, truncated, info


def check_pays_once(env: gymnasium.Env[Any, Any], wrapper: str) -> None:
    """Raises a ValueError if `env` pays several times per episode.

    Its rewards have a meaning as a sum, which changing them one by one would alter.
    """
    if isinstance(env.unwrapped, NOSBenchEditEnv) and env.unwrapped._every_step:
        raise ValueError(f'{wrapper} needs an env that pays once an episode, got NOSBenchEdit-v0: use evaluate="end"')
