"""The distribution over programs of a `TokenPolicy`."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import TINY, every_tiny_program, log_probabilities, policy

from nosbench_env import Program, SearchSpace
from nosbench_env.agents.token_policy import TokenPolicy
from nosbench_env.language.draft import CONSTRAINTS

pytestmark = pytest.mark.usefixtures("one_thread")


EVERY_CONSTRAINTS = [c for n in range(4) for c in itertools.combinations(CONSTRAINTS, n)]


@pytest.mark.parametrize("constraints", EVERY_CONSTRAINTS)
def test_probabilities_sum_to_one(constraints: tuple[str, ...]) -> None:
    space = SearchSpace(1, 10, constraints)
    programs = [program for program in every_tiny_program() if program in space]
    assert log_probabilities(policy(space), programs).exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_programs_are_drawn_as_often_as_their_probability_says() -> None:
    made = policy(TINY)
    programs = every_tiny_program()
    expected = log_probabilities(made, programs).exp().detach().double().numpy() * 20_000
    drawn = Counter(made.sample(20_000, np.random.default_rng(1)))
    counts = np.array([drawn[program] for program in programs])
    often = expected > 20
    assert often.sum() > 20
    assert np.mean((counts[often] - expected[often]) ** 2 / expected[often]) == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("constraints", [(), ("gradient", "used")])
def test_reading_finds_the_probabilities_of_writing(
    constraints: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = policy(SearchSpace(6, constraints=constraints))
    steps, logs = [], made._logs
    monkeypatch.setattr(made, "_logs", lambda *inputs: steps.append(logs(*inputs)) or steps[-1])
    programs = made.sample(9, np.random.default_rng(0))
    lessons = made.read(programs)
    writing = torch.stack([step[0] for step in steps])
    chosen = lessons.choices[: len(writing)]
    assert torch.allclose(
        writing.gather(-1, chosen[..., None])[..., 0].sum(0), log_probabilities(made, programs), atol=1e-4
    )


def test_what_comes_later_does_not_change_the_probability_of_what_came_before() -> None:
    made = policy(SearchSpace(5))
    one = Program.parse("r9 = mul(grad, 0.1); r10 = sign(r9)")
    other = Program.parse("r9 = mul(grad, 0.1); r11 = add(param, step)")
    (first, second), _ = (column.T for column in made(made.read([one, other])))
    assert torch.allclose(first[:5], second[:5], atol=1e-5)
    assert not torch.allclose(first, second, atol=1e-2)


def test_which_slots_are_written_is_seen() -> None:
    made = policy(SearchSpace(4))
    with torch.no_grad():  # no memory: what it knows is what it sees
        for weights in made._gru.parameters():
            weights.zero_()
    programs = [Program.parse(f"{first} = sign(grad); r9 = exp(step); r9 = abs(r10)") for first in ("r10", "r11")]
    first, second = made(made.read(programs))[0].T
    assert torch.allclose(first[:3], second[:3], atol=1e-5)
    assert ((first[4:10] - second[4:10]).abs() > 1e-4).all()


def test_entropy_is_that_of_the_choices() -> None:
    made = policy(TINY)
    programs = every_tiny_program()
    logs, entropies = made(made.read(programs))
    probabilities = logs.sum(0).exp()
    assert (probabilities @ entropies.sum(0)).item() == pytest.approx(-(probabilities @ logs.sum(0)).item(), abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    constraints=st.sampled_from(EVERY_CONSTRAINTS),
    longest=st.integers(1, 9),
    memory_size=st.integers(10, 20),
)
def test_programs_lie_in_the_space(seed: int, constraints: tuple[str, ...], longest: int, memory_size: int) -> None:
    space = SearchSpace(longest, memory_size, constraints)
    made = policy(space, seed)
    programs = made.sample(5, np.random.default_rng(seed))
    assert all(program in space and made.writes(program) for program in programs)
    assert log_probabilities(made, programs).isfinite().all()


def test_the_untrained_policy_draws_like_the_space() -> None:
    space = SearchSpace(4, 10)
    made = TokenPolicy(space, np.random.default_rng(0))
    program = Program.parse("r9 = mul(grad, 0.1); r9 = sign(r9)")
    by_hand = -math.log(4) - 2 * math.log(26) - 3 * math.log(10)
    assert log_probabilities(made, [program]).item() == pytest.approx(by_hand, abs=1e-4)


def test_the_length_prior_is_a_normal_distribution_cut_off() -> None:
    made = TokenPolicy(SearchSpace(8), np.random.default_rng(0), length=(3, 2))
    lengths = np.bincount([len(program) for program in made.sample(1000, np.random.default_rng(0))], minlength=9)
    weights = np.exp(-(((np.arange(1, 9) - 3) / 2) ** 2) / 2)
    assert lengths[1:] / 1000 == pytest.approx(weights / weights.sum(), abs=0.05)


def test_arities_are_equally_likely_if_asked_for() -> None:
    made = TokenPolicy(TINY, np.random.default_rng(0), uniform_arity=True)
    programs = made.sample(3000, np.random.default_rng(0))
    arities = np.bincount([len(program[0].inputs) for program in programs])
    assert arities[1:] / 3000 == pytest.approx([1 / 3] * 3, abs=0.04)


def test_a_program_that_constraints_keep_out_is_none_it_writes() -> None:
    made = TokenPolicy(SearchSpace(constraints=("gradient",)), np.random.default_rng(0))
    assert made.writes(Program.parse("r9 = sign(grad)"))
    assert not made.writes(Program.parse("r9 = sign(param)"))
