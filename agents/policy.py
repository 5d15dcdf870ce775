"""`AgentPolicy`: plays a search method through the env, where stable-baselines3 expects a trained model."""

from __future__ import annotations

import os
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray

from nosbench_env.agents.agent import Agent
from nosbench_env.program import Program


class AgentPolicy:
    """A policy for `NOSBench-v0` that writes the programs an agent proposes, one an episode.

    It has the `predict` of a stable-baselines3 model, so that `evaluate_policy` takes random search, evolution and PPO
    alike. Rewards don't reach `predict`: `wrap` the env, and the agent is told of every finished program.

    Args:
        agent: The search method; its space must be the env's.

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

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._writing: dict[int, Program] = {}  # env number -> the program it is being led through

    def predict(
        self,
        observation: NDArray[np.integer[Any]],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[NDArray[np.int64], Any]:
        """The next action for an observation `(d,)`, or for each of several envs `(n, d)`.

        An observation of the empty program starts a new one. The other arguments are there for stable-baselines3
        and sb3-contrib.

        Returns:
            The action `(5,)`, or actions `(n, 5)`, and `state` as it came.
        """
        observations = np.atleast_2d(observation)
        actions = np.stack([self._next_action(number, row) for number, row in enumerate(observations)])
        return (actions if np.ndim(observation) > 1 else actions[0]), state

    def wrap(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """The env, with the agent told of every program it evaluates.

        It must stay in this process (`DummyVecEnv`, not `SubprocVecEnv`): in another there is only a copy of the agent.

        Raises:
            ValueError: If the env's search space is not the agent's.
        """
        space = env.get_wrapper_attr("search_space")
        if space != self.agent.space:
            raise ValueError(f"the env's search space must be the agent's {self.agent.space}, got {space}")
        return _TellAgent(env, self.agent)

    def _next_action(self, number: int, observation: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        space = self.agent.space
        written = int(np.count_nonzero(observation.reshape(space.max_instructions, -1)[:, 0]))
        if written == 0:
            self._writing[number] = self.agent.ask()[0]
        program = self._writing.get(number, Program())
        if len(program) < written:
            raise ValueError("this episode was not begun by this policy; call predict from the first observation on")
        return space.stop_action if len(program) == written else space.encode(program[written])


class _TellAgent(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tells an agent of every program that the env evaluates."""

    def __init__(self, env: gymnasium.Env[Any, Any], agent: Agent) -> None:
        super().__init__(env)
        self._agent = agent
        self._process = os.getpid()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        if os.getpid() != self._process:
            raise RuntimeError("an env wrapped by AgentPolicy must stay in the agent's process; use DummyVecEnv")
        result = self.env.step(action)
        if result[2]:
            evaluation = self.get_wrapper_attr("last_evaluation")
            self._agent.tell([evaluation.program], [evaluation])
        return result
