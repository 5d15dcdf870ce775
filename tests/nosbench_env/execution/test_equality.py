"""Every fast executor against the definition, `ProgramOptimizer`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from emulated_kernels import COMPILER, EmulatedKernels
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import programs
from trajectories import (
    TOLERANCE,
    Executor,
    distance,
    fused_cpu,
    fused_gpu,
    gpu_population,
    is_ill_conditioned,
    plain,
    trajectory,
    unfused_population,
)

from nosbench_env import KNOWN_PROGRAMS, Program

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs g++ to run the GPU's kernels on the CPU")
EXECUTORS = [
    "fused_cpu",
    "unfused_population",
    pytest.param("gpu_population", marks=needs_compiler),
    pytest.param("fused_gpu", marks=needs_compiler),
]


@pytest.fixture(scope="session")
def executor(request: pytest.FixtureRequest) -> Executor:
    on_cpu = {"fused_cpu": fused_cpu, "unfused_population": unfused_population}
    if request.param in on_cpu:
        return on_cpu[request.param]
    on_gpu = {"gpu_population": gpu_population, "fused_gpu": fused_gpu}
    return on_gpu[request.param](request.getfixturevalue("kernels"))


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
def test_every_conformance_trajectory_is_that_of_the_plain_optimizer(
    executor: Executor, conformance: dict[str, Any]
) -> None:
    initial = [
        torch.tensor(values, dtype=torch.float32).reshape(shape)
        for values, shape in zip(conformance["initial"], conformance["shapes"], strict=True)
    ]
    wrong, excused = [], []
    for row in conformance["rows"]:
        program = Program.from_json(row["program"])
        if distance(trajectory(executor, program, initial), trajectory(plain, program, initial)) > TOLERANCE:
            (excused if is_ill_conditioned(program, initial) else wrong).append(row["name"])
    assert not wrong
    assert len(excused) <= 3, excused


# Shapes with less than a vector of elements, with a rest, with more than a tile; a scalar, one element, and none.
SHAPES = [(), (1,), (5,), (4, 4), (3, 11), (2, 3, 7), (0,), (9001,)]


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_known_programs_on_tensors_of_all_sizes(executor: Executor, name: str) -> None:
    initial = [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]
    program = KNOWN_PROGRAMS[name]
    assert distance(trajectory(executor, program, initial, 8), trajectory(plain, program, initial, 8)) < TOLERANCE


HARD = {
    "reductions on three levels": (
        "r9 = norm(grad); r10 = div(grad, r9); r11 = std(r10); r12 = mul(r10, r11); r13 = mean(r12); "
        "r14 = sub(r12, r13); r14 = mul(r14, 0.01)"
    ),
    "an array handed on after two loops": (
        "r9 = square(grad); r10 = mean(r9); r11 = div(r9, r10); r12 = norm(r11); r13 = add(r9, r12); "
        "r14 = mul(r13, 0.001)"
    ),
    "transcendental between elementwise": (
        "r9 = mul(grad, 0.5); r10 = exp(r9); r11 = add(r10, r9); r12 = sin(r11); r13 = mul(r12, r10); "
        "r13 = mul(r13, 0.01)"
    ),
    "powers of arrays": "r9 = abs(param); r10 = bias_correct(grad, r9, step); r10 = mul(r10, 1e-06)",
    "slots exchanged": (
        "r9 = maximum(r10, grad); r11 = add(r12, 0.5); r12 = mul(r9, r11); r10 = add(r11, grad); r13 = mul(r12, 0.001)"
    ),
    "an old parameter": "r9 = sub(param, r10); r10 = mul(param, 1.0); r9 = mul(r9, 0.1)",
    "a slot that is a scalar of all, of a tensor, then an array": (
        "r9 = add(r10, 0.01); r10 = mul(r11, 0.5); r12 = norm(grad); r11 = maximum(r12, r13); "
        "r13 = square(grad); r14 = mul(r9, 0.01)"
    ),
    "a running scalar": "r9 = add(r9, 0.1); r10 = mul(grad, 0.01); r10 = div(r10, r9)",
    "a running norm": (
        "r10 = norm(grad); r9 = add(r9, r10); r11 = size(grad); r12 = div(grad, r9); r12 = div(r12, r11); "
        "r12 = mul(r12, 0.1)"
    ),
    "reductions of scalars": (
        "r9 = norm(step); r10 = mean(r9); r11 = size(r10); r12 = norm(param); r13 = norm(r12); "
        "r14 = mul(grad, r13); r14 = mul(r14, 0.01)"
    ),
    "norms of scalars whose squares underflow": (
        "r9 = mul(step, 1e-06); r9 = square(r9); r9 = square(r9); r10 = norm(r9)"
        "; r11 = div(r9, r10); r12 = mul(grad, r11); r12 = mul(r12, 0.01)"
    ),
    "norms of scalars whose squares overflow": (
        "r9 = div(step, 1e-06); r9 = square(r9); r9 = square(r9); r10 = norm(r9)"
        "; r11 = div(r9, r10); r12 = mul(grad, r11); r12 = mul(r12, 0.01)"
    ),
    "norms of tensors whose squares underflow": (
        "r9 = mul(0.001, 1e-06); r9 = mul(r9, r9); r9 = mul(r9, 1e-06); r9 = mul(r9, grad)"
        "; r10 = norm(r9); r10 = mul(r10, 0.01)"
    ),
    "the update is a scalar": "r9 = mean(grad); r9 = mul(r9, 0.1)",
    "the update is a constant": "r9 = mul(0.1, 0.01)",
    "the update is the parameter": "r9 = mul(param, 1.0); r9 = mul(r9, 0.5)",
    "NaN that sign and heaviside stop": (
        "r9 = log(grad); r10 = sign(r9); r11 = heaviside(r9, grad); r12 = add(r10, r11); r12 = mul(r12, 0.001)"
    ),
    "NaN through minimum and maximum": (
        "r9 = sqrt(grad); r10 = minimum(r9, grad); r11 = maximum(grad, r9); r12 = add(r10, r11); "
        "r12 = sign(r12); r12 = mul(r12, 0.01)"
    ),
    "heaviside at zero": "r9 = sub(grad, grad); r10 = heaviside(r9, param); r11 = mul(r10, 0.1)",
    "dies": "r9 = div(0.01, r10); r10 = sub(step, step); r11 = add(grad, r9)",
    "empty": "",
}


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
@pytest.mark.parametrize("name", HARD)
def test_hard_programs(executor: Executor, name: str) -> None:
    initial = [torch.randn(shape, generator=torch.Generator().manual_seed(2)) for shape in [(4, 5), (40,), (33,), (1,)]]
    program = Program.parse(HARD[name])
    assert distance(trajectory(executor, program, initial, 6), trajectory(plain, program, initial, 6)) < TOLERANCE


@pytest.mark.parametrize("executor", EXECUTORS, indirect=True)
@settings(max_examples=150)
@given(program=programs(min_size=2), seed=st.integers(0, 1000))
def test_random_programs(executor: Executor, program: Program, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    initial = [torch.randn(shape, generator=generator) for shape in [(4, 5), (1,), (37,)]]
    own, expected = trajectory(executor, program, initial, 4), trajectory(plain, program, initial, 4)
    assert distance(own, expected) <= TOLERANCE or is_ill_conditioned(program, initial, 4)


@needs_compiler
def test_blocks_of_several_threads_agree(tmp_path: Path) -> None:
    """The threads of a block share reductions and scalars."""
    executor = gpu_population(EmulatedKernels(tmp_path, threads=4))
    initial = [torch.randn(shape, generator=torch.Generator().manual_seed(3)) for shape in [(4, 5), (61,), (1,), (2,)]]
    for name in ("reductions on three levels", "a running norm", "slots exchanged", "a running scalar"):
        program = Program.parse(HARD[name])
        assert distance(trajectory(executor, program, initial, 3), trajectory(plain, program, initial, 3)) < TOLERANCE
