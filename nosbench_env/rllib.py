"""Registration with RLlib, whose workers lack access to Gymnasium's registry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium

from nosbench_env import wrappers

ENV_IDS = ("NOSBench-v0", "NOSBenchToken-v0", "NOSBenchEdit-v0")


def register_rllib() -> None:
    """Registers the envs with Ray under their ids.

    Then `PPOConfig().environment("NOSBenchToken-v0")` finds them. The `env_config` is the `config` of `make_env`. RLlib
    is the extra `ray`; see `examples/rllib_ppo.py`.

    Raises:
        ImportError: If RLlib is not installed.
    """
    try:
        from ray.tune import register_env
    except ImportError as error:
        raise ImportError(f"RLlib is needed ({error}): pip install 'nosbench_env[ray]'") from error
    for env_id in ENV_IDS:
        register_env(env_id, partial(make_env, env_id))


def make_env(env_id: str, config: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Makes an env from its id and one dict.

    Args:
        env_id: One of `ENV_IDS`.
        config: The env's arguments. "wrappers" holds names of `nosbench_env.wrappers`, the innermost first, with their
            arguments: `{"task": "toy", "wrappers": {"NoveltyBonus": {"bonus": 0.2}}}`.

    Raises:
        ValueError: If a wrapper is unknown, or an argument of the env or a wrapper is invalid.
    """
    arguments = dict(config)
    wanted = arguments.pop("wrappers", {})
    if not isinstance(wanted, Mapping):
        raise ValueError(f"'wrappers' must be a dict of names and arguments, got {wanted!r}")
    if unknown := [name for name in wanted if name not in _WRAPPERS]:
        raise ValueError(f"unknown wrapper {unknown[0]!r}; known are {', '.join(_WRAPPERS)}")
    env = gymnasium.make(f"nosbench_env:{env_id}", **arguments)
    for name, its_arguments in wanted.items():
        env = _WRAPPERS[name](env, **its_arguments)
    return env


_WRAPPERS: Mapping[str, type[gymnasium.Wrapper[Any, Any, Any, Any]]] = {
    name: wrapper for name in wrappers.__all__ if issubclass(wrapper := getattr(wrappers, name), gymnasium.Wrapper)
}
