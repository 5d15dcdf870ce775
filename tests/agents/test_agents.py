"""The contract of all search methods."""

import json
import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
from searches import evaluation, loss_of, play

from nosbench_env import KNOWN_PROGRAMS, OptimizerConfig, Program, SearchSpace
from nosbench_env.agents import (
    AGENTS,
    Agent,
    PolicyGradient,
    PPOAgent,
    RandomSearch,
    RegularizedEvolution,
    SmacHPO,
    SmacNOS,
)
from nosbench_env.agents.smac_spaces import optimizer_config_space, optimizer_configuration

SMALL_PPO: dict[str, Any] = {"n_steps": 24, "minibatch_size": 8, "n_epochs": 2, "net_arch": (8,)}
SMALL_SMAC: dict[str, Any] = {"initial_configs": 7, "retrain_after": 40, "challengers": 10}
MAKERS: dict[str, Callable[[int], Agent]] = {
    "rs": lambda seed: RandomSearch(seed=seed),
    "re": lambda seed: RegularizedEvolution(seed=seed, population_size=10, tournament_size=4),
    "re from AdamW": lambda seed: RegularizedEvolution(
        seed=seed, start=KNOWN_PROGRAMS["AdamW"], population_size=10, tournament_size=4
    ),
    "ppo": lambda seed: PPOAgent(SearchSpace(3), seed, **SMALL_PPO),
    "maskable-ppo": lambda seed: PPOAgent(SearchSpace(3), seed, masked=True, **SMALL_PPO),
    "reinforce": lambda seed: PolicyGradient(seed=seed, batch_size=8),
    "risk-seeking": lambda seed: PolicyGradient(seed=seed, batch_size=8, risk_seeking=True, evolution=0.3),
    "smac-nos": lambda seed: SmacNOS(SearchSpace(2), seed, **SMALL_SMAC),
    "smac-hpo": lambda seed: SmacHPO(seed, **SMALL_SMAC),
}
if find_spec("sb3_contrib") is None:
    del MAKERS["maskable-ppo"]
if find_spec("smac") is None:
    del MAKERS["smac-nos"], MAKERS["smac-hpo"]


@pytest.fixture(autouse=True)
def _short_local_searches(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Shortens SMAC's local searches."""
    if "smac" in request.node.name and find_spec("smac") is not None:
        from nosbench_env.agents import smac_model

        quick = partial(smac_model.LocalAndSortedRandomSearch, n_steps_plateau_walk=1, local_search_iterations=2)
        monkeypatch.setattr(smac_model, "LocalAndSortedRandomSearch", quick)


everyone = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def can_propose(agent: Agent, program: Program | OptimizerConfig) -> bool:
    if isinstance(program, Program):
        return program in agent.space
    return bool(optimizer_configuration(program, optimizer_config_space()))


def test_every_agent_of_the_table_is_tested() -> None:
    agents = [make(0) for make in MAKERS.values()]
    assert {agent.name for agent in agents} == set(AGENTS)
    for agent in agents:
        space = {"space": agent.space} if hasattr(agent, "space") else {}
        same = AGENTS[agent.name](seed=0, **space)
        assert (type(same), same.name) == (type(agent), agent.name)
        assert getattr(same, "space", None) == space.get("space")


@everyone
def test_a_seed_fixes_all_proposals(make: Callable[[int], Agent]) -> None:
    assert play(make(3), 60) == play(make(3), 60)
    assert play(make(3), 60) != play(make(4), 60)


@everyone
def test_proposals_lie_in_the_space(make: Callable[[int], Agent]) -> None:
    agent = make(0)
    assert all(can_propose(agent, program) for program in play(agent, 80))


@everyone
def test_a_loaded_state_continues_alike(make: Callable[[int], Agent]) -> None:
    agent, restored = make(1), make(1)
    play(agent, 25)
    restored.load_state_dict(json.loads(json.dumps(agent.state_dict(), allow_nan=False)))
    assert play(restored, 30) == play(agent, 30)


@everyone
def test_configuration_is_json_data_that_tells_agents_apart(make: Callable[[int], Agent]) -> None:
    assert json.loads(json.dumps(make(1).config())) == make(1).config()
    assert make(1).config() != make(2).config()


@everyone
def test_several_may_be_asked_for_and_told_in_any_order(make: Callable[[int], Agent]) -> None:
    agent = make(0)
    asked = agent.ask(15)
    assert len(asked) == 15
    told = asked[::-1][:9]
    agent.tell(told, [evaluation(program, loss_of(program)) for program in told])
    assert len(agent.ask(3)) == 3


@everyone
def test_programs_never_told_and_those_of_others_do_no_harm(make: Callable[[int], Agent]) -> None:
    agent, other = make(0), make(1)
    agent.ask(3)
    strangers = other.ask(5)
    agent.tell(strangers, [evaluation(program, loss_of(program)) for program in strangers])
    assert all(can_propose(agent, program) for program in play(agent, 10))


@everyone
def test_figures_are_numbers_of_the_state(make: Callable[[int], Agent]) -> None:
    agent, restored = make(1), make(1)
    metrics = getattr(agent, "metrics", dict)
    play(agent, 30)
    assert all(isinstance(value, float) and math.isfinite(value) for value in metrics().values())
    restored.load_state_dict(json.loads(json.dumps(agent.state_dict(), allow_nan=False)))
    assert getattr(restored, "metrics", dict)() == metrics()


@everyone
@pytest.mark.parametrize("seed", [-1, None, 1.5, True])
def test_bad_seeds_are_refused(make: Callable[[int], Agent], seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be an integer >= 0, got"):
        make(seed)


@everyone
@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_bad_numbers_are_refused(make: Callable[[int], Agent], n: object) -> None:
    with pytest.raises(ValueError, match="n must be an integer >= 1, got"):
        make(0).ask(n)
