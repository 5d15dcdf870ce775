import math

import numpy as np
import pytest
from searches import evaluation, play

from nosbench_env import KNOWN_PROGRAMS, Program, SearchSpace
from nosbench_env.agents import RegularizedEvolution


def test_defaults_are_the_papers() -> None:
    agent = RegularizedEvolution()
    assert (agent.population_size, agent.tournament_size, agent.space) == (100, 25, SearchSpace(20, 20))


def test_the_first_population_is_copies_of_the_start() -> None:
    agent = RegularizedEvolution(start=KNOWN_PROGRAMS["AdamW"], population_size=5)
    assert play(agent, 5) == [KNOWN_PROGRAMS["AdamW"]] * 5
    assert play(agent, 30) != [KNOWN_PROGRAMS["AdamW"]] * 30


def test_a_start_outside_the_space_is_brought_into_it() -> None:
    agent = RegularizedEvolution(start=KNOWN_PROGRAMS["Adadelta"])
    assert agent.ask()[0] in agent.space


def test_children_are_one_mutation_from_the_best_of_a_tournament() -> None:
    agent = RegularizedEvolution(population_size=3, tournament_size=50)  # all members but for bad luck
    founders = agent.ask(3)
    agent.tell(founders, [evaluation(program, loss) for program, loss in zip(founders, (2.0, 1.0, 3.0), strict=True)])
    for child in agent.ask(30):
        assert abs(len(child) - len(founders[1])) <= 1
        shared = sum(instruction in founders[1].instructions for instruction in child)
        assert shared >= len(child) - 1


def test_failed_programs_never_win_a_tournament() -> None:
    agent = RegularizedEvolution(population_size=3, tournament_size=50)
    founders = [Program.from_json([["add", [k, k], 9]] * 3) for k in range(3)]
    agent.ask(3)
    losses = (math.nan, 1e30, math.inf)
    agent.tell(founders, [evaluation(program, loss) for program, loss in zip(founders, losses, strict=True)])
    for child in agent.ask(30):
        assert founders[1][0] in child.instructions


def test_the_oldest_leaves_however_good_it_is() -> None:
    agent = RegularizedEvolution(population_size=2, tournament_size=50)
    programs = [Program.from_json([["add", [k, k], 9]] * 3) for k in range(3)]
    agent.ask(2)
    for program, loss in zip(programs, (0.1, 5.0, 6.0), strict=True):
        agent.tell([program], [evaluation(program, loss)])
    for child in agent.ask(30):
        assert programs[0][0] not in child.instructions or child.instructions.count(programs[1][0]) >= 2


def test_a_start_that_is_no_program_is_refused() -> None:
    with pytest.raises(TypeError, match="program must be a Program, got str"):
        RegularizedEvolution(start="AdamW")


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1.5, 1), (True, 1)])
def test_bad_sizes_are_refused(sizes: tuple) -> None:
    with pytest.raises(ValueError, match="size must be an integer >= 1, got"):
        RegularizedEvolution(population_size=sizes[0], tournament_size=sizes[1])


def test_a_tournament_is_drawn_with_replacement() -> None:
    """With 2 members and tournaments of 2, the worse one wins a quarter of the time."""
    agent = RegularizedEvolution(population_size=2, tournament_size=2)
    good, bad = (Program.from_json([["add", [k, k], 9]] * 10) for k in range(2))
    agent.ask(2)
    agent.tell([good, bad], [evaluation(good, 1.0), evaluation(bad, 2.0)])
    from_bad = np.mean([child.instructions.count(bad[0]) > 5 for child in agent.ask(2000)])
    assert 0.2 < from_bad < 0.3
