"""`NOSBenchToken-v0`: tokens, their observation and their masks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import MadeUpOracle

from nosbench_env import NOSBenchEnv, NOSBenchTokenEnv, Program, SearchSpace


@pytest.fixture(scope="module")
def stand() -> MadeUpOracle:
    return MadeUpOracle()


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
