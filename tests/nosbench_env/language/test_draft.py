"""The grammar, compared with the meaning of the constraints on whole programs."""

import copy
import itertools
import pickle
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import instructions, programs

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS, Draft, Instruction, InvalidProgram, Program, SearchSpace
from nosbench_env.language.draft import CONSTRAINTS, FIRST_SLOT_TOKEN, FUNCTION_NAMES, STOP
from nosbench_env.language.live_code import live_places

SETS = [names for size in range(4) for names in itertools.combinations(CONSTRAINTS, size)]
constraint_sets = st.sampled_from(SETS)
spaces = st.builds(SearchSpace, st.integers(1, 12), st.integers(10, 20), constraint_sets)
SGD = Program.parse("r9 = mul(grad, 0.01)")


def obeys(program: Program, constraints: Iterable[str]) -> bool:
    """Returns True if a whole program satisfies the constraints."""
    written = {instruction.output for instruction in program}
    read = {slot for instruction in program for slot in instruction.inputs}
    meanings = {
        "written": {slot for slot in read if slot >= 9} <= written,
        "used": len(live_places(program)[0]) == len(program),
        "gradient": 1 in read,
    }
    return len(program) > 0 and all(meanings[name] for name in constraints)


def walk(draft: Draft, rng: np.random.Generator) -> Program:
    """Completes a draft by tokens drawn from its masks."""
    while not draft.finished:
        allowed = np.flatnonzero(draft.mask())
        assert len(allowed) > 0
        draft.push(int(rng.choice(allowed)))
    return draft.program


@given(spaces, st.integers(0, 2**32))
def test_whatever_the_masks_allow_ends_in_a_program_of_the_space(space: SearchSpace, seed: int) -> None:
    program = walk(space.draft(), np.random.default_rng(seed))
    assert program in space
    assert obeys(program, space.constraints)


@given(spaces, st.integers(0, 2**32), st.data())
def test_a_draft_of_a_given_length_gets_it(space: SearchSpace, seed: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, space.max_instructions))
    program = walk(space.draft(length), np.random.default_rng(seed))
    assert len(program) == length
    assert program in space


@given(st.lists(instructions(12), min_size=1, max_size=5), constraint_sets, st.integers(0, 3))
def test_a_program_is_in_the_space_if_it_obeys_the_constraints(
    written: list[Instruction], constraints: tuple[str, ...], room: int
) -> None:
    program = Program(tuple(written))
    assert (program in SearchSpace(len(program) + room, 12, constraints)) == obeys(program, constraints)


@pytest.mark.parametrize(("length", "memory_size", "functions"), [(2, 11, 3), (3, 10, 3)])
@pytest.mark.parametrize("constraints", SETS, ids="-".join)
def test_masks_are_exact(length: int, memory_size: int, functions: int, constraints: tuple[str, ...]) -> None:
    """Every program over a few functions and slots: a token is allowed where one that obeys goes on with it."""
    space = SearchSpace(length, memory_size, constraints)
    slots = (0, 1, *range(9, memory_size))
    chosen = ["abs", "add", "interpolate"][:functions]
    alphabet = [
        Instruction(name, inputs, output)
        for name in chosen
        for inputs in itertools.product(slots, repeat=FUNCTIONS[name].arity)
        for output in range(9, memory_size)
    ]
    follow: dict[tuple[int, ...], set[int]] = {}
    for size in range(1, length + 1):
        for program in map(Program, itertools.product(alphabet, repeat=size)):
            if obeys(program, constraints):
                tokens = tuple(space.tokens(program))
                for place in range(len(tokens)):
                    follow.setdefault(tokens[:place], set()).add(tokens[place])
    tokens_looked_at = {FUNCTION_NAMES.index(name) for name in chosen} | {STOP} | {FIRST_SLOT_TOKEN + s for s in slots}
    rng = np.random.default_rng(0)
    prefixes = list(follow)
    for number in [0, *rng.integers(len(prefixes), size=3000)]:
        draft = space.draft()
        for token in prefixes[number]:
            draft.push(token)
        assert {int(token) for token in np.flatnonzero(draft.mask())} & tokens_looked_at == follow[prefixes[number]]


@given(spaces, st.integers(0, 2**32), st.integers(0, 60))
def test_a_token_that_is_masked_out_is_refused_and_changes_nothing(space: SearchSpace, seed: int, steps: int) -> None:
    rng, draft = np.random.default_rng(seed), space.draft()
    for _ in range(steps):
        if not draft.finished:
            draft.push(int(rng.choice(np.flatnonzero(draft.mask()))))
    mask = draft.mask()
    assert [draft.allows(token) for token in range(-1, space.token_count + 1)] == [False, *mask, False]
    for token in np.flatnonzero(~mask):
        with pytest.raises(InvalidProgram, match=f"token {token} "):
            draft.push(int(token))
    assert np.array_equal(draft.mask(), mask)
    assert draft.finished == (not mask.any())


@given(programs())
def test_tokens_and_actions_translate_into_each_other(program: Program) -> None:
    space = SearchSpace()
    tokens = space.tokens(program)
    assert space.from_tokens(tokens) == program
    assert len(tokens) == sum(2 + len(i.inputs) for i in program) + (len(program) < 20)
    decoded = [space.decode(space.encode(instruction)) for instruction in space.from_tokens(tokens)]
    assert Program(tuple(decoded)) == program


