import numpy as np
from hypothesis import given
from oracles import random_loss
from play import instant_env, observation_after
from strategies import programs

from nosbench_env import Program
from nosbench_env.wrappers import OneHotObservation


@given(programs())
def test_one_hot_holds_the_numbers_of_the_observation(program: Program) -> None:
    env = instant_env("NOSBench-v0", random_loss)
    plain = observation_after(env, program)
    one_hot = observation_after(OneHotObservation(env), program)
    factors = np.split(one_hot, np.cumsum(env.observation_space.nvec)[:-1])
    assert [factor.argmax() for factor in factors] == plain.tolist()
    assert one_hot.sum() == len(plain)
