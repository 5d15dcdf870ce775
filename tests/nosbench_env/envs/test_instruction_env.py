import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from strategies import action_sequences, programs

from nosbench_env import (
    FUNCTIONS,
    KNOWN_PROGRAMS,
    Instruction,
    NOSBenchEnv,
    Oracle,
    Program,
    ResultStore,
    SearchSpace,
)

SPACE = SearchSpace()
TOY = {"task": "toy", "epochs": 1, "device": "cpu"}


@pytest.fixture
def env(oracle: Oracle) -> NOSBenchEnv:
    made = NOSBenchEnv("toy", epochs=1, oracle=oracle)
    made.reset()
    return made


def play(env: gymnasium.Env, program: Program) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Writes a program, with STOP if it is not of full length; returns the last step's result."""
    env.reset()
    for instruction in program:
        result = env.step(SPACE.encode(instruction))
    return result if result[2] else env.step(SPACE.stop_action)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(action_sequences(SPACE))
def test_any_actions_give_a_valid_episode_and_a_finite_reward(env: NOSBenchEnv, actions: list[list[int]]) -> None:
    observation, info = env.reset()
    terminated, taken = False, 0
    while not terminated:
        assert observation in env.observation_space
        assert info == {}
        observation, reward, terminated, truncated, info = env.step(np.array(actions[taken]))
        taken += 1
        assert truncated is False
        assert type(terminated) is bool
        assert type(reward) is float
        assert math.isfinite(reward)
        assert terminated or reward == 0
    assert observation in env.observation_space
    assert len(env.program) <= 20
    assert Program.parse(info["program"]) == env.program
    assert json.dumps(info, allow_nan=False)
    assert reward >= -20.0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs())
def test_any_program_of_the_space_can_be_written(env: NOSBenchEnv, program: Program) -> None:
    _, reward, terminated, _, info = play(env, program)
    assert terminated
    assert env.program == env.last_evaluation.program == program
    assert reward == (max(-info["loss"], -20.0) if info["status"] == "ok" else -20.0)


def test_observation_tells_the_program_and_nothing_else(env: NOSBenchEnv) -> None:
    seen = {}
    rng = np.random.default_rng(0)
    for program in [SPACE.sample(rng) for _ in range(200)]:
        observation, _ = env.reset()
        for instruction in program[:19]:
            observation, *_ = env.step(SPACE.encode(instruction))
        assert seen.setdefault(observation.tobytes(), program[:19]) == program[:19]
    observation, _ = env.reset()
    assert not observation.any()
    observation, *_ = env.step([18, 1, 6, 13, 2])  # mul takes two inputs; the third is ignored
    assert observation[:10].tolist() == [19, 2, 7, 0, 3, 0, 0, 0, 0, 0]
    assert str(env.program) == "r11 = mul(grad, 0.01)"


def observed(program: Program) -> list[int]:
    """Computes the observation of a program from its description in the class's docstring."""
    rows = [[0] * 5 for _ in range(20)]
    for row, instruction in zip(rows, program, strict=False):
        row[0] = list(FUNCTIONS).index(instruction.function) + 1
        row[1 : 1 + len(instruction.inputs)] = [slot + 1 for slot in instruction.inputs]
        row[4] = instruction.output - 8
    return [number for row in rows for number in row]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(action_sequences(SPACE))
def test_observation_and_program_are_those_of_the_actions_after_every_step(
    env: NOSBenchEnv, actions: list[list[int]]
) -> None:
    observation, _ = env.reset()
    beginning = env.get_state()
    written: list[Instruction] = []
    terminated = False
    for action in actions:
        assert env.program == Program(tuple(written))
        assert observation.tolist() == observed(env.program)
        assert observation.dtype == env.observation_space.dtype
        assert np.array_equal(env.fork().set_state(env.get_state()), observation)
        if terminated:
            break
        if (instruction := SPACE.decode(action)) is not None:
            written.append(instruction)
        observation, _, terminated, _, _ = env.step(action)
    assert not env.set_state(beginning).any()


def test_observations_are_the_callers_to_keep_and_to_change(env: NOSBenchEnv) -> None:
    action = SPACE.encode(KNOWN_PROGRAMS["SGD"][3])
    steps = [lambda: env.reset()[0], lambda: env.step(action)[0], lambda: env.set_state(env.get_state())]
    steps.append(lambda: env.step(SPACE.stop_action)[0])
    kept = []
    for step in steps:
        observation = step()
        kept.append((observation, observed(env.program)))
    env.reset()
    assert [observation.tolist() for observation, _ in kept] == [expected for _, expected in kept]
    for step in steps:
        observation = step()
        assert observation.tolist() == observed(env.program)
        observation[:] = 7
    assert str(env.program) == "r19 = mul(r12, 0.01)"


