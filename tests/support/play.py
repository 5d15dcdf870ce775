"""Playing the envs in tests: allowed actions at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from oracles import InstantOracle

from nosbench_env import Program

IDS = ("NOSBench-v0", "NOSBenchToken-v0", "NOSBenchEdit-v0")


def allowed_action(env: gymnasium.Env, rng: np.random.Generator) -> Any:
    """An action that the masks allow."""
    masks = env.get_wrapper_attr("action_masks")()
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return rng.choice(np.flatnonzero(masks))
    factors = np.split(masks, np.cumsum(env.action_space.nvec)[:-1])
    return np.array([rng.choice(np.flatnonzero(factor)) for factor in factors])


def play_at_random(env: gymnasium.Env, rng: np.random.Generator) -> list[tuple[Any, float, bool, bool, dict[str, Any]]]:
    """The steps of an episode of allowed actions."""
    env.reset()
    steps = [env.step(allowed_action(env, rng))]
    while not steps[-1][2]:
        steps.append(env.step(allowed_action(env, rng)))
    return steps


def instant_env(env_id: str, loss: Callable[[Program], float], **arguments: Any) -> gymnasium.Env:
    """An env whose oracle answers at once."""
    create = gymnasium.envs.registration.load_env_creator(gymnasium.spec(env_id).entry_point)
    return create("toy", oracle=InstantOracle(loss), **arguments)
