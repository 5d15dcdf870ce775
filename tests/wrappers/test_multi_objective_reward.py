"""`MultiObjectiveReward`: what it pays, as a number and as a vector."""

import copy
import math
import pickle
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from oracles import InstantOracle, random_loss
from play import IDS, instant_env, play_at_random
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from nosbench_env import KNOWN_PROGRAMS, NOSBenchEnv, Program, SearchSpace
from nosbench_env.language.costs import COSTS
from nosbench_env.wrappers import EpisodeRecorder, MultiObjectiveReward, PotentialShaping

SPACE = SearchSpace()
ADAM = KNOWN_PROGRAMS["Adam"]  # 2 floats, 14 operations, 12 instructions
CHEBYSHEV: dict[str, Any] = {"scalarisation": "chebyshev", "ideal_reward": 1.0}


def wrapped(loss: float = 0.5, **arguments: Any) -> MultiObjectiveReward:
    return MultiObjectiveReward(NOSBenchEnv("toy", oracle=InstantOracle(lambda _: loss)), **arguments)


def play(env: gymnasium.Env, program: Program) -> tuple[Any, dict[str, Any]]:
    """The last reward and info of writing a program."""
    env.reset()
    for instruction in program:
        _, reward, *_, info = env.step(SPACE.encode(instruction))
        assert np.all(np.array(reward) == 0.0)
        assert info == {}
    _, reward, terminated, _, info = env.step(SPACE.stop_action)
    assert terminated
    return reward, info


def test_objectives_are_in_the_info_and_their_sum_is_paid() -> None:
    reward, info = play(wrapped(weights=[2.0, 0.1, 0.01]), ADAM)
    assert info["objectives"] == (-0.5, -2.0, -14.0)
    assert reward == pytest.approx(-1.0 - 0.2 - 0.14)
    assert play(wrapped(), ADAM)[0] == pytest.approx(-0.5 - 0.04 - 0.07)
    reward, info = play(wrapped(costs=["instructions"]), ADAM)
    assert info["objectives"] == (-0.5, -12.0)
    assert reward == pytest.approx(-0.56)


def test_the_empty_program_costs_nothing() -> None:
    reward, info = play(wrapped(), Program(()))
    assert str(info["objectives"]) == "(-0.5, 0.0, 0.0)"
    assert reward == -0.5


def test_failures_have_their_costs_too() -> None:
    reward, info = play(wrapped(math.nan), ADAM)
    assert info["objectives"] == (-20.0, -2.0, -14.0)
    assert reward == pytest.approx(-20.11)


def test_chebyshev_pays_the_distance_from_the_ideal() -> None:
    env = wrapped(weights=[1.0, 0.5, 0.5], **CHEBYSHEV)
    assert play(env, ADAM)[0] == pytest.approx(-(7 + 0.001 * (1.5 + 1 + 7)))
    assert play(env, Program(()))[0] == pytest.approx(-(1.5 + 0.001 * 1.5))


def test_the_vector_is_paid_if_asked_for() -> None:
    env = wrapped(scalarisation="none")
    reward, info = play(env, ADAM)
    assert (reward.dtype, reward.shape) == (np.float64, (3,))
    assert tuple(reward) == info["objectives"] == (-0.5, -2.0, -14.0)
    assert env.unwrapped.reward_space == env.reward_space
    assert not hasattr(wrapped().unwrapped, "reward_space")


@pytest.mark.parametrize("env_id", IDS)
def test_rewards_lie_in_their_space_and_add_up(env_id: str) -> None:
    env = MultiObjectiveReward(instant_env(env_id, random_loss), costs=list(COSTS), scalarisation="none")
    assert env.reward_space.low.tolist() == [-math.inf, -11.0, -81.0, -20.0]
    for seed in range(20):
        steps = play_at_random(env, np.random.default_rng(seed))
        rewards = np.array([reward for _, reward, *_ in steps])
        assert all(reward in env.reward_space for reward in rewards)
        program = env.get_wrapper_attr("program")
        assert rewards.sum(axis=0)[1:].tolist() == [-cost(program) for cost in COSTS.values()]
        told = [info["objectives"] for *_, info in steps if "objectives" in info]
        assert np.sum(told, axis=0) == pytest.approx(rewards.sum(axis=0))
        assert "objectives" in steps[-1][-1]


