from typing import Any

import pytest

from nosbench_env import KNOWN_PROGRAMS, InvalidProgram, Program, SearchSpace
from nosbench_env.agents import AGENTS, RandomSearch, RegularizedEvolution, make_agent, run_name, usual_batch_size

OWN = Program.parse("r9 = mul(grad, 0.1)")


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_is_made_by_its_name_with_the_defaults_of_its_class(name: str) -> None:
    if name.startswith("smac"):
        pytest.importorskip("smac")
    if name == "maskable-ppo":
        pytest.importorskip("sb3_contrib")
    start = {"start": "random"} if name == "re" else {}
    agent = make_agent(name, seed=3, **start)
    assert agent.name == name
    assert agent.config() == AGENTS[name](seed=3).config()


@pytest.mark.parametrize(
    ("start", "program"),
    [
        (None, KNOWN_PROGRAMS["AdamW"]),
        ("SGD", KNOWN_PROGRAMS["SGD"]),
        ("sgd", KNOWN_PROGRAMS["SGD"]),
        (OWN, OWN),
        ("random", None),
        ("Random", None),
    ],
)
def test_evolution_starts_from_a_program_a_name_or_random_programs(
    start: Program | str | None, program: Program | None
) -> None:
    agent = make_agent("re", start=start)
    assert isinstance(agent, RegularizedEvolution)
    assert agent.start == program


def test_constraints_restrict_the_space() -> None:
    agent = make_agent("rs", constraints=["used", "gradient"])
    assert isinstance(agent, RandomSearch)
    assert agent.space == SearchSpace(constraints=("gradient", "used"))


def test_initial_is_the_size_of_smacs_initial_design() -> None:
    pytest.importorskip("smac")
    for name in ("smac-nos", "smac-hpo"):
        assert make_agent(name, initial=7).config()["initial_configs"] == 7


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sac", {}, "agent must be one of rs, re, .*, got 'sac'"),
        ("rs", {"start": "SGD"}, r"start \(--start\).* re"),
        ("smac-hpo", {"start": OWN}, r"start \(--start\).* re"),
        ("smac-nos", {"constraints": ["used"]}, r"constraints \(--constraint\).*smac-nos"),
        ("re", {"initial": 9}, r"initial \(--initial\).*smac-nos and smac-hpo"),
        ("re", {"start": "Adamm"}, "'random' or one of SGD, .*, got 'Adamm'"),
    ],
)
def test_options_of_other_agents_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_agent(name, **options)
    with pytest.raises(ValueError, match=message):
        run_name(name, task="toy", epochs=1, **options)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("rs", {"constraints": ["short"]}, ValueError),
        ("re", {"constraints": ["used"], "start": Program.parse("r9 = sign(grad); r10 = log(step)")}, InvalidProgram),
        ("rs", {"seed": -1}, ValueError),
    ],
)
def test_values_are_checked_by_the_agents(name: str, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        make_agent(name, **options)


def test_agents_that_learn_from_batches_are_asked_for_many_programs() -> None:
    one_at_a_time = {"rs", "re", "smac-nos", "smac-hpo"}
    assert {name for name in AGENTS if usual_batch_size(name) == 1} == one_at_a_time
    assert {usual_batch_size(name) for name in set(AGENTS) - one_at_a_time} == {16}
    with pytest.raises(ValueError, match="got 'sac'"):
        usual_batch_size("sac")


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("re", {}, "re-adamw-toy-e5-s0"),
        ("re", {"start": "random", "seed": 4}, "re-random-toy-e5-s4"),
        ("re", {"start": KNOWN_PROGRAMS["Adadelta"]}, "re-adadelta-toy-e5-s0"),
        ("re", {"start": OWN}, "re-448a3bfa-toy-e5-s0"),
        ("ppo", {"batch_size": 16}, "ppo-toy-e5-s0"),
        ("ppo", {"batch_size": 1}, "ppo-toy-e5-s0-b1"),
        ("rs", {"batch_size": 1, "training_seed": 0, "identity": "fingerprint"}, "rs-toy-e5-s0"),
        ("smac-hpo", {"initial": 90}, "smac-hpo-toy-e5-s0-i90"),
        (
            "maskable-ppo",
            {
                "constraints": ["written", "used", "used"],
                "batch_size": 4,
                "training_seed": 2,
                "arithmetic": "tf32",
                "identity": "paper",
            },
            "maskable-ppo-toy-e5-s0-tf32-paper-t2-b4-used-written",
        ),
    ],
)
def test_runs_are_named_after_their_settings(name: str, options: dict[str, Any], expected: str) -> None:
    assert run_name(name, task="toy", epochs=5, **options) == expected
