import numpy as np
from hypothesis import given
from oracles import random_loss
from play import instant_env, observation_after
from strategies import programs

from nosbench_env import Program
from nosbench_env.wrappers import FlatObservation


@given(programs())
def test_flat_holds_the_numbers_of_the_observation(program: Program) -> None:
    env = instant_env("NOSBench-v0", random_loss)
    plain = observation_after(env, program)
    flat = observation_after(FlatObservation(env), program)
    assert np.rint(flat * (env.observation_space.nvec - 1)).astype(int).tolist() == plain.tolist()
