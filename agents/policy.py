"""`AgentPolicy`: a search method as a policy, like stable-baselines3 models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nosbench_env.agents.agent import ProgramAgent
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

Encoding = Literal["instruction", "token"]
AnyEnv = TypeVar("AnyEnv", bound="gymnasium.Env[Any, Any] | VecEnv")


class AgentPolicy:
    """A policy that writes an agent's programs, one per episode.

    The env is `NOSBench-v0` or `NOSBenchToken-v0`. `predict` is that of a stable-baselines3 model, so `evaluate_policy`
    (and sb3-contrib's for masked models) treats random search, evolution and PPO alike. `predict` gets no rewards, so
    `wrap` the env: then the agent is told of every finished program.

    Args:
        agent: The search method; its space must be the env's.
        encoding: The kind of action: "instruction" (`NOSBench-v0`) or "token" (`NOSBenchToken-v0`). With None, `wrap`
            takes it from the env; without `wrap` it is "instruction".

    >>> from nosbench_env.agents import RandomSearch
    >>> policy = AgentPolicy(RandomSearch(seed=0))
    >>> env = policy.wrap(gymnasium.make("nosbench_env:NOSBench-v0", task="toy", epochs=1, store="sqlite://"))
    >>> observation, _ = env.reset()
    >>> terminated = False
    >>> while not terminated:
    ...     action, _ = policy.predict(observation)
    ...     observation, reward, terminated, _, info = env.step(action)
    >>> info["status"]
    'ok'
    """

    def __init__(self, agent: ProgramAgent, encoding: Encoding | None = None) -> None:
        if encoding not in (None, "instruction", "token"):
            raise ValueError(f"encoding must be 'instruction', 'token' or None, got {encoding!r}")
        self.agent, self.encoding = agent, encoding
        self._writing: dict[int, list[Any]] = {}  # env number -> the actions of its episode

    def predict(
        self,
        observation: NDArray[np.integer[Any]],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """Returns the next action for an observation `(d,)` or several `(n, d)`.

        An observation of the empty program starts a new program. The other arguments are ignored; stable-baselines3 and
        sb3-contrib pass them.

        Returns:
            The action, `(5,)` or for tokens `()`, or actions `(n, 5)` or `(n,)`; and `state`, unchanged.
        """
        observations = np.atleast_2d(observation)
        actions = np.stack([self._next_action(number, row) for number, row in enumerate(observations)])
        return (actions if np.ndim(observation) > 1 else actions[0]), state

    def wrap(self, env: AnyEnv) -> AnyEnv:
        """Wraps an env to tell the agent of each evaluation.

        It may also be a vector env of stable-baselines3, whose envs may run anywhere. A single env must stay in this
        process (`DummyVecEnv`, not `SubprocVecEnv`): another process would have a copy of the agent.

        Raises:
            ValueError: If the env's search space is not the agent's, or its actions are not of the encoding.
        """
        if isinstance(env, gymnasium.Env):
            self._check(env.action_space, env.get_wrapper_attr("search_space"))
            return cast(AnyEnv, _TellAgent(env, self.agent))
        for space in env.get_attr("search_space"):
            self._check(env.action_space, space)
        return cast(AnyEnv, _telling(env, self.agent))

    def _check(self, actions: gymnasium.Space[Any], space: SearchSpace) -> None:
        if space != self.agent.space:
            raise ValueError(f"the env's search space must be the agent's {self.agent.space}, got {space}")
        known: dict[Encoding, gymnasium.Space[Any]] = {
            "instruction": spaces.MultiDiscrete(list(space.action_sizes)),
            "token": spaces.Discrete(space.token_count),
        }
        encoding = next((encoding for encoding, its_actions in known.items() if its_actions == actions), None)
        if encoding is None or self.encoding not in (None, encoding):
            wanted = {"instruction": "an instruction", "token": "a token", None: "an instruction or a token"}
            raise ValueError(f"an action of the env must be {wanted[self.encoding]}, got {actions}")
        self.encoding = encoding

    def _next_action(self, number: int, observation: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        space = self.agent.space
        rows = observation.reshape(space.max_instructions, -1)
        # Each written token is a number of the observation above 0.
        written = int(np.count_nonzero(rows if self.encoding == "token" else rows[:, 0]))
        if written == 0:
            self._writing[number] = self._actions(self.agent.ask()[0])
        actions = self._writing.get(number, [])
        if written >= len(actions):
            raise ValueError("this policy did not begin this episode; call predict from the first observation on")
        return np.asarray(actions[written], dtype=np.int64)

    def _actions(self, program: Program) -> list[Any]:
        """Returns the actions that write a program."""
        space = self.agent.space
        if self.encoding == "token":
            return space.tokens(program)
        return [*map(space.encode, program), space.stop_action]


class _TellAgent(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that tells an agent of each evaluation in the env."""

    def __init__(self, env: gymnasium.Env[Any, Any], agent: ProgramAgent) -> None:
        super().__init__(env)
        self._agent = agent
        self._process = os.getpid()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if os.getpid() != self._process:
            raise RuntimeError("an env wrapped by AgentPolicy must stay in the agent's process; use DummyVecEnv")
        result = self.env.step(action)
        if result[2]:
            evaluation = self.get_wrapper_attr("last_evaluation")
            if evaluation is not None:
                self._agent.tell([evaluation.program], [evaluation])
        return result


def _telling(envs: VecEnv, agent: ProgramAgent) -> VecEnv:
    """Wraps a vector env to tell an agent of its evaluations."""
    from stable_baselines3.common.vec_env import VecEnvWrapper
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

    class TellAgent(VecEnvWrapper):
        def reset(self) -> VecEnvObs:
            return self.venv.reset()

        def step_wait(self) -> VecEnvStepReturn:
            result = self.venv.step_wait()
            ended = np.flatnonzero(result[2]).tolist()
            evaluations = self.venv.get_attr("last_evaluation", ended) if ended else []
            told = [evaluation for evaluation in evaluations if evaluation is not None]
            agent.tell([evaluation.program for evaluation in told], told)
            return result

    return TellAgent(envs)
