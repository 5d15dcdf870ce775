"""Hypothesis strategies for programs and actions, shared by the tests."""

from hypothesis import strategies as st

from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, MAX_SLOTS, Instruction, Program
from nosbench_env.language.search_space import SearchSpace


def instructions(memory_size: int = 20) -> st.SearchStrategy[Instruction]:
    def with_function(name: str) -> st.SearchStrategy[Instruction]:
        inputs = st.tuples(*[st.integers(0, memory_size - 1)] * FUNCTIONS[name].arity)
        return st.builds(Instruction, st.just(name), inputs, st.integers(FIRST_WRITABLE_SLOT, memory_size - 1))

    return st.sampled_from(list(FUNCTIONS)).flatmap(with_function)


def programs(min_size: int = 1, max_size: int = 20, memory_size: int = 20) -> st.SearchStrategy[Program]:
    """Draws programs, by default of the paper's search space."""
    lists = st.lists(instructions(memory_size), min_size=min_size, max_size=max_size)
    return lists.map(lambda drawn: Program(tuple(drawn)))


def any_programs() -> st.SearchStrategy[Program]:
    """Draws programs of the whole language, of at most 50 instructions."""
    return programs(0, 50, MAX_SLOTS)


@st.composite
def memory_shuffles(draw: st.DrawFn) -> Program:
    """Programs that mostly copy values, so that old values of memories and of the parameter are needed."""
    slots = st.sampled_from((0, 1, *range(9, 14)))
    copies = st.builds(lambda source, output: ["mul", [source, 3], output], slots, st.integers(9, 13))
    sums = st.builds(lambda a, b, output: ["sub", [a, b], output], slots, slots, st.integers(9, 13))
    return Program.from_json(draw(st.lists(copies | sums, min_size=3, max_size=12)))


def action_sequences(space: SearchSpace) -> st.SearchStrategy[list[list[int]]]:
    """Draws as many actions as an episode can take."""
    action = st.tuples(*[st.integers(0, size - 1) for size in space.action_sizes]).map(list)
    return st.lists(action, min_size=space.max_instructions, max_size=space.max_instructions)
