"""What holds for every search method."""

import json
import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, Evaluation, OptimizerConfig, Program, SearchSpace
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
    """What SMAC's agents do is tested elsewhere; here they are to be quick."""
    if "smac" in request.node.name and find_spec("smac") is not None:
        from nosbench_env.agents import smac_model

        quick = partial(smac_model.LocalAndSortedRandomSearch, n_steps_plateau_walk=1, local_search_iterations=2)
        monkeypatch.setattr(smac_model, "LocalAndSortedRandomSearch", quick)


everyone = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def evaluation(program: Program, loss: float) -> Evaluation:
    status = "ok" if math.isfinite(loss) else "nan" if math.isnan(loss) else "inf"
    return Evaluation(program, "toy", 1, 0, loss, status, (loss,), f"key {loss}", False, "trained")


def loss_of(program: Program) -> float:
    """Stands in for a training: some programs fail, the others differ."""
    length = len(program) if isinstance(program, Program) else len(str(program))
    return math.nan if length % 7 == 6 else len(str(program)) / 100


def can_propose(agent: Agent, program: Program | OptimizerConfig) -> bool:
    if isinstance(program, Program):
        return program in agent.space
    return bool(optimizer_configuration(program, optimizer_config_space()))


def play(agent: Agent, rounds: int) -> list[Program]:
    asked = []
    for _ in range(rounds):
        program = agent.ask()[0]
        agent.tell([program], [evaluation(program, loss_of(program))])
        asked.append(program)
    return asked


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


class TestRegularizedEvolution:
    def test_defaults_are_the_papers(self) -> None:
        agent = RegularizedEvolution()
        assert (agent.population_size, agent.tournament_size, agent.space) == (100, 25, SearchSpace(20, 20))

    def test_the_first_population_is_copies_of_the_start(self) -> None:
        agent = RegularizedEvolution(start=KNOWN_PROGRAMS["AdamW"], population_size=5)
        assert play(agent, 5) == [KNOWN_PROGRAMS["AdamW"]] * 5
        assert play(agent, 30) != [KNOWN_PROGRAMS["AdamW"]] * 30

    def test_a_start_outside_the_space_is_brought_into_it(self) -> None:
        agent = RegularizedEvolution(start=KNOWN_PROGRAMS["Adadelta"])
        assert agent.ask()[0] in agent.space

    def test_children_are_one_mutation_from_the_best_of_a_tournament(self) -> None:
        agent = RegularizedEvolution(population_size=3, tournament_size=50)  # all members but for bad luck
        founders = agent.ask(3)
        agent.tell(
            founders, [evaluation(program, loss) for program, loss in zip(founders, (2.0, 1.0, 3.0), strict=True)]
        )
        for child in agent.ask(30):
            assert abs(len(child) - len(founders[1])) <= 1
            shared = sum(instruction in founders[1].instructions for instruction in child)
            assert shared >= len(child) - 1

    def test_failed_programs_never_win_a_tournament(self) -> None:
        agent = RegularizedEvolution(population_size=3, tournament_size=50)
        founders = [Program.from_json([["add", [k, k], 9]] * 3) for k in range(3)]
        agent.ask(3)
        losses = (math.nan, 1e30, math.inf)
        agent.tell(founders, [evaluation(program, loss) for program, loss in zip(founders, losses, strict=True)])
        for child in agent.ask(30):
            assert founders[1][0] in child.instructions

    def test_the_oldest_leaves_however_good_it_is(self) -> None:
        agent = RegularizedEvolution(population_size=2, tournament_size=50)
        programs = [Program.from_json([["add", [k, k], 9]] * 3) for k in range(3)]
        agent.ask(2)
        for program, loss in zip(programs, (0.1, 5.0, 6.0), strict=True):
            agent.tell([program], [evaluation(program, loss)])
        for child in agent.ask(30):
            assert programs[0][0] not in child.instructions or child.instructions.count(programs[1][0]) >= 2

    def test_a_start_that_is_no_program_is_refused(self) -> None:
        with pytest.raises(TypeError, match="program must be a Program, got str"):
            RegularizedEvolution(start="AdamW")

    @pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1.5, 1), (True, 1)])
    def test_bad_sizes_are_refused(self, sizes: tuple) -> None:
        with pytest.raises(ValueError, match="size must be an integer >= 1, got"):
            RegularizedEvolution(population_size=sizes[0], tournament_size=sizes[1])

    def test_a_tournament_is_drawn_with_replacement(self) -> None:
        """With 2 members and tournaments of 2, the worse one wins a quarter of the time."""
        agent = RegularizedEvolution(population_size=2, tournament_size=2)
        good, bad = (Program.from_json([["add", [k, k], 9]] * 10) for k in range(2))
        agent.ask(2)
        agent.tell([good, bad], [evaluation(good, 1.0), evaluation(bad, 2.0)])
        from_bad = np.mean([child.instructions.count(bad[0]) > 5 for child in agent.ask(2000)])
        assert 0.2 < from_bad < 0.3
