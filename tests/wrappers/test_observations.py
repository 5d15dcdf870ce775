"""The wrappers that change observations."""

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from oracles import InstantOracle, random_loss
from play import IDS, allowed_action, instant_env
from strategies import programs

from nosbench_env import NOSBenchEnv, Program, SearchSpace
from nosbench_env.wrappers import ActionMaskObservation, FlatObservation, OneHotObservation, TokenObservation

SPACE = SearchSpace()


def written(env: gymnasium.Env, program: Program) -> np.ndarray:
    """The observation after the first instructions of a program, at most 19."""
    observation, _ = env.reset()
    for instruction in program[:19]:
        observation, *_ = env.step(SPACE.encode(instruction))
    return observation


def env() -> NOSBenchEnv:
    return NOSBenchEnv("toy", oracle=InstantOracle(random_loss))


@given(programs())
def test_one_hot_and_flat_say_what_the_observation_says(program: Program) -> None:
    plain = written(env(), program)
    nvec = env().observation_space.nvec
    one_hot = written(OneHotObservation(env()), program)
    factors = np.split(one_hot, np.cumsum(nvec)[:-1])
    assert [factor.argmax() for factor in factors] == plain.tolist()
    assert one_hot.sum() == len(nvec)
    flat = written(FlatObservation(env()), program)
    assert np.rint(flat * (nvec - 1)).astype(int).tolist() == plain.tolist()


def test_token_observation_is_the_instructions_in_a_row() -> None:
    program = Program.parse("r9 = exp(step); r19 = interpolate(param, grad, r9)")
    tokens = written(TokenObservation(env()), program)
    # Functions are numbered as in FUNCTIONS, 26 is STOP, slot s is 27 + s.
    assert tokens[:8].tolist() == [1, 29, 36, 24, 27, 28, 36, 46]
    assert (tokens[8:] == 26).all()
    assert tokens.shape == (100,)


def test_token_observation_is_the_actions_of_the_token_env() -> None:
    tokens = TokenObservation(instant_env("NOSBenchToken-v0", random_loss))
    rng = np.random.default_rng(0)
    for _ in range(5):
        observation, _ = tokens.reset()
        written: list[int] = []
        terminated = False
        while not terminated:
            assert observation.tolist() == written + [26] * (100 - len(written))
            written.append(allowed_action(tokens, rng))
            observation, _, terminated, _, _ = tokens.step(written[-1])


def test_token_observation_of_the_edit_env_ends_with_the_edits_left() -> None:
    edits = TokenObservation(instant_env("NOSBenchEdit-v0", random_loss, start="SGD", max_edits=7))
    observation, _ = edits.reset()
    tokens = SPACE.tokens(edits.unwrapped.program)
    assert observation[: len(tokens)].tolist() == tokens
    assert observation[-1] == 7
    assert (edits.step(allowed_action(edits, np.random.default_rng(0)))[0])[-1] == 6


@pytest.mark.parametrize("env_id", IDS)
def test_action_masks_in_the_observation_are_those_of_the_env(env_id: str) -> None:
    wrapped = ActionMaskObservation(instant_env(env_id, random_loss))
    rng = np.random.default_rng(0)
    observation, _ = wrapped.reset()
    terminated = False
    while not terminated:
        assert np.array_equal(observation["action_mask"], wrapped.unwrapped.action_masks())
        assert observation["action_mask"].dtype == np.float32
        observation, _, terminated, _, _ = wrapped.step(allowed_action(wrapped, rng))


@pytest.mark.parametrize("wrapper", [OneHotObservation, FlatObservation, TokenObservation])
def test_masks_are_put_outside_of_all_else(wrapper: type[gymnasium.Wrapper]) -> None:
    with pytest.raises(ValueError, match=r"env must have (its own|MultiDiscrete) observations, got"):
        wrapper(ActionMaskObservation(env()))


def test_masks_need_an_env_that_has_them() -> None:
    with pytest.raises(ValueError, match=r"env must have action_masks\(\)"):
        ActionMaskObservation(gymnasium.make("CartPole-v1"))