def test_improvements_on_the_way_are_weighted() -> None:
    env = MultiObjectiveReward(instant_env("NOSBenchEdit-v0", lambda program: float(len(program))), weights=[2, 0, 1])
    env.reset(options={"program": "r9 = exp(grad); r9 = mul(r9, 0.1)"})
    _, reward, terminated, _, info = env.step([1, 1, *SPACE.encode(ADAM[0])])  # deletes the second
    assert (reward, terminated, info["objectives"]) == (2.0, False, (1.0, 0.0, 0.0))
    _, reward, terminated, _, info = env.step([3, 0, *SPACE.encode(ADAM[0])])
    assert (reward, terminated, info["objectives"]) == (-2.0, True, (0.0, 0.0, -2.0))


@pytest.mark.parametrize("env_id", IDS)
def test_both_checkers_pass_with_chebyshev(env_id: str) -> None:
    options = {"evaluate": "end"} if env_id == "NOSBenchEdit-v0" else {}
    env = gymnasium.make(f"nosbench_env:{env_id}", task="toy", oracle=InstantOracle(random_loss), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(MultiObjectiveReward(env, **CHEBYSHEV))
        check_env_for_sb3(MultiObjectiveReward(env, **CHEBYSHEV))


@pytest.mark.parametrize("arguments", [{}, CHEBYSHEV, {"scalarisation": "none", "costs": ["instructions"]}])
def test_specs_and_copies_keep_the_arguments(arguments: dict[str, Any]) -> None:
    env = MultiObjectiveReward(gymnasium.make("nosbench_env:NOSBench-v0", task="toy"), **arguments)
    rebuilt = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for twin in (rebuilt, copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert twin.get_wrapper_attr("scalarisation") == env.scalarisation
        assert twin.get_wrapper_attr("weights").tolist() == env.weights.tolist()
        assert twin.get_wrapper_attr("costs") == env.costs


def test_vector_envs_gather_the_objectives() -> None:
    arguments = {"task": "toy", "num_envs": 2, "vectorization_mode": "sync"}
    oracle = InstantOracle(lambda _: 1.0)
    wrappers = [MultiObjectiveReward]
    envs = gymnasium.make_vec("nosbench_env:NOSBenchToken-v0", **arguments, wrappers=wrappers, oracle=oracle)
    envs.reset()
    for tokens in ([0, 0], [28, 28], [36, 36]):  # r9 = square(grad), in both
        envs.step(np.array(tokens))
    _, rewards, _, _, infos = envs.step(np.array([26, 26]))
    assert rewards.tolist() == [-1.01, -1.01]
    assert infos["objectives"].tolist() == [(-1.0, 0.0, -2.0)] * 2


def test_agents_and_other_wrappers_take_it(tmp_path: Any) -> None:
    inside = PotentialShaping(MultiObjectiveReward(instant_env("NOSBench-v0", random_loss)), 1.0)
    env = EpisodeRecorder(inside, tmp_path / "episodes.jsonl")
    PPO("MlpPolicy", env, n_steps=32, batch_size=32, n_epochs=1).learn(64)
    assert (tmp_path / "episodes.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"costs": []}, "costs must be a list with some of memory, operations, instructions"),
        ({"costs": "memory"}, "costs must be a list"),
        ({"costs": ["time"]}, "costs must be a list"),
        ({"costs": ["memory", "memory"]}, "each once"),
        ({"weights": [1.0, 1.0]}, "weights must be 3 finite numbers >= 0"),
        ({"weights": [1.0, -1.0, 1.0]}, "weights must be 3 finite numbers >= 0"),
        ({"weights": [1.0, math.inf, 1.0]}, "weights must be 3 finite numbers >= 0"),
        ({"weights": [0, 0, 0]}, "not all 0"),
        ({"weights": [1, 1, 1], "scalarisation": "none"}, "weights are for 'linear' and 'chebyshev'"),
        ({"scalarisation": "product"}, "scalarisation must be 'linear', 'chebyshev' or 'none', got 'product'"),
        ({"scalarisation": "chebyshev"}, "ideal_reward must be given for 'chebyshev'"),
        ({"ideal_reward": 1.0}, "ideal_reward must be given for 'chebyshev' and for nothing else, got 1.0"),
        (CHEBYSHEV | {"ideal_reward": math.nan}, "ideal_reward must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrapped(**arguments)


def test_chebyshev_refuses_rewards_that_add_up() -> None:
    with pytest.raises(
        ValueError, match="MultiObjectiveReward with 'chebyshev' needs an env that pays once an episode"
    ):
        MultiObjectiveReward(instant_env("NOSBenchEdit-v0", random_loss), **CHEBYSHEV)
