"""PPO as a search method."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from searches import evaluation

from nosbench_env import Evaluation, Oracle, Program, SearchSpace
from nosbench_env.agents import Budget, PPOAgent, run_folder, search
from nosbench_env.agents.ppo import _Ranks
from nosbench_env.envs.instruction_env import NOSBenchEnv
from nosbench_env.envs.token_env import NOSBenchTokenEnv

SMALL: dict[str, Any] = {"n_steps": 24, "minibatch_size": 8, "n_epochs": 2, "net_arch": (8,), "learning_rate": 0.01}
both = pytest.mark.parametrize("masked", [False, True], ids=["ppo", "maskable-ppo"])


def needs_contrib(masked: bool) -> None:
    if masked:
        pytest.importorskip("sb3_contrib")


def loss_of(program: Program) -> float:
    """Stands in for a training; the empty program and some others fail."""
    return math.nan if len(program) % 5 == 0 else (sum(map(ord, str(program))) % 97) / 10


class MockOracle:
    """Answers with `loss_of`."""

    def query(self, program: Program, *_: Any, **__: Any) -> Evaluation:
        return evaluation(program, loss_of(program))


def tell(agent: PPOAgent, programs: list[Program]) -> None:
    agent.tell(programs, [evaluation(program, loss_of(program)) for program in programs])


def updates(agent: PPOAgent) -> int:
    return int(agent.metrics().get("updates", 0))


def learned(agent: PPOAgent) -> dict[str, Any]:
    """The state, comparable."""
    weights = {name: tensor.tolist() for name, tensor in agent.model.policy.state_dict().items()}
    return {**agent.state_dict(), "weights": weights}


@pytest.mark.parametrize(
    ("masked", "length", "rounds"),
    [
        pytest.param(False, 6, 1, id="ppo"),
        pytest.param(False, 1, 3, id="ppo, several updates"),  # of whole episodes: it plays on where SB3 trains first
        pytest.param(True, 6, 1, id="maskable-ppo"),
    ],
)
def test_it_learns_what_sb3_learns_from_playing_the_env(
    one_thread: None, masked: bool, length: int, rounds: int
) -> None:
    """From the same seed, to the last bit."""
    needs_contrib(masked)
    space = SearchSpace(max_instructions=length)
    rewards: dict[str, Any] = {"rewards": "loss", "failure_reward": -11.0}
    agent = PPOAgent(space, 7, masked=masked, **rewards, n_steps=64, minibatch_size=16, ent_coef=0.03, gamma=0.99)
    env = (NOSBenchTokenEnv if masked else NOSBenchEnv)(**space.to_json(), failure_reward=-11.0, oracle=MockOracle())
    model = type(agent.model)(
        "MlpPolicy",
        env,
        seed=7,
        n_steps=64,
        batch_size=16,
        ent_coef=0.03,
        gamma=0.99,
        gae_lambda=agent.model.gae_lambda,
        n_epochs=agent.model.n_epochs,
        learning_rate=agent.model.learning_rate,
        policy_kwargs={"net_arch": agent.net_arch},
        device="cpu",
    )
    model.learn(64 * rounds)
    while updates(agent) < rounds:
        tell(agent, agent.ask())
    assert updates(agent) == rounds
    for name in ("observations", "actions", "rewards", "values", "log_probs", "returns", "advantages"):
        ours, theirs = (getattr(m.rollout_buffer, name) for m in (agent.model, model))
        assert np.array_equal(ours, theirs), name
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(agent.model.policy.state_dict()[name], tensor), name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The agent trains in one thread, which rounds otherwise than several do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@both
def test_it_learns_to_write_what_is_rewarded(masked: bool) -> None:
    """Short programs, here."""
    needs_contrib(masked)
    agent = PPOAgent(
        SearchSpace(6), 0, masked=masked, n_steps=128, minibatch_size=32, learning_rate=0.003, net_arch=(32,)
    )
    lengths = []
    for _ in range(15):
        programs = agent.ask(16)
        agent.tell(programs, [evaluation(program, len(program) / 10) for program in programs])
        lengths.append(np.mean([len(program) for program in programs]))
    assert np.mean(lengths[-3:]) < 0.7 * np.mean(lengths[:3])


@both
def test_the_callers_random_numbers_and_threads_are_left_alone(masked: bool) -> None:
    needs_contrib(masked)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
    agent = PPOAgent(SearchSpace(5), 3, masked=masked, **SMALL)
    while updates(agent) < 2:
        tell(agent, agent.ask(3))
    agent.load_state_dict(agent.state_dict())
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@both
def test_what_the_caller_draws_makes_no_difference(masked: bool) -> None:
    needs_contrib(masked)
    histories = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        agent, asked = PPOAgent(SearchSpace(5), 3, masked=masked, **SMALL), []
        for _ in range(20):
            programs = agent.ask(2)
            asked += programs
            torch.rand(3)
            np.random.rand()
            tell(agent, programs)
        histories.append(asked)
    assert histories[0] == histories[1]


@both
def test_what_the_caller_has_set_up_makes_no_difference(masked: bool) -> None:
    needs_contrib(masked)

    def searched() -> list[Program]:
        agent, asked = PPOAgent(SearchSpace(5), 3, masked=masked, **SMALL), []
        while updates(agent) < 2:
            asked += (programs := agent.ask(2))
            tell(agent, programs)
        return asked

    expected = searched()
    with torch.no_grad():
        assert searched() == expected
    with torch.device("meta"):
        assert searched() == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert searched() == expected
    finally:
        torch.set_default_dtype(torch.float32)


@both
@hypothesis.given(
    stops=st.lists(st.integers(1, 29), min_size=1, max_size=2),
    batch=st.integers(1, 7),
    saving=st.sampled_from(["always", "never"]),
)
@hypothesis.settings(max_examples=5, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_a_run_stopped_after_any_query_continues_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory,
    toy: Oracle,
    masked: bool,
    stops: list[int],
    batch: int,
    saving: str,
) -> None:
    needs_contrib(masked)
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str, stop: int | None) -> PPOAgent:
        agent = PPOAgent(SearchSpace(4), 1, masked=masked, **SMALL)

        def interrupt(entry: Any, _: Any) -> None:
            if entry.number == stop:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_folder, "_SAVE_AGENT_EVERY_S", -1.0 if saving == "always" else math.inf)
            patch.setattr(run_folder, "_SAVING_SHARE", math.inf)
            arguments: dict[str, Any] = {"epochs": 1, "folder": folder / name, "batch_size": batch}
            search(agent, toy, Budget(queries=30), on_query=interrupt, **arguments)
        return agent

    def programs(name: str) -> list[Any]:
        lines = (folder / name / "history.jsonl").read_text().splitlines()
        return [(line["program"], line["loss"]) for line in map(json.loads, lines)]

    for stop in sorted(stops):
        with pytest.raises(KeyboardInterrupt):
            run("stopped", stop)
    assert learned(run("stopped", None)) == learned(run("whole", None))
    assert programs("stopped") == programs("whole")
    assert len(programs("whole")) == 30


@pytest.fixture(scope="module")
def toy() -> Oracle:
    return Oracle("toy", "sqlite://", "cpu", workers=1)


@both
def test_programs_it_did_not_ask_about_teach_it_nothing(masked: bool) -> None:
    needs_contrib(masked)
    agent = PPOAgent(SearchSpace(5), 3, masked=masked, **SMALL)
    asked = agent.ask(4)
    tell(agent, asked[:2])
    before = learned(agent)
    tell(agent, [*asked[:2], Program.parse("r9 = mul(grad, 0.1)")] * 20)  # told before; never asked for
    assert learned(agent) == before
    tell(agent, asked[2:])
    assert learned(agent) != before


def test_a_program_asked_for_twice_is_told_twice() -> None:
    agent = PPOAgent(SearchSpace(1, 10), 3, **SMALL)
    asked = agent.ask(400)
    twice = next(program for program in asked if asked.count(program) > 1)
    for _ in range(asked.count(twice)):
        before = learned(agent)
        tell(agent, [twice])
        assert learned(agent) != before
    before = learned(agent)
    tell(agent, [twice])
    assert learned(agent) == before


def test_the_empty_program_is_a_failure_that_nobody_is_asked_about() -> None:
    """STOP is its first action once in 27; the episodes in which it is count as failures at once."""
    agent = PPOAgent(SearchSpace(2), 0, rewards="loss", **SMALL | {"n_steps": 4000})
    assert all(agent.ask(200))
    failed = [(episode, reward) for episode, reward in agent._told if reward == agent.failure_reward]
    assert len(failed) == len(agent._told) > 2
    assert all(episode.actions[0][0] == 26 for episode, _ in failed)


def test_programs_that_break_the_constraints_are_failures_too() -> None:
    space = SearchSpace(2, constraints=("gradient",))
    agent = PPOAgent(space, 0, **SMALL)
    assert all(program in space for program in agent.ask(5))
    assert updates(agent) >= 1  # from failures alone


def test_masks_leave_no_failures() -> None:
    pytest.importorskip("sb3_contrib")
    space = SearchSpace(6, constraints=("gradient", "used", "written"))
    agent = PPOAgent(space, 0, masked=True, **SMALL)
    assert all(program in space for program in agent.ask(50))
    assert not agent._told


@hypothesis.given(
    losses=st.lists(st.one_of(st.integers(0, 4).map(float), st.just(math.inf)), min_size=1, max_size=30),
    size=st.integers(1, 8),
)
def test_ranks_are_the_share_of_the_last_losses_that_are_worse(losses: list[float], size: int) -> None:
    ranks = _Ranks(size)
    for number, loss in enumerate(losses, start=1):
        last = losses[max(0, number - size) : number]
        expected = (sum(other > loss for other in last) + sum(other == loss for other in last) / 2) / len(last)
        assert ranks.add(loss) == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "reward"), [(1.5, -1.5), (-0.25, 0.25), (7.0, -4.0), (math.nan, -4.0)])
def test_rewards_are_the_envs_if_asked_for(loss: float, reward: float) -> None:
    agent = PPOAgent(rewards="loss", failure_reward=-4, **SMALL | {"n_steps": 4000})
    program = agent.ask()[0]
    agent.tell([program], [evaluation(program, loss)])
    assert agent._told[-1][1] == reward


def test_figures_are_of_the_last_update() -> None:
    agent = PPOAgent(SearchSpace(5), 3, **SMALL)
    assert agent.metrics() == {}
    while updates(agent) < 2:
        tell(agent, agent.ask(3))
    figures = agent.metrics()
    assert figures["updates"] == 2
    assert 0 < figures["entropy"] < sum(map(math.log, agent.space.action_sizes))
    assert 0 <= figures["mean_reward"] <= 1
    assert {"policy_loss", "value_loss", "approx_kl", "clip_fraction", "mean_length"} <= set(figures)


@both
def test_the_model_is_sb3s(masked: bool, tmp_path: Path) -> None:
    needs_contrib(masked)
    agent = PPOAgent(SearchSpace(5), 3, masked=masked, **SMALL)
    agent.model.save(tmp_path / "model")
    loaded = type(agent.model).load(tmp_path / "model", device="cpu")
    env = (NOSBenchTokenEnv if masked else NOSBenchEnv)(max_instructions=5, oracle=MockOracle())
    observation, _ = env.reset()
    masks = {"action_masks": env.action_masks()} if masked else {}
    ours, theirs = (m.predict(observation, deterministic=True, **masks)[0] for m in (agent.model, loaded))
    assert np.array_equal(ours, theirs)
    loaded.set_env(env)
    loaded.learn(30)
    assert loaded.num_timesteps >= 30


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ({"weights": "bm8gd2VpZ2h0cw=="}, ValueError),
        ({"weights": "?"}, ValueError),
        ({"random": {}}, KeyError),
        ({"ranked": None}, TypeError),
    ],
)
def test_damaged_states_are_refused(damage: dict[str, Any], error: type[Exception]) -> None:
    agent = PPOAgent(SearchSpace(5), **SMALL)
    with pytest.raises(error):
        agent.load_state_dict(agent.state_dict() | damage)


def test_the_state_of_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match="the state is of another network"):
        PPOAgent(SearchSpace(5), **SMALL).load_state_dict(PPOAgent(SearchSpace(6), **SMALL).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": "raw"}, "rewards must be 'rank' or 'loss', got 'raw'"),
        ({"n_steps": 100}, "n_steps must be a multiple of minibatch_size 128, got 100"),
        ({"n_steps": 1, "minibatch_size": 1}, "n_steps must be at least 2"),
        ({"minibatch_size": 1}, "minibatch_size must be at least 2"),
        ({"n_epochs": 0}, "n_epochs must be an integer >= 1, got 0"),
        ({"net_arch": (64, 0)}, "net_arch must be an integer >= 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOAgent(**arguments)


def test_without_sb3_contrib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nosbench_env.agents.ppo.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"maskable-ppo needs sb3-contrib: pip install 'nosbench_env\[sb3-contrib\]'"):
        PPOAgent(masked=True)


def test_agents_are_imported_without_sb3() -> None:
    code = "import sys, nosbench_env.agents; assert not {'stable_baselines3', 'sb3_contrib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
