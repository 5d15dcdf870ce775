import os

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from nosbench_env import KNOWN_PROGRAMS, SearchSpace
from nosbench_env.agents import AgentPolicy, RandomSearch, RegularizedEvolution


def make_env(**arguments: object) -> gymnasium.Env:
    return gymnasium.make(
        "nosbench_env:NOSBench-v0", task="toy", epochs=1, device="cpu", store="sqlite://", **arguments
    )


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


def test_played_programs_are_those_the_agent_proposes_on_its_own() -> None:
    policy, alone = AgentPolicy(RandomSearch(seed=5)), RandomSearch(seed=5)
    env = policy.wrap(make_env())
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


def test_maskable_evaluation_takes_it_too() -> None:
    evaluation = pytest.importorskip("sb3_contrib.common.maskable.evaluation")
    policy = AgentPolicy(RandomSearch(seed=1))
    rewards, _ = evaluation.evaluate_policy(
        policy, Monitor(policy.wrap(make_env())), n_eval_episodes=3, return_episode_rewards=True
    )
    assert len(rewards) == 3


def test_another_search_space_is_refused() -> None:
    with pytest.raises(ValueError, match="the env's search space must be the agent's"):
        AgentPolicy(RandomSearch(space=SearchSpace(5))).wrap(make_env())


def test_an_episode_begun_by_somebody_else_is_refused() -> None:
    policy, env = AgentPolicy(RandomSearch()), make_env()
    env.reset()
    observation, *_ = env.step(np.array([0, 1, 0, 0, 0]))
    with pytest.raises(ValueError, match="not begun by this policy"):
        policy.predict(observation)
