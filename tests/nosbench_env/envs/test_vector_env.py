from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_match import check_environments_match
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector as vector_wrappers
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import MadeUpOracle

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS, NOSBenchEnv, ResultStore, SearchSpace
from nosbench_env.envs.edit_env import NOSBenchEditEnv
from nosbench_env.envs.token_env import NOSBenchTokenEnv
from nosbench_env.envs.vector_env import ProgramVectorEnv

SPACE = SearchSpace()
SHORT = {"max_instructions": 3, "memory_size": 12}  # short episodes, that end in all ways
CONSTRAINED = {"constraints": ["gradient", "used", "written"]}
# Everything there is: the id, the single env, arguments.
KINDS = {
    "instructions": ("NOSBench-v0", NOSBenchEnv, SHORT),
    "instructions, the paper's size": ("NOSBench-v0", NOSBenchEnv, {}),
    "instructions, constrained": ("NOSBench-v0", NOSBenchEnv, SHORT | CONSTRAINED),
    "tokens": ("NOSBenchToken-v0", NOSBenchTokenEnv, SHORT),
    "tokens, the paper's size": ("NOSBenchToken-v0", NOSBenchTokenEnv, {}),
    "tokens, constrained": ("NOSBenchToken-v0", NOSBenchTokenEnv, SHORT | CONSTRAINED),
    "edits": ("NOSBenchEdit-v0", NOSBenchEditEnv, {"max_edits": 4, "start": "SGD"}),
    "edits, evaluated at the end": ("NOSBenchEdit-v0", NOSBenchEditEnv, {"max_edits": 4, "evaluate": "end"}),
    "rendering": ("NOSBenchToken-v0", NOSBenchTokenEnv, SHORT | {"render_mode": "ansi"}),
}
MODES = list(AutoresetMode)


def make(kind: str, num_envs: int = 3, **arguments: Any) -> ProgramVectorEnv:
    name, _, own = KINDS[kind]
    return gymnasium.make_vec(
        f"nosbench_env:{name}", num_envs, vectorization_mode="vector_entry_point", **own, **arguments
    )


def make_sync(kind: str, num_envs: int, autoreset_mode: AutoresetMode, **arguments: Any) -> SyncVectorEnv:
    _, env_type, own = KINDS[kind]
    return SyncVectorEnv([lambda: env_type(**own, **arguments)] * num_envs, autoreset_mode=autoreset_mode)


def assert_same(actual: Any, expected: Any) -> None:
    """Equal in value, type, shape and dtype, at every depth; NaN equals itself."""
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        if expected.dtype == object:
            assert_same(actual.tolist(), expected.tolist())
        else:
            np.testing.assert_array_equal(actual, expected)
    else:
        assert actual == expected or (actual != actual and expected != expected)


def draw_actions(envs: ProgramVectorEnv, rng: np.random.Generator, wildness: float) -> np.ndarray:
    """Random actions, of which some heed the masks and some do not."""
    space = envs.single_action_space
    sizes = [int(space.n)] if isinstance(space, gymnasium.spaces.Discrete) else space.nvec.tolist()
    actions = []
    for mask in envs.action_masks():
        factors = np.split(mask, np.cumsum(sizes)[:-1])
        wild = rng.random() < wildness
        actions.append(
            [rng.choice(size if wild else np.flatnonzero(own)) for size, own in zip(sizes, factors, strict=True)]
        )
    return np.array(actions).reshape(envs.action_space.shape)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), wildness=st.sampled_from([0.0, 0.1, 1.0]))
