"""`NOSBenchEdit-v0`: edits, their rewards and the program that an episode starts from."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import MadeUpOracle
from play import random_action, rest

from nosbench_env import KNOWN_PROGRAMS, NOSBenchEditEnv, Oracle, Program, SearchSpace


@pytest.fixture(scope="module")
def stand() -> MadeUpOracle:
    return MadeUpOracle()


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
            max(-evaluation.loss, -20.0) if evaluation.status == "ok" else -20.0
            for evaluation in stand.query_many([KNOWN_PROGRAMS["SGD"], env.program], 1, last_epoch_only=True)
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
        before, action = env.program, random_action(env, rng)
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