def test_reward_is_the_negative_loss(env: NOSBenchEnv) -> None:
    _, reward, _, _, info = play(env, KNOWN_PROGRAMS["Adam"])
    assert info == {"program": str(KNOWN_PROGRAMS["Adam"]), "loss": -reward, "status": "ok"}
    assert reward == -env.oracle.query(KNOWN_PROGRAMS["Adam"], epochs=1).loss


def test_failed_programs_get_the_failure_reward(oracle: Oracle) -> None:
    env = NOSBenchEnv("toy", epochs=1, failure_reward=-0.5, oracle=oracle)
    _, reward, _, _, info = play(env, Program.parse("r9 = log(r9); r9 = mul(r9, r10)"))
    assert (reward, info["loss"], info["status"]) == (-0.5, None, "nan")
    _, reward, *_ = play(env, KNOWN_PROGRAMS["Adam"])  # its loss is 1.2: no reward lies below that of failure
    assert reward == -0.5


def test_the_full_program_ends_the_episode_without_stop(env: NOSBenchEnv) -> None:
    for number in range(20):
        *_, terminated, _, info = env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][3]))
        assert terminated == (number == 19)
    assert len(info["program"].splitlines()) == 20


def test_stop_first_gives_the_empty_program_and_is_masked(env: NOSBenchEnv) -> None:
    assert not env.action_masks()[26]
    _, _, terminated, _, info = env.step(SPACE.stop_action)
    assert terminated
    assert (info["program"], info["status"]) == ("", "ok")
    env.reset()
    env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][0]))
    assert env.action_masks().all()
    assert env.action_masks().shape == (98,)


def test_a_replay_gives_the_same_info_also_when_it_is_a_hit(env: NOSBenchEnv) -> None:
    first, second = play(env, KNOWN_PROGRAMS["SGD"]), None
    trained = env.last_evaluation
    second = play(env, KNOWN_PROGRAMS["SGD"])
    assert first[1:] == second[1:]
    assert (trained.hit, env.last_evaluation.hit) == (False, True)


def test_stepping_without_reset_or_after_the_end_is_refused(oracle: Oracle) -> None:
    env = NOSBenchEnv("toy", epochs=1, oracle=oracle)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(SPACE.stop_action)
    play(env, KNOWN_PROGRAMS["SGD"])
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(SPACE.stop_action)


@pytest.mark.parametrize("last", ["stop", "instruction", "other"])  # other: it is not taken again, but STOP is
def test_a_step_whose_evaluation_fails_has_not_happened(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    env = NOSBenchEnv("toy", epochs=1, max_instructions=2, oracle=oracle)
    env.reset()
    instruction = SPACE.encode(KNOWN_PROGRAMS["SGD"][3])
    action = SPACE.stop_action if last == "stop" else instruction
    env.step(instruction)
    with monkeypatch.context() as patched:
        patched.setattr(env.oracle, "query_many", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            env.step(action)
    assert len(env.program) == 1
    observation, _, terminated, *_ = env.step(SPACE.stop_action if last == "other" else action)
    assert terminated
    assert len(env.program) == (2 if last == "instruction" else 1)
    assert np.count_nonzero(observation[::5]) == len(env.program)


@pytest.mark.parametrize("copied", [copy.deepcopy, NOSBenchEnv.fork, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_keep_the_half_built_program_and_go_their_own_way(env: NOSBenchEnv, copied: Any) -> None:
    env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][0]))
    env.np_random.random()
    twin = copied(env)
    assert twin.program == env.program
    assert twin.np_random.random() == env.np_random.random()
    twin.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][1]))
    assert (len(twin.program), len(env.program)) == (2, 1)
    env.step(SPACE.stop_action)
    assert twin.step(SPACE.stop_action)[2]


def test_forks_share_the_oracle(env: NOSBenchEnv) -> None:
    assert env.fork().oracle is env.oracle


def test_state_is_json_data_and_can_be_returned_to(env: NOSBenchEnv) -> None:
    env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][0]))
    state = json.loads(json.dumps(env.get_state()))
    expected = env.step(SPACE.stop_action)
    other = NOSBenchEnv("toy", epochs=1, oracle=env.oracle)
    observation = other.set_state(state)
    assert observation in other.observation_space
    actual = other.step(SPACE.stop_action)
    assert np.array_equal(actual[0], expected[0])
    assert actual[1:] == expected[1:]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "expected a state from get_state"),
        (None, "expected a state from get_state"),
        ({"program": [], "over": "no"}, "'over' must be true or false"),
        ({"program": [["mul", [1, 30], 9]], "over": False}, "is not in this env's SearchSpace"),
        ({"program": "r9 = mul(grad, 0.01)", "over": False}, "a program is a list"),
        ({"program": [["square", [1], 9]] * 20, "over": False}, "'over' must be true for a program of the full 20"),
    ],
)
def test_bad_states_are_refused(env: NOSBenchEnv, state: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        env.set_state(state)


def test_ansi_rendering_shows_the_program_as_it_grows() -> None:
    env = gymnasium.make("nosbench_env:NOSBench-v0", render_mode="ansi", **TOY)
    env.reset()
    assert env.render() == "(empty program)"
    env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][3]))
    assert env.render() == "  1  r19 = mul(r12, 0.01)"
    env.step(SPACE.stop_action)
    assert env.render().splitlines()[-1].startswith("loss 1.")


