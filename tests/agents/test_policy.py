import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import SubprocVecEnv

from nosbench_env import KNOWN_PROGRAMS, Evaluation, Program, SearchSpace
from nosbench_env.agents import AgentPolicy, PPOAgent, RandomSearch, RegularizedEvolution
from nosbench_env.sb3 import make_sb3_env

TOY: dict[str, Any] = {"task": "toy", "epochs": 1, "device": "cpu", "store": "sqlite://"}
everywhere = pytest.mark.parametrize("name", ["NOSBench-v0", "NOSBenchToken-v0"])


def make_env(name: str = "NOSBench-v0", **arguments: object) -> gymnasium.Env:
    return gymnasium.make(f"nosbench_env:{name}", **TOY, **arguments)


class Listener(RandomSearch):
    """Remembers what it was asked for and told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[Program] = []
        self.told: list[tuple[Program, float]] = []

    def ask(self, n: int = 1) -> list[Program]:
        self.asked += (programs := super().ask(n))
        return programs

    def tell(self, programs: Sequence[Program], evaluations: Sequence[Evaluation]) -> None:
        self.told += [(program, evaluation.loss) for program, evaluation in zip(programs, evaluations, strict=True)]


def test_sb3_evaluates_evolution_which_learns_of_every_program() -> None:
    agent = RegularizedEvolution(start=KNOWN_PROGRAMS["AdamW"], population_size=3, tournament_size=2)
    policy = AgentPolicy(agent)
    env = Monitor(policy.wrap(make_env()))
    rewards, lengths = evaluate_policy(policy, env, n_eval_episodes=8, return_episode_rewards=True)
    assert lengths[:3] == [len(KNOWN_PROGRAMS["AdamW"]) + 1] * 3  # and a STOP
    assert rewards[:3] == [rewards[0]] * 3
    # All eight were told, of which the population keeps the last three; the ninth may have been begun.
    losses = [min(-fitness, 20.0) for _, fitness in agent._population]  # the env pays no less for a failure
    assert losses == pytest.approx([-reward for reward in rewards[-3:]], abs=1e-6)  # Monitor rounds


@everywhere
def test_played_programs_are_those_the_agent_proposes_on_its_own(name: str) -> None:
    policy, alone = AgentPolicy(RandomSearch(seed=5)), RandomSearch(seed=5)
    env = policy.wrap(make_env(name))
    for _ in range(5):
        observation, _ = env.reset()
        terminated = False
        while not terminated:
            action, _ = policy.predict(observation)
            observation, _, terminated, _, _ = env.step(action)
        assert env.unwrapped.program == alone.ask()[0]


def test_several_envs_are_led_at_once() -> None:
    policy = AgentPolicy(RandomSearch(seed=0))
    envs = make_vec_env(lambda: policy.wrap(make_env()), n_envs=3)
    rewards, lengths = evaluate_policy(policy, envs, n_eval_episodes=9, return_episode_rewards=True)
    assert len(rewards) == 9
    assert len(set(lengths)) > 1


def test_leading_an_env_in_another_process_is_refused() -> None:
    wrapped = AgentPolicy(RandomSearch()).wrap(make_env())
    wrapped.reset()
    child = os.fork()
    if child == 0:
        try:
            wrapped.step(np.zeros(5, dtype=np.int64))
        except RuntimeError as error:
            os._exit(0 if "must stay in the agent's process" in str(error) else 1)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


WRAPPED: dict[str, Callable[[AgentPolicy, partial[gymnasium.Env]], Any]] = {
    "an env": lambda policy, make: Monitor(policy.wrap(make())),
    "a vector env of wrapped envs": lambda policy, make: make_vec_env(lambda: policy.wrap(make()), n_envs=2),
    "a wrapped vector env": lambda policy, make: policy.wrap(make_vec_env(make, n_envs=2)),
    "our vector env": lambda policy, make: policy.wrap(
        make_sb3_env(f"nosbench_env:{make.args[0]}", 2, **TOY, **make.keywords)
    ),
}


@everywhere
@pytest.mark.parametrize("masked", [False, True], ids=["sb3", "sb3-contrib"])
@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_evaluate_policy_plays_what_the_agent_asks_for_and_tells_all_of_it(
    name: str, masked: bool, wrapped: Callable[..., Any]
) -> None:
    evaluate = (
        pytest.importorskip("sb3_contrib.common.maskable.evaluation").evaluate_policy if masked else evaluate_policy
    )
    agent = Listener(SearchSpace(4), 1)
    policy = AgentPolicy(agent)
    env = wrapped(policy, partial(make_env, name, max_instructions=4))
    rewards, _ = evaluate(policy, env, n_eval_episodes=5, return_episode_rewards=True)
    assert len(rewards) == 5
    losses = [min(loss, 20.0) if np.isfinite(loss) else 20.0 for _, loss in agent.told]
    assert set(np.round(rewards, 4)) <= set(np.round([-loss for loss in losses], 4))
    assert {program for program, _ in agent.told} <= set(agent.asked)
    assert len(agent.told) >= 5


def test_the_agent_is_told_of_programs_of_other_processes_too() -> None:
    agent = Listener(SearchSpace(3), 0)
    policy = AgentPolicy(agent)
    make = partial(gymnasium.make, "nosbench_env:NOSBench-v0", max_instructions=3, **TOY)
    envs = policy.wrap(make_vec_env(make, n_envs=1, vec_env_cls=SubprocVecEnv))
    evaluate_policy(policy, envs, n_eval_episodes=2)
    envs.close()
    assert [program for program, _ in agent.told] == agent.asked[:2]


def test_ppo_plays_any_encoding() -> None:
    """Its programs are written in the env's encoding, whatever its own is."""
    agent = PPOAgent(SearchSpace(4), n_steps=24, minibatch_size=8, net_arch=(8,))
    policy = AgentPolicy(agent)
    evaluate_policy(policy, Monitor(policy.wrap(make_env("NOSBenchToken-v0", max_instructions=4))), n_eval_episodes=15)
    assert agent.metrics()["updates"] >= 1


def test_an_invalid_token_of_somebody_else_is_not_told() -> None:
    agent = Listener(SearchSpace(4), 0)
    env = AgentPolicy(agent).wrap(make_env("NOSBenchToken-v0", max_instructions=4))
    env.reset()
    assert env.step(40)[2]  # a slot, where a function is to come
    assert agent.told == []


def test_actions_of_another_encoding_are_refused() -> None:
    with pytest.raises(ValueError, match="an action of the env must be an instruction or a token, got Multi"):
        AgentPolicy(RandomSearch()).wrap(make_env("NOSBenchEdit-v0"))
    policy = AgentPolicy(RandomSearch(), encoding="token")
    with pytest.raises(ValueError, match="an action of the env must be a token, got MultiDiscrete"):
        policy.wrap(make_env())
    with pytest.raises(ValueError, match="encoding must be 'instruction', 'token' or None, got 'word'"):
        AgentPolicy(RandomSearch(), encoding="word")


def test_another_search_space_is_refused() -> None:
    with pytest.raises(ValueError, match="the env's search space must be the agent's"):
        AgentPolicy(RandomSearch(space=SearchSpace(5))).wrap(make_env())


def test_an_episode_begun_by_somebody_else_is_refused() -> None:
    policy, env = AgentPolicy(RandomSearch()), make_env()
    env.reset()
    observation, *_ = env.step(np.array([0, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match="did not begin this episode"):
        policy.predict(observation)
