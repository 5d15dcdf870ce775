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
    """Programs of the paper's search space, unless told otherwise."""
    lists = st.lists(instructions(memory_size), min_size=min_size, max_size=max_size)
    return lists.map(lambda drawn: Program(tuple(drawn)))


def any_programs() -> st.SearchStrategy[Program]:
    """Programs of the whole language, of up to 50 instructions."""
    return programs(0, 50, MAX_SLOTS)


def action_sequences(space: SearchSpace) -> st.SearchStrategy[list[list[int]]]:
    """More actions than an episode can take."""
    action = st.tuples(*[st.integers(0, size - 1) for size in space.action_sizes]).map(list)
    return st.lists(action, min_size=space.max_instructions, max_size=space.max_instructions)
