import math
import subprocess
import sys

import pytest
import torch

from nosbench_env.language.functions import COMMUTATIVE, FUNCTIONS, OPERATIONS, PER_TENSOR, TRANSCENDENTALS

NAN, INF = float("nan"), float("inf")


def test_there_are_the_26_functions_of_table_1() -> None:
    arities = [function.arity for function in FUNCTIONS.values()]
    # 17 unary in the paper, of which the code gives clip two inputs
    assert (len(arities), arities.count(1), arities.count(2), arities.count(3)) == (26, 16, 8, 2)


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        ("square", [-3.0], 9.0),
        ("exp", [0.0], 1.0),
        ("log", [-1.0], NAN),
        ("log", [0.0], -INF),
        ("sign", [NAN], 0.0),
        ("sign", [-2.0], -1.0),
        ("sqrt", [-1.0], NAN),
        ("abs", [-2.0], 2.0),
        ("norm", [[3.0, 4.0]], 5.0),
        ("norm", [-2.0], 2.0),
        ("clip", [2.0, 1.0], 1.0),
        ("clip", [1.0, 2.0], 1.0),
        ("clip", [NAN, 1.0], NAN),
        ("sin", [0.0], 0.0),
        ("cos", [0.0], 1.0),
        ("tan", [0.0], 0.0),
        ("arcsin", [2.0], NAN),
        ("arccos", [1.0], 0.0),
        ("arctan", [0.0], 0.0),
        ("mean", [[1.0, 2.0, 6.0]], 3.0),
        ("std", [[1.0, 3.0]], 2.0**0.5),
        ("std", [[1.0]], NAN),
        ("std", [1.0], NAN),
        ("size", [[1.0, 1.0, 1.0]], 3.0),
        ("size", [7.0], 1.0),
        ("div", [1.0, 0.0], INF),
        ("mul", [2.0, 3.0], 6.0),
        ("add", [2.0, 3.0], 5.0),
        ("sub", [2.0, 3.0], -1.0),
        ("minimum", [NAN, 1.0], NAN),
        ("minimum", [2.0, 1.0], 1.0),
        ("maximum", [2.0, 1.0], 2.0),
        ("heaviside", [NAN, 5.0], 0.0),
        ("heaviside", [0.0, 5.0], 5.0),
        ("heaviside", [-0.0, 5.0], 5.0),
        ("heaviside", [-1.0, 5.0], 0.0),
        ("heaviside", [1.0, 5.0], 1.0),
        ("interpolate", [10.0, 20.0, 0.75], 12.5),  # the third input weighs the first
        ("bias_correct", [3.0, 0.5, 2.0], 4.0),
        ("bias_correct", [3.0, 1.0, 2.0], INF),
        ("bias_correct", [3.0, -0.5, 1.0], 2.0),
    ],
)
def test_function_gives_the_value_worked_out_by_hand(name: str, inputs: list, expected: float) -> None:
    result = FUNCTIONS[name](*[torch.tensor(value, dtype=torch.float32) for value in inputs])
    torch.testing.assert_close(result, torch.tensor(expected), equal_nan=True)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=str)
def test_result_is_fresh_and_0d_or_of_the_input_shape(function) -> None:
    array, scalar = torch.rand(4, 3) + 0.1, torch.tensor(0.5)
    for inputs in ([array] * function.arity, [array, *[scalar] * (function.arity - 1)], [scalar] * function.arity):
        result = function(*inputs)
        assert result.shape == (() if function.name in PER_TENSOR else inputs[0].shape)
        assert all(result.data_ptr() != tensor.data_ptr() for tensor in inputs)
        assert result.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=str)
def test_function_takes_arrays_of_any_precision_with_float32_scalars(function, dtype: torch.dtype) -> None:
    array, scalar = torch.linspace(0.1, 0.9, 12).reshape(4, 3).to(dtype), torch.tensor(0.5)
    for position in range(function.arity):
        inputs = [array if place == position else scalar for place in range(function.arity)]
        assert function(*inputs).isfinite().all()


def test_operations_are_the_functions_that_are_not_composed_and_the_power() -> None:
    assert {*FUNCTIONS} - {*OPERATIONS} == {"clip", "interpolate", "bias_correct"}
    assert {*OPERATIONS} - {*FUNCTIONS} == {"pow"}
    base, exponent = torch.tensor([2.0, -2.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(OPERATIONS["pow"](base, exponent), torch.tensor([2**0.5, -8.0]))


@pytest.mark.parametrize("function", [f for f in {**FUNCTIONS, **OPERATIONS}.values() if f.arity == 2], ids=str)
def test_commutative_functions_are_those_whose_inputs_can_be_swapped(function) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(100, generator=generator), torch.randn(100, generator=generator)
    swappable = torch.equal(function(a, b).nan_to_num(), function(b, a).nan_to_num())
    assert swappable == (function.commutative or function.name == "clip")  # composed, and so not an operation
    assert function.commutative == (function.name in COMMUTATIVE)


@pytest.mark.parametrize("name", TRANSCENDENTALS)
def test_transcendental_functions_have_their_name_in_the_c_library(name: str) -> None:
    inputs = [0.3, 0.7][: OPERATIONS[name].arity]
    expected = getattr(math, OPERATIONS[name].c_name)(*inputs)
    assert OPERATIONS[name](*map(torch.tensor, inputs)).item() == pytest.approx(expected, rel=1e-6)


def test_import_leaves_heavy_packages_alone() -> None:
    code = (
        "import sys, gymnasium, nosbench_env\n"
        "gymnasium.make('nosbench_env:NOSBench-v0').reset()\n"
        "heavy = {'torch', 'sqlalchemy', 'sklearn', 'stable_baselines3', 'pfns'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
