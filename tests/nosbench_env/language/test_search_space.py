import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import programs

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS, Instruction, InvalidProgram, Program, SearchSpace
from nosbench_env.identity.identify import fingerprint
from nosbench_env.language.search_space import STOP

SPACE = SearchSpace()
spaces = st.builds(SearchSpace, st.integers(1, 30), st.integers(10, 40))


@given(spaces, st.integers(0, 2**32))
def test_sampled_and_mutated_programs_stay_in_the_space(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = space.sample(rng)
    assert program in space
    for _ in range(30):
        program = space.mutate(program, rng)
        assert program in space


@given(programs())
def test_actions_give_the_program_back(program: Program) -> None:
    assert program in SPACE
    actions = [SPACE.encode(instruction) for instruction in program]
    assert all((action < SPACE.action_sizes).all() for action in actions)
    assert Program(tuple(SPACE.decode(action) for action in actions)) == program


def test_sampling_reaches_every_choice_about_equally_often() -> None:
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(4000)]
    instructions = [instruction for program in drawn for instruction in program]
    counts = {
        "length": np.bincount([len(program) for program in drawn], minlength=21)[1:],
        "function": np.bincount([list(FUNCTIONS).index(i.function) for i in instructions], minlength=26),
        "input": np.bincount([slot for i in instructions for slot in i.inputs], minlength=20),
        "output": np.bincount([i.output for i in instructions], minlength=20)[9:],
    }
    for choice, count in counts.items():
        expected = count.sum() / len(count)
        assert np.abs(count - expected).max() < 6 * np.sqrt(expected), choice


def test_mutations_are_equally_likely_and_reach_every_slot() -> None:
    rng = np.random.default_rng(0)
    parent = Program.from_json([["add", [0, 0], 9], ["add", [1, 1], 9]])
    children = [SPACE.mutate(parent, rng) for _ in range(3000)]
    by_length = np.bincount([len(child) for child in children], minlength=4)
    assert np.abs(by_length[1:] - 1000).max() < 150  # deletion, modification, insertion
    changed = [child for child in children if len(child) == 2]
    assert {child[0].inputs[0] for child in changed} == set(range(20))
    assert {child[1].output for child in changed} == set(range(9, 20))
    inserted = [child for child in children if len(child) == 3]
    places = [next(p for p in range(3) if Program((*child[:p], *child[p + 1 :])) == parent) for child in inserted]
    assert np.abs(np.bincount(places, minlength=3) - len(inserted) / 3).max() < 80


def test_a_mutation_changes_one_place() -> None:
    rng = np.random.default_rng(1)
    parent = KNOWN_PROGRAMS["AdamW"]
    for _ in range(300):
        child = SPACE.mutate(parent, rng)
        if len(child) == len(parent):
            differing = [(a, b) for a, b in zip(parent, child, strict=True) if a != b]
            assert len(differing) <= 1
            for a, b in differing:
                assert a.function == b.function
                assert sum(x != y for x, y in zip((*a.inputs, a.output), (*b.inputs, b.output), strict=True)) == 1


@pytest.mark.parametrize("length", [1, 20])
def test_mutation_at_the_bounds_stays_within(length: int) -> None:
    rng = np.random.default_rng(0)
    parent = Program((KNOWN_PROGRAMS["Adam"][0],) * length)
    lengths = {len(SPACE.mutate(parent, rng)) for _ in range(100)}
    assert lengths == ({1, 2} if length == 1 else {19, 20})


def test_admit_renumbers_adadelta_without_changing_what_it_does() -> None:
    adadelta = KNOWN_PROGRAMS["Adadelta"]
    assert adadelta not in SPACE
    admitted = SPACE.admit(adadelta)
    assert admitted in SPACE
    assert fingerprint(admitted) == fingerprint(adadelta)
    assert SPACE.admit(admitted) is admitted


@given(programs(memory_size=40, max_size=4))
def test_admitted_programs_do_the_same(program: Program) -> None:
    try:
        admitted = SPACE.admit(program)
    except InvalidProgram:
        used = {slot for i in program for slot in (*i.inputs, i.output) if slot > 8}
        assert len(used) > 11
    else:
        assert admitted in SPACE
        assert fingerprint(admitted) == fingerprint(program)


def test_admit_says_why_it_cannot() -> None:
    wide = Program.from_json([["square", [1], 9 + k] for k in range(12)])
    with pytest.raises(InvalidProgram, match=r"11 writable slots.* 12"):
        SPACE.admit(wide)
    with pytest.raises(InvalidProgram, match=r"1 to 20 instructions.* 21"):
        SPACE.admit(Program.from_json([["square", [1], 9]] * 21))
    with pytest.raises(InvalidProgram, match=r"1 to 20 instructions.* 0"):
        SPACE.admit(Program())
    with pytest.raises(InvalidProgram, match="admit"):
        SPACE.mutate(KNOWN_PROGRAMS["Adadelta"], np.random.default_rng(0))


def test_stop_is_decoded_and_masked_only_at_the_start() -> None:
    assert SPACE.decode(SPACE.stop_action) is None
    assert SPACE.action_sizes == (27, 20, 20, 20, 11)
    start, later = SPACE.action_masks(0), SPACE.action_masks(1)
    assert start.shape == later.shape == (98,)
    assert np.flatnonzero(~start).tolist() == [STOP]
    assert later.all()


@pytest.mark.parametrize(
    "action",
    [
        *([0] * place + [size] + [0] * (4 - place) for place, size in enumerate(SPACE.action_sizes)),
        *([0] * place + [-1] + [0] * (4 - place) for place in range(5)),
        [0],
        [0] * 6,
        [[0] * 5],
        3.5,
        None,
        np.zeros(5),
        np.zeros(5, dtype=bool),
        np.full(5, 2**63, dtype=np.uint64),
        [0, 0, 0, 0, 2**70],
    ],
    ids=str,
)
def test_bad_actions_are_refused(action: object) -> None:
    with pytest.raises(ValueError, match="5 integers below"):
        SPACE.decode(action)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, list, tuple])
def test_any_five_integers_are_an_action(kind: type) -> None:
    numbers = [18, 1, 6, 13, 2]
    action = kind(numbers) if kind in (list, tuple) else np.array(numbers, dtype=kind)
    assert SPACE.check_action(action) == (18, 1, 6, 13, 2)
    assert SPACE.decode(action) == Instruction("mul", (1, 6), 11)


@pytest.mark.parametrize("constraints", [("unknown",), "used", ("used", "short")])
def test_unknown_constraints_are_refused(constraints: object) -> None:
    with pytest.raises(ValueError, match=r"constraints must .*'gradient'"):
        SearchSpace(constraints=constraints)


def test_spaces_are_equal_whatever_the_order_of_their_constraints() -> None:
    assert SearchSpace(constraints=["used", "gradient"]) == SearchSpace(constraints=("gradient", "used", "used"))
    assert SearchSpace(5, 12, ("used",)).to_json() == {
        "max_instructions": 5,
        "memory_size": 12,
        "constraints": ["used"],
    }
    assert SearchSpace(**SearchSpace(5, 12, ("used",)).to_json()) == SearchSpace(5, 12, ("used",))
    assert SearchSpace().to_json() == {"max_instructions": 20, "memory_size": 20}


@pytest.mark.parametrize("bounds", [(0, 20), (20, 9), (1025, 20), (20, 257), (True, 20), (5.0, 20)])
def test_bad_bounds_are_refused(bounds: tuple) -> None:
    with pytest.raises(ValueError, match="must be an integer from"):
        SearchSpace(*bounds)
