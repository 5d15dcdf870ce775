import math

from hypothesis import given
from hypothesis import strategies as st

from nosbench_env import FUNCTIONS
from nosbench_env.language.constant_search import Expression, find_constant, nearest_constants
from nosbench_env.language.live_code import apply, scalar
from nosbench_env.language.program import CONSTANTS


def value(expression: Expression) -> float:
    if expression.function == "slot":
        return scalar(CONSTANTS[expression.slot]).item()
    return apply(expression.function, *(scalar(value(source)) for source in expression.inputs)).item()


@given(st.sampled_from([0.9, 0.999, 3e-4, 2.0, 5.0, 0.95, 1e-8, -1.0, 0.0, 0.85, 100.0, 1 / 3]) | st.floats(1e-4, 2.0))
def test_constants_are_composed_exactly(number: float) -> None:
    expression = find_constant(number)
    if expression is None:
        below, above = nearest_constants(number)
        assert below < number < above or scalar(number).item() in (below, above)
    else:
        assert value(expression) == scalar(number).item()
        assert set(functions(expression)) <= set(FUNCTIONS)


def functions(expression: Expression) -> list[str]:
    if expression.function == "slot":
        return []
    return [expression.function, *(name for source in expression.inputs for name in functions(source))]


def test_zeros_of_either_sign_are_told_apart() -> None:
    for number in (0.0, -0.0, 0.0):
        expression = find_constant(number)
        assert expression is None or math.copysign(1.0, value(expression)) == math.copysign(1.0, number)


def test_shortest_expressions_are_expression() -> None:
    lengths = {number: len(functions(find_constant(number))) for number in (0.1, 0.9, 2.0, 1e-8, 0.95, 0.0003)}
    assert lengths == {0.1: 0, 0.9: 1, 2.0: 1, 1e-8: 1, 0.95: 2, 0.0003: 3}
