"""`NOSBenchVecEnv`: the vector environments as a `VecEnv` of stable-baselines3."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from nosbench_env.envs.vector_env import ProgramVectorEnv


def make_sb3_env(env_id: str, n_envs: int = 1, seed: int | None = None, **arguments: Any) -> NOSBenchVecEnv:
    """Makes an SB3 vector env that evaluates programs together.

    It takes the place of stable-baselines3's `make_vec_env`, also for sb3-contrib.

    Args:
        env_id: "nosbench_env:NOSBenchToken-v0", or another id of this package.
        n_envs: Number of environments.
        seed: The first one's seed at the first reset; the others count up from it.
        arguments: Arguments of the environment, and `monitor` of `NOSBenchVecEnv`.
    """
    own = {"monitor": arguments.pop("monitor")} if "monitor" in arguments else {}
    envs = gymnasium.make_vec(
        env_id, n_envs, vectorization_mode="vector_entry_point", autoreset_mode=AutoresetMode.SAME_STEP, **arguments
    )
    assert isinstance(envs, ProgramVectorEnv)
    made = NOSBenchVecEnv(envs, **own)
    if seed is not None:
        made.seed(seed)
    return made


class NOSBenchVecEnv(VecEnv):
    """A vector env as a `VecEnv` of stable-baselines3.

    It behaves like `DummyVecEnv` with the single envs. MaskablePPO finds the action masks. The info of an episode's
    last step has an "episode", as `Monitor` adds it.

    Args:
        envs: The vector env, with the autoreset mode "SameStep".
        monitor: True to add the "episode". False leaves it to a `VecMonitor`, which also writes files.

    Raises:
        ValueError: If the autoreset mode is another one.
    """

    def __init__(self, envs: ProgramVectorEnv, monitor: bool = True) -> None:
        if envs.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ValueError(f"envs must have the autoreset mode 'SameStep', got {envs.autoreset_mode.value!r}")
        self.envs, self.spec = envs, envs.spec
        self._monitor, self._started = monitor, time.time()
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)
        self.metadata = envs.metadata

    @property
    def last_evaluations(self) -> list[Any]:
        """See `ProgramVectorEnv.last_evaluations`."""
        return self.envs.last_evaluations

    def action_masks(self) -> NDArray[np.bool_]:
        """See `ProgramVectorEnv.action_masks`."""
        return self.envs.action_masks()

    def reset(self) -> VecEnvObs:
        """Starts all episodes, with the seeds and options set before."""
        options = [own or None for own in self._options]
        infos = self.envs.reset_each(np.ones(self.num_envs, dtype=np.bool_), self._seeds, options)
        self.reset_infos = [infos.get(number, {}) for number in range(self.num_envs)]
        self._returns[:] = 0
        self._lengths[:] = 0
        self._reset_seeds()
        self._reset_options()
        return self.envs.observations()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Sets the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Takes the step.

        After the end of an episode the observation is the first of the next one.
        """
        taken = self.envs.transition(self._actions)
        dones = taken.terminations | taken.truncations
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in range(self.num_envs)]
        for number, info in taken.infos.items():
            infos[number] |= info
        self._returns += taken.rewards
        self._lengths += 1
        for number in np.flatnonzero(dones).tolist():
            infos[number]["TimeLimit.truncated"] = bool(taken.truncations[number] and not taken.terminations[number])
            infos[number]["terminal_observation"] = taken.final_observations[number]
            if self._monitor:
                infos[number]["episode"] = self._episode(number)
            self.reset_infos[number] = taken.reset_infos.get(number, {})
        self._returns[dones] = 0
        self._lengths[dones] = 0
        return self.envs.observations(), taken.rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Closes the store, which completes its file."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Gets an attribute of each environment."""
        if attr_name == "render_mode":  # the same for all, and making single envs takes a while
            return [self.envs.render_mode for _ in self._get_indices(indices)]
        if attr_name == "last_evaluation":  # needs no single envs either
            evaluations = self.envs.last_evaluations
            return [evaluations[number] for number in self._get_indices(indices)]
        envs = self.envs.envs(to_change=False)
        return [getattr(envs[number], attr_name) for number in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of each environment. Later steps are slow."""
        envs = self.envs.envs()
        for number in self._get_indices(indices):
            setattr(envs[number], attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of each environment; changes slow down later steps."""
        return self.envs.call_in(self._get_indices(indices), method_name, *method_args, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Returns True only for `Monitor`, whose work this class does."""
        return [self._monitor and wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Returns no images."""
        return [None] * self.num_envs

    def _episode(self, number: int) -> dict[str, Any]:
        """Returns an episode's entry of `Monitor`: return, length, seconds."""
        seconds = round(time.time() - self._started, 6)
        return {"r": round(float(self._returns[number]), 6), "l": int(self._lengths[number]), "t": seconds}