def test_every_step_is_that_of_gymnasiums_sync_vector_env(
    kind: str, mode: AutoresetMode, seed: int, wildness: float
) -> None:
    rng = np.random.default_rng(seed)
    oracle, sync_oracle = MadeUpOracle(), MadeUpOracle()
    envs = make(kind, 3, autoreset_mode=mode, oracle=oracle)
    sync = make_sync(kind, 3, mode, oracle=sync_oracle)
    assert_same(envs.reset(seed=seed % 100), sync.reset(seed=seed % 100))
    for _ in range(30 if "paper" not in kind else 60):
        masks = envs.action_masks()
        assert_same(masks, np.stack(sync.call("action_masks")))
        actions = draw_actions(envs, rng, wildness)
        actual, expected = envs.step(actions), sync.step(actions)
        assert_same(actual, expected)
        assert_same(envs.last_evaluations, list(sync.get_attr("last_evaluation")))
        asked = {program for programs in sync_oracle.calls for program in programs}
        assert [set(programs) for programs in oracle.calls] == ([asked] if asked else [])
        oracle.calls, sync_oracle.calls = [], []
        over = actual[2] | actual[3]
        if mode == AutoresetMode.DISABLED and over.any():
            which = over | (rng.random(3) < 0.2)
            options = {"reset_mask": which}
            assert_same(envs.reset(options=options), sync.reset(options=dict(options)))
            assert options == {"reset_mask": which}
        elif rng.random() < 0.05:
            assert_same(envs.reset(seed=[1, None, 3]), sync.reset(seed=[1, None, 3]))
    for name in ("program", "np_random_seed", "render", "get_state", "failure_reward"):
        assert_same(envs.call(name), sync.call(name))
    assert_same(envs.action_masks(), np.stack(sync.call("action_masks")))


def stop_all(envs: ProgramVectorEnv) -> np.ndarray:
    """The action that ends every episode with the program so far."""
    action = {"NOSBenchEnv": SPACE.stop_action, "NOSBenchTokenEnv": 26, "NOSBenchEditEnv": [3, 0, 0, 0, 0, 0, 0]}
    return np.array([action[envs.env_type.__name__]] * envs.num_envs)


def write(envs: ProgramVectorEnv, functions: list[int]) -> None:
    """Writes an instruction with the given function, of one input, in each sub-env."""
    if envs.env_type is NOSBenchTokenEnv:
        for tokens in (functions, [27 + 1] * len(functions), [27 + 9] * len(functions)):
            envs.step(np.array(tokens))
    elif envs.env_type is NOSBenchEnv:
        envs.step(np.array([[function, 1, 0, 0, 0] for function in functions]))
    else:
        envs.step(np.array([[0, 0, function, 1, 0, 0, 0] for function in functions]))


UNARY = [number for number, function in enumerate(FUNCTIONS.values()) if function.arity == 1]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", ["instructions", "tokens", "tokens, constrained", "edits, evaluated at the end"])
def test_what_a_step_completes_is_asked_for_in_one_call_and_each_program_once(kind: str, mode: AutoresetMode) -> None:
    oracle = MadeUpOracle()
    envs = make(kind, 4, oracle=oracle, autoreset_mode=mode)
    envs.reset()
    write(envs, [UNARY[0], UNARY[1], UNARY[0], UNARY[1]])
    assert oracle.calls == []
    _, rewards, terminations, _, _ = envs.step(stop_all(envs))
    assert terminations.all()
    (asked,) = oracle.calls
    assert len(asked) == len(set(asked)) == 2 + ("edits" in kind)  # edits: the program that all started from as well
    assert rewards[:2].tolist() == rewards[2:].tolist()
    evaluations = envs.last_evaluations
    assert [evaluation.program for evaluation in evaluations] == [asked[0], asked[-1 if len(asked) == 2 else 2]] * 2


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "paper" not in kind])
def test_a_step_whose_evaluation_fails_has_not_happened(kind: str, mode: AutoresetMode) -> None:
    oracle, untroubled = MadeUpOracle(), MadeUpOracle()
    envs, others = (make(kind, 4, oracle=own, autoreset_mode=mode) for own in (oracle, untroubled))
    rng = np.random.default_rng(0)
    envs.reset()
    others.reset()
    failed = 0
    for _ in range(60):
        if mode == AutoresetMode.DISABLED and (over := others._over).any():
            assert_same(*[each.reset(options={"reset_mask": over.copy()}) for each in (envs, others)])
        actions = draw_actions(envs, rng, 0.1)
        oracle.failing = KeyboardInterrupt()
        before = envs.observations(), envs.action_masks(), envs.last_evaluations
        try:
            actual = envs.step(actions)
        except KeyboardInterrupt:
            failed += 1
            assert_same((envs.observations(), envs.action_masks(), envs.last_evaluations), before)
            if failed % 2:  # another step is taken instead
                actions = draw_actions(envs, rng, 0.1)
            oracle.failing = None
            actual = envs.step(actions)
        assert_same(actual, others.step(actions))
    assert failed > 2


