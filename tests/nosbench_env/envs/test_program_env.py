"""What holds for all three environments."""

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
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from nosbench_env import KNOWN_PROGRAMS, NOSBenchEditEnv, NOSBenchEnv, NOSBenchTokenEnv, Oracle, Program, SearchSpace
from nosbench_env.envs.program_env import ProgramEnv

IDS = ["NOSBench-v0", "NOSBenchToken-v0", "NOSBenchEdit-v0"]
TOY = {"task": "toy", "epochs": 1, "device": "cpu"}
SHORT = {"NOSBenchEdit-v0": {"start": "r9 = mul(grad, 0.1)", "max_edits": 4}}  # each edit is a training
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


def draw(env: ProgramEnv, rng: np.random.Generator, masked: bool = True) -> Any:
    """A random action, of those masked in or of all."""
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        mask = env.action_masks() if masked else np.ones(env.action_space.n, dtype=bool)
        return int(rng.choice(np.flatnonzero(mask)))
    sizes = env.action_space.nvec
    masks = np.split(env.action_masks() if masked else np.ones(sizes.sum(), dtype=bool), np.cumsum(sizes)[:-1])
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])


def play(env: ProgramEnv, rng: np.random.Generator, steps: int, masked: bool = True) -> bool:
    """Plays up to so many steps from a reset on; whether the episode is over."""
    env.reset()
    return any(env.step(draw(env, rng, masked))[2] for _ in range(steps))


def rest(env: ProgramEnv, seed: int) -> list[Any]:
    """Plays an episode to its end; all that steps gave."""
    rng, results = np.random.default_rng(seed), []
    while True:
        observation, *others = env.step(draw(env, rng))
        results.append((observation.tolist(), env.action_masks().tolist(), env.program, *others))
        if others[1]:
            return results


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
        observation, reward, terminated, truncated, info = env.step(draw(env, rng, masked))
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
            returned.step(draw(env, np.random.default_rng(0)))
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
            action, state = draw(env, rng), env.get_state()
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


REST = {"partial": [], "base": [["abs", [1], 9]], "edits_left": 1}  # what some have in their states


@every_class
@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "expected a state from get_state"),
        (None, "expected a state from get_state"),
        ({"program": [["square", [1], 9]], "over": "no", **REST}, "'over' must be"),
        ({"program": [["mul", [1, 30], 9]], "over": False, **REST}, "is n"),
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


# Tokens


def write(env: NOSBenchTokenEnv, program: Program) -> list[Any]:
    env.reset()
    return [env.step(token) for token in env.search_space.tokens(program)]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_both_encodings_write_the_same_programs_for_the_same_reward(stand: MadeUpOracle, seed: int) -> None:
    program = SearchSpace().sample(np.random.default_rng(seed))
    tokens, instructions = (make("toy", 1, oracle=stand) for make in (NOSBenchTokenEnv, NOSBenchEnv))
    results = write(tokens, program)
    instructions.reset()
    for instruction in program:
        result = instructions.step(SearchSpace().encode(instruction))
    result = result if result[2] else instructions.step(SearchSpace().stop_action)
    assert np.array_equal(results[-1][0], result[0])
    assert results[-1][1:] == result[1:]
    assert not any(terminated for _, _, terminated, _, _ in results[:-1])


def test_a_token_is_seen_as_soon_as_it_is_written(stand: MadeUpOracle) -> None:
    env = NOSBenchTokenEnv(render_mode="ansi", oracle=stand)
    env.reset()
    seen = []
    for token in [18, 27 + 1, 27 + 6, 27 + 11]:
        seen.append((env.step(token)[0][:10].tolist(), env.render()))
    assert seen == [
        ([19, 0, 0, 0, 0] + [0] * 5, "  1  ... = mul(..., ...)"),
        ([19, 2, 0, 0, 0] + [0] * 5, "  1  ... = mul(grad, ...)"),
        ([19, 2, 7, 0, 0] + [0] * 5, "  1  ... = mul(grad, 0.01)"),
        ([19, 2, 7, 0, 3] + [0] * 5, "  1  r11 = mul(grad, 0.01)"),
    ]


@pytest.mark.parametrize(
    ("tokens", "program"),
    [([26], ""), ([28], ""), ([0, 0], ""), ([0, 28, 30], ""), ([0, 28, 36, 28], "r9 = square(grad)")],
)
def test_a_token_that_is_not_allowed_ends_the_episode_as_a_failure(
    stand: MadeUpOracle, tokens: list[int], program: str
) -> None:
    env = NOSBenchTokenEnv(failure_reward=-7, oracle=stand)
    env.reset()
    *first, last = [env.step(token) for token in tokens]
    assert not any(terminated for _, _, terminated, _, _ in first)
    assert last[1:] == (-7.0, True, False, {"program": program, "loss": None, "status": "invalid"})
    assert env.action_masks().sum() == 26  # of the next episode's beginning
    assert env.get_state() == NOSBenchTokenEnv.fork(env).get_state()
    returned = NOSBenchTokenEnv(oracle=stand)
    returned.set_state(env.get_state())
    assert returned.get_state() == env.get_state()


# Edits

LR = Program.parse("r9 = mul(grad, 0.1)")
SMALL = Program.parse("r9 = mul(grad, 0.01)")


def edit(kind: int, place: int = 0, program: Program = LR) -> list[int]:
    return [kind, place, *SearchSpace().encode(program[0]).tolist()]