def test_human_rendering_prints_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    env = gymnasium.make("nosbench_env:NOSBench-v0", render_mode="human", **TOY)
    env.reset()
    env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][3]))
    env.step(SPACE.stop_action)
    printed = capsys.readouterr().out
    assert "(empty program)" in printed
    assert "  1  r19 = mul(r12, 0.01)\nloss 1." in printed
    env.close()
    env.close()


def test_spec_travels_as_json() -> None:
    env = gymnasium.make("nosbench_env:NOSBench-v0", max_instructions=5, **TOY)
    spec = gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert gymnasium.make(spec).unwrapped.search_space.max_instructions == 5
    assert env.spec.max_episode_steps is None


def test_bounds_set_the_spaces() -> None:
    env = NOSBenchEnv("toy", max_instructions=3, memory_size=12)
    assert env.action_space.nvec.tolist() == [27, 12, 12, 12, 3]
    assert env.observation_space.nvec.tolist() == [27, 13, 13, 13, 4] * 3


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_envs_work_and_leave_their_results_in_one_file(mode: str, tmp_path: Path) -> None:
    envs = gymnasium.make_vec(
        "nosbench_env:NOSBench-v0", num_envs=2, vectorization_mode=mode, store=str(tmp_path / "v.sqlite"), **TOY
    )
    envs.reset(seed=0)
    instruction = SPACE.encode(KNOWN_PROGRAMS["SGD"][3])
    envs.step(np.stack([instruction, instruction]))
    _, rewards, terminated, truncated, infos = envs.step(np.stack([SPACE.stop_action, instruction]))
    assert terminated.tolist() == [True, False]
    assert not truncated.any()
    assert rewards[0] == -infos["loss"][0] < 0 == rewards[1]
    envs.close()
    assert {path.name for path in tmp_path.glob("v.sqlite*")} == {"v.sqlite", "v.sqlite.lock"}
    assert len(ResultStore(tmp_path / "v.sqlite")) == 1


@pytest.mark.filterwarnings("ignore:.*render_mode='rgb_array' that is not in")
def test_sb3_makes_vec_envs_and_models_from_the_id(tmp_path: Path) -> None:
    arguments = {**TOY, "store": str(tmp_path / "vec.sqlite")}
    envs = make_vec_env("nosbench_env:NOSBench-v0", n_envs=2, env_kwargs=arguments)
    PPO("MlpPolicy", envs, n_steps=16, batch_size=16, device="cpu").learn(32)
    A2C("MlpPolicy", "nosbench_env:NOSBench-v0", device="cpu")


def test_ppo_trains(tmp_path: Path) -> None:
    env = gymnasium.make("nosbench_env:NOSBench-v0", store=str(tmp_path / "ppo.sqlite"), **TOY)
    model = PPO("MlpPolicy", env, n_steps=250, batch_size=50, seed=0, device="cpu").learn(2000)
    assert model.num_timesteps == 2000
    assert env.unwrapped.oracle.statistics.queries > 50


def test_maskable_ppo_takes_the_masks(tmp_path: Path) -> None:
    sb3_contrib = pytest.importorskip("sb3_contrib")
    env = gymnasium.make("nosbench_env:NOSBench-v0", store=str(tmp_path / "ppo.sqlite"), **TOY)
    model = sb3_contrib.MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=0, device="cpu").learn(512)
    observation, _ = env.reset()
    for _ in range(50):
        action, _ = model.predict(observation, action_masks=env.unwrapped.action_masks())
        assert action[0] != 26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "mnist"}, "unknown task 'mnist'"),
        ({"task": ["toy"]}, "unknown task"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"store": 5}, "store must be a file or a URL"),
        ({"epochs": 100_001}, "epochs must be at most 100,000"),
        ({"epochs": 0}, "epochs must be an integer >= 1, got 0"),
        ({"training_seed": -1}, "seed must be an integer from 0"),
        ({"max_instructions": 0}, "max_instructions must be an integer from 1"),
        ({"memory_size": 9}, "memory_size must be an integer from 10"),
        ({"failure_reward": math.nan}, "failure_reward must be a finite number"),
        ({"failure_reward": "-20"}, "failure_reward must be a finite number"),
        ({"render_mode": "rgb_array"}, "render_mode must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NOSBenchEnv(**arguments)


def test_bad_actions_are_refused_and_change_nothing(env: NOSBenchEnv) -> None:
    with pytest.raises(ValueError, match="an action is 5 integers below"):
        env.step(np.array([27, 0, 0, 0, 0]))
    assert len(env.program) == 0
    assert not env.step(SPACE.encode(KNOWN_PROGRAMS["SGD"][0]))[2]