def test_wrong_actions_are_refused_and_change_nothing() -> None:
    for kind in KINDS:
        envs = make(kind, 2, oracle=MadeUpOracle())
        envs.reset()
        right = stop_all(envs)
        wrong = right.copy()
        wrong.flat[-1] = 1000
        before = envs.observations()
        with pytest.raises(ValueError, match=r"sub-env 1: the action .*1000.* is not in"):
            envs.step(wrong)
        with pytest.raises(ValueError, match=r"actions must be integers of the shape \(2"):
            envs.step(right[:1])
        with pytest.raises(ValueError, match="actions must be integers"):
            envs.step(right.astype(float))
        assert_same(envs.observations(), before)


def test_the_action_of_a_sub_env_that_is_reset_is_ignored() -> None:
    envs = make("tokens", 2, oracle=MadeUpOracle())
    envs.reset()
    envs.step(np.array([26, 3]))  # STOP first is not allowed
    observations, rewards, terminations, _, infos = envs.step(np.array([10**6, 28]))
    assert observations[0].tolist() == [0] * 15
    assert (rewards.tolist(), terminations.tolist(), infos) == ([0.0, 0.0], [False, False], {})


@pytest.mark.parametrize("kind", ["tokens", "edits"])
def test_stepping_what_waits_for_a_reset_is_refused(kind: str) -> None:
    envs = make(kind, 2, oracle=MadeUpOracle(), autoreset_mode="Disabled")
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"sub-envs \[0, 1\]"):
        envs.step(stop_all(envs))
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"sub-envs \[1\]"):
        envs.step(stop_all(envs))
    envs.reset(options={"reset_mask": np.array([False, True])})
    envs.step(stop_all(envs))
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"sub-envs \[0, 1\]"):
        envs.step(stop_all(envs))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ([True, False], TypeError, "must be a numpy array of bools"),
        (np.array([1, 0]), TypeError, "must be a numpy array of bools"),
        (np.array([True]), ValueError, r"must have the shape \(2,\)"),
        (np.array([False, False]), ValueError, "and a true element"),
    ],
)
def test_wrong_reset_masks_are_refused(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make("tokens", 2).reset(options={"reset_mask": mask})


@pytest.mark.parametrize("seed", [[1], [1, 2, 3], -1, [1, -1]])
def test_wrong_seeds_are_refused(seed: Any) -> None:
    for kind in ("tokens", "edits"):
        with pytest.raises((ValueError, gymnasium.error.Error), match=r"[Ss]eed"):
            make(kind, 2).reset(seed=seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs must be an integer >= 1, got 0"),
        ({"autoreset_mode": "Never"}, "autoreset_mode must be one of .*'SameStep'.*, got 'Never'"),
        ({"task": "mnist"}, "unknown task 'mnist'"),
        ({"render_mode": "rgb_array"}, "render_mode must be one of"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gymnasium.make_vec("nosbench_env:NOSBench-v0", **arguments)


def test_make_vec_takes_it_by_default_and_its_spec_travels() -> None:
    envs = gymnasium.make_vec("nosbench_env:NOSBenchToken-v0", 3, task="toy", autoreset_mode="SameStep")
    assert isinstance(envs, ProgramVectorEnv)
    spec = gymnasium.envs.registration.EnvSpec.from_json(envs.spec.to_json())
    again = gymnasium.make_vec(spec)
    assert (again.num_envs, again.metadata["autoreset_mode"]) == (3, AutoresetMode.SAME_STEP)
    assert make("tokens").metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert envs.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rendering"])  # Gymnasium 1.1 can't compare texts
def test_gymnasiums_check_finds_no_difference_from_its_sync_vector_env(kind: str) -> None:
    oracle = MadeUpOracle()
    envs, sync = make(kind, 1, oracle=oracle), make_sync(kind, 1, AutoresetMode.NEXT_STEP, oracle=oracle)
    check_environments_match(envs, sync, 100)


def with_statistics(envs: Any) -> Any:
    return vector_wrappers.ClipReward(vector_wrappers.RecordEpisodeStatistics(envs), max_reward=1.0)


@pytest.mark.parametrize("wrap", [with_statistics, vector_wrappers.DictInfoToList])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_gymnasiums_wrappers_take_it(mode: AutoresetMode, wrap: Any) -> None:
    oracle, rng = MadeUpOracle(), np.random.default_rng(0)
    envs = wrap(make("tokens", autoreset_mode=mode, oracle=oracle))
    sync = wrap(make_sync("tokens", 3, mode, oracle=oracle))
    assert_same(envs.reset(seed=0), sync.reset(seed=0))
    for _ in range(40):
        actions = draw_actions(envs.unwrapped, rng, 0.2)
        actual, expected = envs.step(actions), sync.step(actions)
        if wrap is with_statistics:
            # SyncVectorEnv takes the mask out of its caller's options, so the wrapper forgets those not reset as well.
            for key in ["t"] if mode != AutoresetMode.DISABLED else ["t", "l", "r"]:
                actual[4].get("episode", {}).pop(key, None)
                expected[4].get("episode", {}).pop(key, None)
        assert_same(actual, expected)
        if mode == AutoresetMode.DISABLED and actual[2].any():
            for each in (envs, sync):
                each.reset(options={"reset_mask": actual[2].copy()})


@pytest.mark.parametrize("kind", ["instructions", "tokens", "tokens, constrained"])
def test_attributes_are_set_in_all_sub_envs_or_in_each(kind: str) -> None:
    oracle = MadeUpOracle()
    envs = make(kind, 3, oracle=oracle, autoreset_mode="SameStep")
    envs.reset(seed=5)
    write(envs, [UNARY[0]] * 3)
    before = envs.observations(), envs.action_masks(), envs.call("program"), envs.np_random_seed
    envs.set_attr("failure_reward", [-1.0, -2.0, -3.0])
    assert_same((envs.observations(), envs.action_masks(), envs.call("program"), envs.np_random_seed), before)
    assert envs.get_attr("failure_reward") == (-1.0, -2.0, -3.0)
    envs.set_attr("failure_reward", 7.0)  # more than any loss pays
    assert envs.step(stop_all(envs))[1].tolist() == [7.0] * 3
    with pytest.raises(ValueError, match="values must be one or 3, got 2"):
        envs.set_attr("failure_reward", [1.0, 2.0])


def test_forks_and_states_of_sub_envs_go_their_own_way() -> None:
    envs = make("tokens", 2, oracle=MadeUpOracle())
    envs.reset()
    write(envs, [UNARY[0], UNARY[1]])
    envs.step(np.array([UNARY[2], UNARY[3]]))
    states, (fork, _) = envs.call("get_state"), envs.call("fork")
    fork.step(27 + 1)
    assert envs.call("get_state") == states
    envs.reset()
    for env, state in zip(envs.envs(), states, strict=True):
        env.set_state(state)
    assert envs.call("get_state") == states
    assert [len(program) for program in envs.call("program")] == [1, 1]


def test_results_are_in_one_file_when_it_is_closed(tmp_path: Path) -> None:
    store = tmp_path / "vector.sqlite"
    envs = gymnasium.make_vec(
        "nosbench_env:NOSBench-v0", 3, task="toy", epochs=1, device="cpu", store=str(store), shipped=False
    )
    envs.reset(seed=0)
    envs.step(np.stack([SPACE.encode(KNOWN_PROGRAMS["SGD"][3])] * 3))
    _, rewards, _, _, infos = envs.step(stop_all(envs))
    assert infos["loss"].tolist() == (-rewards).tolist()
    assert [evaluation.source for evaluation in envs.last_evaluations] == ["trained"] * 3
    assert envs.oracle.statistics.queries == 1
    envs.close()
    envs.close()
    assert {path.name for path in tmp_path.glob("vector*")} == {"vector.sqlite", "vector.sqlite.lock"}
    assert len(ResultStore(store)) == 1


def test_observations_are_the_callers_to_keep_and_to_change() -> None:
    for kind in KINDS:
        envs = make(kind, 2, oracle=MadeUpOracle())
        kept = [envs.reset()[0]]
        for _ in range(8):
            kept.append(envs.step(draw_actions(envs, np.random.default_rng(1), 0))[0])
        seen = [observations.copy() for observations in kept]
        kept[-1][:] = 7
        assert_same(envs.observations(), seen[-1])
        assert_same(kept[:-1], seen[:-1])


def test_human_rendering_prints_every_sub_env(capsys: pytest.CaptureFixture[str]) -> None:
    envs = gymnasium.make_vec("nosbench_env:NOSBench-v0", 2, render_mode="human", oracle=MadeUpOracle())
    envs.reset()
    write(envs, [UNARY[0], UNARY[1]])
    assert capsys.readouterr().out.count("(empty program)\n") == 2
    assert envs.render() == (None, None)
