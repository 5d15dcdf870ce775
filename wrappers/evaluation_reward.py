"""`EvaluationReward`: what the wrappers that change the reward of an evaluated program have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.envs.edit_env import NOSBenchEditEnv


class EvaluationReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs, ABC):
    """Changes the reward of each step that evaluates a program or finds it invalid, and no other.

    In `NOSBench-v0` and `NOSBenchToken-v0` that is an episode's last step, as in `NOSBenchEdit-v0` with
    `evaluate="end"`; with `evaluate="step"`, each that changes the program too.
    """

    @abstractmethod
    def changed(self, reward: float) -> float:
        """The reward to pay instead of `reward`."""

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the env's, with the reward changed."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if "status" in info:
            reward = self.changed(float(reward))
        return observation, reward, terminated, truncated, info


def check_pays_once(env: gymnasium.Env[Any, Any], wrapper: str) -> None:
    """Refuses an env whose rewards add up to something: changed one by one, they add up to something else."""
    if isinstance(env.unwrapped, NOSBenchEditEnv) and env.unwrapped._every_step:
        raise ValueError(f'{wrapper} needs an env that pays once an episode, got NOSBenchEdit-v0: use evaluate="end"')
