"""The contract of all three environments."""

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import MadeUpOracle
from play import IDS, random_action, rest
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from nosbench_env import NOSBenchEditEnv, NOSBenchEnv, NOSBenchTokenEnv, Program, SearchSpace
from nosbench_env.envs.program_env import ProgramEnv

TOY = {"task": "toy", "epochs": 1, "device": "cpu"}
SHORT = {"NOSBenchEdit-v0": {"start": "r9 = mul(grad, 0.1)", "max_edits": 4}}  # short, since each edit is a training
CONSTRAINTS: list[list[str]] = [[], ["used", "gradient"]]
ids = pytest.mark.parametrize("id", IDS)
constrained = pytest.mark.parametrize("constraints", CONSTRAINTS, ids=["free", "constrained"])
CLASSES: dict[str, Callable[..., ProgramEnv]] = {
    "instructions": NOSBenchEnv,
    "tokens": NOSBenchTokenEnv,
    "edits": partial(NOSBenchEditEnv, **SHORT["NOSBenchEdit-v0"]),
    "edits, evaluated at the end": partial(NOSBenchEditEnv, **SHORT["NOSBenchEdit-v0"], evaluate="end"),
}
every_class = pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES)


@pytest.fixture(scope="module")
def stand() -> MadeUpOracle:
    return MadeUpOracle()


def play(env: ProgramEnv, rng: np.random.Generator, steps: int, masked: bool = True) -> bool:
    """Plays at most `steps` steps from a reset on; returns True if the episode is over."""
    env.reset()
    return any(env.step(random_action(env, rng, masked))[2] for _ in range(steps))


@ids
@constrained
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("check", [lambda env: check_env(env.unwrapped), check_env_for_sb3], ids=["gymnasium", "sb3"])
def test_checkers_pass(id: str, constraints: list[str], seed: int, check: Callable[[gymnasium.Env], None]) -> None:
    env = gymnasium.make(f"nosbench_env:{id}", constraints=constraints, **TOY, **SHORT.get(id, {}))
    env.action_space.seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(env)


@every_class
@constrained
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), masked=st.booleans())
def test_any_actions_are_taken(
    make: Callable[..., ProgramEnv], constraints: list[str], stand: MadeUpOracle, seed: int, masked: bool
) -> None:
    env, rng = make(max_instructions=6, constraints=constraints, oracle=stand), np.random.default_rng(seed)
    observation, info = env.reset()
    terminated = False
    while not terminated:
        assert observation in env.observation_space
        assert env.action_masks().any()
        observation, reward, terminated, truncated, info = env.step(random_action(env, rng, masked))
        assert truncated is False
        assert type(terminated) is bool
        assert type(reward) is float
        assert np.isfinite(reward)
    assert observation in env.observation_space
    assert set(info) == {"program", "loss", "status"}
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    if info["status"] == "invalid":
        assert not masked or (isinstance(env, NOSBenchEnv) and constraints)
        assert (reward, info["loss"], env.last_evaluation) == (env.failure_reward, None, None)
    else:
        assert Program.parse(info["program"]) == env.program == env.last_evaluation.program
        assert not masked or env.program in env.search_space


@every_class
@constrained
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 12))
def test_copies_and_states_continue_alike_from_the_middle(
    make: Callable[..., ProgramEnv], constraints: list[str], stand: MadeUpOracle, seed: int, steps: int
) -> None:
    def fresh() -> ProgramEnv:
        return make("toy", 1, max_instructions=6, constraints=constraints, oracle=stand)

    env = fresh()
    over = play(env, np.random.default_rng(seed), steps)
    state = json.loads(json.dumps(env.get_state()))
    returned = fresh()
    returned.reset()
    observation = returned.set_state(state)
    assert observation in env.observation_space
    assert returned.get_state() == state
    assert np.array_equal(observation, env.fork().set_state(state))
    if over:
        with pytest.raises(gymnasium.error.ResetNeeded):
            returned.step(random_action(env, np.random.default_rng(0)))
        returned.reset()
        return
    twins = [env.fork(), copy.deepcopy(env), pickle.loads(pickle.dumps(env)), returned]
    expected = rest(env.fork(), seed)
    assert env.get_state() == state  # forks go their own way
    for twin in twins:
        assert rest(twin, seed) == expected


@every_class
@constrained
def test_a_step_whose_evaluation_is_interrupted_has_not_happened(
    make: Callable[..., ProgramEnv], constraints: list[str]
) -> None:
    stand = MadeUpOracle()
    env, rng = make("toy", 1, max_instructions=3, constraints=constraints, oracle=stand), np.random.default_rng(0)
    interrupted = 0
    while interrupted < 5:
        env.reset()
        terminated = False
        while not terminated:
            action, state = random_action(env, rng), env.get_state()
            stand.failing = KeyboardInterrupt()
            try:
                terminated = env.step(action)[2]
            except KeyboardInterrupt:
                interrupted += 1
                assert env.get_state() == state
                stand.failing = None
                _, _, terminated, _, info = env.step(action)
                assert info["status"] in ("ok", "nan", "inf")
            stand.failing = None


@ids
@constrained
def test_spec_travels_as_json(id: str, constraints: list[str]) -> None:
    env = gymnasium.make(f"nosbench_env:{id}", max_instructions=15, constraints=constraints, **TOY)
    spec = gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json())
    twin = gymnasium.make(spec).unwrapped
    assert twin.search_space == env.unwrapped.search_space == SearchSpace(15, 20, tuple(constraints))


REST = {"partial": [], "base": [["abs", [1], 9]], "edits_left": 1}  # fields that the states of some envs have


@every_class
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "expected a state from get_state"),
        (None, "expected a state from get_state"),
        ({"program": [["square", [1], 9]], "over": "no", **REST}, "'over' must be"),
        ({"program": [["mul", [1, 30], 9]], "over": False, **REST}, "SearchSpace"),
        ({"program": "r9 = mul(grad, 0.01)", "over": False, **REST}, "is a list"),
        (
            {"program": [["square", [1], 9]] * 20, "over": False, "partial": [], "base": [["abs", [1], 9]]}
            | {"edits_left": 0},
            "over",
        ),
    ],
)
def test_bad_states_are_refused_and_change_nothing(
    make: Callable[..., ProgramEnv], stand: MadeUpOracle, state: Any, message: str
) -> None:
    env = make(oracle=stand)
    env.reset()
    before = env.get_state()
    with pytest.raises(ValueError, match=message):
        env.set_state(state)
    assert env.get_state() == before


@every_class
@pytest.mark.parametrize("constraints", ["used", ["short"], 5])
def test_bad_constraints_are_refused(make: Callable[..., ProgramEnv], constraints: Any) -> None:
    with pytest.raises(ValueError, match="constraints must be"):
        make(constraints=constraints)


@every_class
@pytest.mark.parametrize("action", [None, "stop", 3.5, [1], -1, 10**30, np.zeros(5), np.full(7, -1), np.full(5, 99)])
def test_bad_actions_are_refused_and_change_nothing(
    make: Callable[..., ProgramEnv], stand: MadeUpOracle, action: Any
) -> None:
    env = make(oracle=stand)
    env.reset()
    before = env.get_state()
    with pytest.raises(ValueError, match="an action is"):
        env.step(action)
    assert env.get_state() == before
