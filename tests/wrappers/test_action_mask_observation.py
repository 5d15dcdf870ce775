import gymnasium
import numpy as np
import pytest
from oracles import random_loss
from play import IDS, instant_env, random_action

from nosbench_env.wrappers import ActionMaskObservation, FlatObservation, OneHotObservation, TokenObservation


@pytest.mark.parametrize("env_id", IDS)
def test_action_masks_in_the_observation_are_those_of_the_env(env_id: str) -> None:
    wrapped = ActionMaskObservation(instant_env(env_id, random_loss))
    rng = np.random.default_rng(0)
    observation, _ = wrapped.reset()
    terminated = False
    while not terminated:
        assert np.array_equal(observation["action_mask"], wrapped.unwrapped.action_masks())
        assert observation["action_mask"].dtype == np.float32
        observation, _, terminated, _, _ = wrapped.step(random_action(wrapped, rng))


@pytest.mark.parametrize("wrapper", [OneHotObservation, FlatObservation, TokenObservation])
def test_other_observation_wrappers_must_be_inside(wrapper: type[gymnasium.Wrapper]) -> None:
    with pytest.raises(ValueError, match=r"its own|MultiDiscrete"):
        wrapper(ActionMaskObservation(instant_env("NOSBench-v0", random_loss)))


def test_masks_need_an_env_that_has_them() -> None:
    with pytest.raises(ValueError, match=r"env must have action_masks\(\)"):
        ActionMaskObservation(gymnasium.make("CartPole-v1"))