@given(spaces, st.integers(0, 2**32))
def test_no_mask_stands_in_the_way_of_a_program_of_the_space(space: SearchSpace, seed: int) -> None:
    program = space.sample(np.random.default_rng(seed))
    draft = space.draft()
    for token in space.tokens(program):
        if not draft.partial:
            masks = np.split(draft.factored_masks(), np.cumsum(space.action_sizes)[:-1])
            instruction = program[len(draft.rows)] if token != STOP else None
            action = space.stop_action if instruction is None else space.encode(instruction)
            read = [0] if instruction is None else [0, *range(1, 1 + len(instruction.inputs)), 4]
            assert all(masks[factor][action[factor]] for factor in read)
        assert draft.mask()[token]
        draft.push(token)
    assert draft.finished
    assert draft.program == program


def test_without_constraints_only_stop_is_masked_of_whole_instructions() -> None:
    draft = SearchSpace().draft()
    assert np.flatnonzero(~draft.factored_masks()).tolist() == [STOP]
    for token in SearchSpace().tokens(SGD)[:-1]:
        draft.push(token)
    assert draft.factored_masks().all()
    assert np.array_equal(draft.factored_masks(), SearchSpace().action_masks(1))


@given(spaces, st.integers(0, 2**32))
def test_mutants_obey_the_constraints(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = space.sample(rng)
    for _ in range(10):
        program = space.mutate(program, rng)
        assert program in space
        assert obeys(program, space.constraints)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("r9 = mul(grad, 0.01)", ()),
        ("r9 = interpolate(r9, grad, 0.1); r10 = mul(r9, 0.01)", ()),
        ("r9 = mul(r10, grad); r10 = sign(grad); r11 = mul(r9, 0.1)", ()),  # reads the last step's sign
        ("r9 = abs(param); r9 = mul(r9, grad)", ()),
        ("r9 = add(step, 1.0)", ("gradient",)),
        ("r9 = mul(r10, grad)", ("written",)),
        ("r10 = sign(param); r9 = mul(grad, 0.1)", ("used",)),
        ("r10 = add(r10, 1.0); r9 = mul(grad, 0.1)", ("used",)),  # counts for itself alone
        ("r9 = sign(grad); r9 = sign(param)", ("used",)),  # written over, never read
        ("r9 = abs(r10); r11 = exp(r12)", ("gradient", "used", "written")),
    ],
)
def test_what_the_constraints_mean(text: str, broken: Sequence[str], constraint: str) -> None:
    program = Program.parse(text)
    assert (program in SearchSpace(constraints=(constraint,))) == (constraint not in broken)


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_known_programs_obey_constraints_once_simplified(name: str) -> None:
    space = SearchSpace(constraints=("used", "gradient"))  # two of them read a slot for its zero
    assert space.admit(KNOWN_PROGRAMS[name].simplified()) in space


def test_admit_names_the_constraint_that_is_broken() -> None:
    space = SearchSpace(constraints=("used", "gradient"))
    with pytest.raises(InvalidProgram, match="constraint 'used'"):
        space.admit(Program.parse("r10 = sign(param); r9 = mul(grad, 0.1)"))
    with pytest.raises(InvalidProgram, match="admit"):
        space.mutate(Program.parse("r9 = mul(param, 0.1)"), np.random.default_rng(0))


@pytest.mark.parametrize("copied", [Draft.copy, copy.deepcopy, lambda draft: pickle.loads(pickle.dumps(draft))])
def test_copies_go_their_own_way(copied: object) -> None:
    space = SearchSpace(constraints=CONSTRAINTS)
    draft = space.draft()
    tokens = space.tokens(Program.parse("r9 = interpolate(r9, grad, 0.1); r10 = mul(r9, 0.01)"))
    for place, token in enumerate(tokens):
        twin = copied(draft)
        mask = draft.mask()
        rest = tokens[place:]
        for later in rest:
            twin.push(later)
        assert twin.finished
        assert np.array_equal(draft.mask(), mask)
        draft.push(token)
    assert draft.program == twin.program


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "after 0 tokens .*function"),
        ([0, 28], "after 2 tokens .*output"),
        ([STOP], "token 26 .*after 0 instructions"),
        ([0, 28, 30], "token 30 .*after 0 instructions and \\[0, 1\\]"),
        ([0, 28, 36, STOP, 0], "token 0 .*finished"),
        ([0, 99], "token 99 "),
    ],
)
def test_tokens_of_no_program_are_refused(tokens: list[int], message: str) -> None:
    with pytest.raises(InvalidProgram, match=message):
        SearchSpace().from_tokens(tokens)


def test_programs_outside_the_bounds_have_no_tokens() -> None:
    with pytest.raises(InvalidProgram, match="outside the space's 20"):
        SearchSpace().tokens(KNOWN_PROGRAMS["Adadelta"])
    with pytest.raises(InvalidProgram, match=r"1 instructions.* 2"):
        SearchSpace(1).tokens(Program((SGD[0], SGD[0])))
    with pytest.raises(ValueError, match="length must be from 1 to 20, got 0"):
        SearchSpace().draft(0)
