import numpy as np
from oracles import random_loss
from play import instant_env, observation_after, random_action

from nosbench_env import Program, SearchSpace
from nosbench_env.wrappers import TokenObservation

SPACE = SearchSpace()


def test_token_observation_is_the_instructions_in_a_row() -> None:
    program = Program.parse("r9 = exp(step); r19 = interpolate(param, grad, r9)")
    tokens = observation_after(TokenObservation(instant_env("NOSBench-v0", random_loss)), program)
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
            written.append(random_action(tokens, rng))
            observation, _, terminated, _, _ = tokens.step(written[-1])


def test_token_observation_of_the_edit_env_ends_with_the_edits_left() -> None:
    edits = TokenObservation(instant_env("NOSBenchEdit-v0", random_loss, start="SGD", max_edits=7))
    observation, _ = edits.reset()
    tokens = SPACE.tokens(edits.unwrapped.program)
    assert observation[: len(tokens)].tolist() == tokens
    assert observation[-1] == 7
    assert (edits.step(random_action(edits, np.random.default_rng(0)))[0])[-1] == 6
