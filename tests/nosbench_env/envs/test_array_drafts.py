"""`ArrayDrafts` against the single environments that they stand for."""

from typing import Any

import numpy as np
import pytest
from oracles import MadeUpOracle
from play import random_action

from nosbench_env import NOSBenchEnv, NOSBenchTokenEnv, SearchSpace
from nosbench_env.envs.array_drafts import ArrayDrafts, InstructionDrafts, TokenDrafts
from nosbench_env.envs.program_env import ProgramEnv

SPACE = SearchSpace(3, 12)
COUNT = 4
KINDS = {"instructions": (InstructionDrafts, NOSBenchEnv), "tokens": (TokenDrafts, NOSBenchTokenEnv)}
kinds = pytest.mark.parametrize(("drafts_type", "env_type"), KINDS.values(), ids=KINDS)


def make_envs(env_type: type[ProgramEnv]) -> list[ProgramEnv]:
    envs = [env_type("toy", max_instructions=3, memory_size=12, oracle=MadeUpOracle()) for _ in range(COUNT)]
    for env in envs:
        env.reset()
    return envs


def seen(drafts: ArrayDrafts) -> list[Any]:
    return [
        drafts.observations().tolist(),
        drafts.masks().tolist(),
        drafts.lengths.tolist(),
        [drafts.state(number) for number in range(COUNT)],
    ]


@kinds
@pytest.mark.parametrize("wildness", [0.0, 0.2])
def test_every_step_is_that_of_the_single_env(
    drafts_type: type[ArrayDrafts], env_type: type[ProgramEnv], wildness: float
) -> None:
    rng, drafts, envs = np.random.default_rng(0), drafts_type(SPACE, COUNT), make_envs(env_type)
    endings: set[str] = set()
    for _ in range(100):
        actions = [random_action(env, rng, masked=rng.random() >= wildness) for env in envs]
        drafts, ended, refused = drafts.after(np.array(actions), np.ones(COUNT, dtype=np.bool_))
        for number, (env, action) in enumerate(zip(envs, actions, strict=True)):
            observation, _, terminated, _, info = env.step(action)
            assert drafts.observation(number).tolist() == observation.tolist()
            assert drafts.program(number) == env.program
            assert (ended[number], refused[number]) == (terminated, info.get("status") == "invalid")
            if terminated:
                endings.add("invalid" if refused[number] else "full" if len(env.program) == 3 else "stop")
                env.reset()
        drafts.clear(ended)
        assert drafts.observations().tolist() == [env.set_state(env.get_state()).tolist() for env in envs]
        assert drafts.masks().tolist() == [env.action_masks().tolist() for env in envs]
        states = [env.get_state() for env in envs]
        assert [drafts.state(number) | {"over": False} for number in range(COUNT)] == states
    assert endings == {"stop", "full"} | ({"invalid"} if wildness and drafts_type is TokenDrafts else set())


@kinds
def test_a_step_leaves_the_drafts_before_it_and_inactive_sub_envs_unchanged(
    drafts_type: type[ArrayDrafts], env_type: type[ProgramEnv]
) -> None:
    rng, envs = np.random.default_rng(0), make_envs(env_type)
    drafts, _, _ = drafts_type(SPACE, COUNT).after(
        np.array([random_action(env, rng) for env in envs]), np.ones(COUNT, dtype=np.bool_)
    )
    before = seen(drafts)
    for env, number in zip(envs, range(COUNT), strict=True):
        env.set_state(drafts.state(number) | {"over": False})
    actions = np.array([random_action(env, rng) for env in envs])
    after, ended, refused = drafts.after(actions, np.array([True, False, True, False]))
    assert seen(drafts) == before
    for number in (1, 3):
        assert after.observation(number).tolist() == before[0][number]
        assert after.state(number) == before[3][number]
        assert not ended[number]
        assert not refused[number]
    for number in (0, 2):
        assert after.observation(number).tolist() != before[0][number]


@kinds
def test_observations_are_the_callers_to_change(drafts_type: type[ArrayDrafts], env_type: type[ProgramEnv]) -> None:
    drafts = drafts_type(SPACE, COUNT)
    drafts.observations()[:] = 7
    drafts.observation(0)[:] = 7
    assert not drafts.observations().any()