def test_the_reward_of_an_edit_is_the_improvement(oracle: Oracle) -> None:
    env = NOSBenchEditEnv("toy", 5, start="r9 = mul(grad, 0.01)", oracle=oracle)
    env.reset()
    before, after = (oracle.query(program, 5).loss for program in (SMALL, LR))
    assert before > after
    _, reward, terminated, _, info = env.step(edit(2))
    assert (reward, terminated) == (before - after, False)
    assert info == {"program": str(LR), "loss": after, "status": "ok"}
    _, reward, *_ = env.step(edit(2, program=SMALL))
    assert reward == after - before
    _, reward, terminated, _, info = env.step(edit(3))
    assert (reward, terminated, info["loss"]) == (0.0, True, before)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_rewards_add_up_to_the_whole_improvement_at_each_step_or_at_the_end(stand: MadeUpOracle, seed: int) -> None:
    totals = []
    for evaluate in ("step", "end"):
        env = NOSBenchEditEnv("toy", 1, start="SGD", max_edits=6, evaluate=evaluate, oracle=stand)
        env.reset()
        results = rest(env, seed)
        assert evaluate == "step" or not any(reward for *_, reward, _, _, _ in results[:-1])
        totals.append(sum(reward for *_, reward, _, _, _ in results))
        values = [
            max(-found.loss, -20.0) if found.status == "ok" else -20.0
            for found in stand.query_many([KNOWN_PROGRAMS["SGD"], env.program], 1, last_epoch_only=True)
        ]
        assert totals[-1] == pytest.approx(values[1] - values[0], abs=1e-9)
    assert totals[0] == pytest.approx(totals[1], abs=1e-9)


@pytest.mark.parametrize(
    ("action", "program"),
    [
        (edit(0, 0), "r9 = mul(grad, 0.1); r10 = sign(grad); r11 = mul(r10, 0.01)"),
        (edit(0, 1), "r10 = sign(grad); r9 = mul(grad, 0.1); r11 = mul(r10, 0.01)"),
        (edit(0, 2), "r10 = sign(grad); r11 = mul(r10, 0.01); r9 = mul(grad, 0.1)"),
        (edit(0, 5), "r10 = sign(grad); r11 = mul(r10, 0.01); r9 = mul(grad, 0.1)"),
        (edit(1, 0), "r11 = mul(r10, 0.01)"),
        (edit(1, 9), "r10 = sign(grad)"),
        (edit(2, 0), "r9 = mul(grad, 0.1); r11 = mul(r10, 0.01)"),
        (edit(2, 7), "r10 = sign(grad); r9 = mul(grad, 0.1)"),
    ],
)
def test_what_an_edit_does(stand: MadeUpOracle, action: list[int], program: str) -> None:
    env = NOSBenchEditEnv("toy", 1, start="r10 = sign(grad); r11 = mul(r10, 0.01)", oracle=stand)
    env.reset()
    observation, *_ = env.step(np.array(action))
    assert env.program == Program.parse(program)
    assert observation[-1] == 19


def test_edits_that_would_leave_the_space_are_not_made(stand: MadeUpOracle) -> None:
    env = NOSBenchEditEnv("toy", 1, start="r9 = mul(grad, 0.1)", max_instructions=1, oracle=stand)
    env.reset()
    assert np.split(env.action_masks(), [4, 5])[0].tolist() == [False, False, True, True]
    for kind in (0, 1):
        observation, reward, terminated, _, info = env.step(edit(kind))
        assert (reward, terminated, info, env.program) == (0.0, False, {}, LR)
    assert observation[-1] == 18
    constrained = NOSBenchEditEnv("toy", 1, start="r9 = mul(grad, 0.1)", constraints=["used"], oracle=stand)
    constrained.reset()
    assert constrained.step(edit(0))[1] == 0.0
    assert constrained.program == LR


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_masked_in_edits_are_made(stand: MadeUpOracle, seed: int) -> None:
    env = NOSBenchEditEnv("toy", 1, start="SGD", max_instructions=5, evaluate="end", max_edits=30, oracle=stand)
    rng, over = np.random.default_rng(seed), False
    env.reset()
    while not over:
        before, action = env.program, draw(env, rng)
        over = env.step(action)[2]
        change = {0: 1, 1: -1, 2: 0, 3: 0}[action[0]]
        assert len(env.program) == len(before) + change


def test_an_episode_may_start_from_another_program(stand: MadeUpOracle) -> None:
    env = NOSBenchEditEnv("toy", 1, max_edits=2, oracle=stand)
    assert env.reset()[0].tolist() != env.reset(options={"program": "Adam"})[0].tolist()
    assert env.program == KNOWN_PROGRAMS["Adam"]
    for given_as in (str(LR), LR.to_json(), LR):
        env.reset(options={"program": given_as})
        assert env.program == LR
    env.reset()
    assert env.program == KNOWN_PROGRAMS["AdamW"]
    assert not env.step(edit(1))[2]
    assert env.step(edit(1))[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": "Adamw2"}, "'Adamw2' is none of .*, and no program text"),
        ({"start": 5}, "a name, a text or JSON data, got 5"),
        ({"start": "AdamW", "max_instructions": 3}, "1 to 3 instructions, the program 14"),
        ({"max_edits": 0}, "max_edits must be an integer >= 1, got 0"),
        ({"evaluate": "always"}, "evaluate must be 'step' or 'end', got 'always'"),
    ],
)
def test_bad_arguments_of_the_edit_env_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NOSBenchEditEnv(**arguments)
