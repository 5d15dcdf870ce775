"""`PotentialShaping`; that it keeps every return is shown in `test_optimal_policies.py` too."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from oracles import InstantOracle, random_loss
from play import IDS, instant_env, random_action
from strategies import programs

from nosbench_env import NOSBenchEnv, Program, SearchSpace, canonical_form
from nosbench_env.wrappers import PotentialShaping
from nosbench_env.wrappers.potential_shaping import POTENTIALS, holds_gradient, lost, usable_share

SPACE = SearchSpace()


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_shaping_rewards_of_an_episode_sum_to_0(env_id: str, potential: str, gamma: float) -> None:
    plain, env = instant_env(env_id, random_loss), instant_env(env_id, random_loss)
    shaped = PotentialShaping(env, gamma, potential, scale=2.0)
    rng = np.random.default_rng(0)
    paid_on_the_way = 0
    for _ in range(20):
        plain.reset(), shaped.reset()
        total, discount, terminated = 0.0, 1.0, False
        while not terminated:
            action = random_action(plain, rng)
            _, reward, terminated, _, _ = plain.step(action)
            _, with_shaping, *_ = shaped.step(action)
            total += discount * (with_shaping - reward)
            discount *= gamma
            paid_on_the_way += with_shaping != reward and not terminated
        assert total == pytest.approx(0.0, abs=1e-9)
    assert paid_on_the_way > 0


def test_shaping_rewards_are_differences_of_the_potential() -> None:
    env = PotentialShaping(NOSBenchEnv("toy", oracle=InstantOracle(lambda _: 1.0)), 0.5, scale=2.0)
    env.reset()
    # Shares of usable instructions: 0, then 1, then 1/2 when the first is overwritten unread, and 0 at the end.
    assert env.step([1, 2, 0, 0, 0])[1] == 0.5 * 2.0 - 0.0
    assert env.step([1, 2, 0, 0, 0])[1] == 0.5 * 1.0 - 2.0
    assert env.step(SPACE.stop_action)[1] == -1.0 + 0.5 * 0.0 - 1.0


def test_a_truncated_episode_keeps_its_last_potential() -> None:
    limited = gymnasium.wrappers.TimeLimit(NOSBenchEnv("toy"), 1)
    env = PotentialShaping(limited, 0.9)
    env.reset()
    _, reward, terminated, truncated, _ = env.step([1, 2, 0, 0, 0])
    assert (terminated, truncated, reward) == (False, True, 0.9)


def test_stepping_from_another_state_pays_that_states_difference() -> None:
    env = PotentialShaping(NOSBenchEnv("toy"), 1.0, "gradient")
    env.reset()
    env.unwrapped.set_state({"program": [["square", [1], 9]], "over": False})
    assert env.step([1, 2, 0, 0, 0])[1] == -1.0  # r9 = exp(step) overwrites the only value of the gradient's


@given(programs(max_size=8, memory_size=12), programs(min_size=0, max_size=8, memory_size=12))
def test_what_is_not_usable_makes_no_difference_however_a_program_goes_on(begun: Program, rest: Program) -> None:
    for place in lost(begun):
        without = Program((*begun[:place], *begun[place + 1 :], *rest))
        assert canonical_form(without) == canonical_form(Program((*begun, *rest)))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("r9 = exp(step)", 1.0),
        ("r9 = exp(step); r9 = exp(r9)", 1.0),
        ("r9 = exp(step); r10 = exp(r9); r9 = exp(step); r10 = exp(step)", 0.5),  # read, but only by what is lost
        ("r9 = exp(step); r10 = exp(r11); r11 = exp(step); r9 = square(step)", 0.75),
    ],
)
def test_usable_share(text: str, share: float) -> None:
    assert usable_share(Program.parse(text)) == share


@given(programs(max_size=8, memory_size=12))
def test_a_program_that_reads_the_gradient_holds_it(program: Program) -> None:
    if canonical_form(program).behaviour == "gradient-based":
        assert holds_gradient(program) == 1.0


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", 0.0),
        ("r9 = exp(step)", 0.0),
        ("r9 = square(grad)", 1.0),
        ("r9 = square(grad); r10 = exp(step)", 1.0),
        ("r9 = square(grad); r9 = exp(step)", 0.0),
        ("r9 = square(grad); r10 = exp(r9); r9 = exp(step)", 1.0),
    ],
)
def test_holds_gradient(text: str, held: float) -> None:
    assert holds_gradient(Program.parse(text)) == held


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.0}, "gamma must be above 0 and at most 1, got 0.0"),
        ({"gamma": 1.5}, "gamma must be above 0"),
        ({"gamma": 1.0, "potential": "length"}, "unknown potential 'length'; known are usable, gradient"),
        ({"gamma": 1.0, "scale": 0.0}, "scale must be a finite number above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PotentialShaping(NOSBenchEnv("toy"), **arguments)
