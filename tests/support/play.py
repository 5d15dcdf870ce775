"""Episodes of the envs in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from oracles import InstantOracle

from nosbench_env import Program
from nosbench_env.envs.program_env import ProgramEnv

IDS = ("NOSBench-v0", "NOSBenchToken-v0", "NOSBenchEdit-v0")


def random_action(env: gymnasium.Env, rng: np.random.Generator, masked: bool = True) -> Any:
    """Draws an action, of those that the masks allow or of all."""
    space = env.action_space
    masks = env.get_wrapper_attr("action_masks")() if masked else np.ones(gymnasium.spaces.flatdim(space), dtype=bool)
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.choice(np.flatnonzero(masks))
    factors = np.split(masks, np.cumsum(space.nvec)[:-1])
    return np.array([rng.choice(np.flatnonzero(factor)) for factor in factors])


def play_at_random(env: gymnasium.Env, rng: np.random.Generator) -> list[tuple[Any, float, bool, bool, dict[str, Any]]]:
    """Plays an episode of allowed actions, and returns its steps."""
    env.reset()
    steps = [env.step(random_action(env, rng))]
    while not steps[-1][2]:
        steps.append(env.step(random_action(env, rng)))
    return steps


def rest(env: ProgramEnv, seed: int) -> list[Any]:
    """Plays an episode to its end, and returns all results of its steps."""
    rng, results = np.random.default_rng(seed), []
    while True:
        observation, *others = env.step(random_action(env, rng))
        results.append((observation.tolist(), env.action_masks().tolist(), env.program, *others))
        if others[1]:
            return results


def write(env: gymnasium.Env, program: Program, seed: int | None = None) -> float:
    """Writes a program into `NOSBench-v0`, and returns the final reward; the others must be 0."""
    space = env.get_wrapper_attr("search_space")
    env.reset(seed=seed)
    for instruction in program:
        assert env.step(space.encode(instruction))[1] == 0.0
    _, reward, terminated, _, _ = env.step(space.stop_action)
    assert terminated
    return reward


def observation_after(env: gymnasium.Env, program: Program) -> np.ndarray:
    """Writes the first instructions of a program, 19 at most, and returns the observation after them."""
    observation, _ = env.reset()
    for instruction in program[:19]:
        observation, *_ = env.step(env.get_wrapper_attr("search_space").encode(instruction))
    return observation


def instant_env(env_id: str, loss: Callable[[Program], float], **arguments: Any) -> gymnasium.Env:
    """Makes an env whose oracle answers at once."""
    create = gymnasium.envs.registration.load_env_creator(gymnasium.spec(env_id).entry_point)
    return create("toy", oracle=InstantOracle(loss), **arguments)
