"""Populations of several programs.

Single programs are compared with the definition in test_equality.py.
"""

from collections.abc import Sequence

import pytest
import torch
from emulated_kernels import EmulatedKernels
from torch import Tensor

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.execution.gpu.interpreter import GpuPopulation
from nosbench_env.execution.gpu.without_kernels import UnfusedPopulation

SIZES = [20, 2, 37]
# At step 3 the logarithm of 0 makes every parameter infinite.
DIES_AT_3 = Program.parse("r9 = sub(step, 1.0); r9 = sub(r9, 1.0); r9 = sub(1.0, r9); r9 = log(r9)")
PROGRAMS = [
    KNOWN_PROGRAMS["AdamW"],
    Program.parse("r9 = norm(grad); r10 = div(grad, r9); r11 = std(r10); r12 = mul(r10, r11); r12 = mul(r12, 0.1)"),
    DIES_AT_3,
    Program.parse("r10 = norm(grad); r9 = add(r9, r10); r12 = div(grad, r9); r12 = mul(r12, 0.1)"),
    Program(),
]


@pytest.fixture(params=["with kernels", "without kernels"])
def make(request: pytest.FixtureRequest) -> object:
    """Makes a population; both classes have the same interface."""
    if request.param == "without kernels":
        return lambda programs, **more: UnfusedPopulation(programs, SIZES, "cpu", **more)
    kernels = request.getfixturevalue("kernels")
    return lambda programs, **more: GpuPopulation(programs, SIZES, kernels, "cpu", **more)


def rows(count: int, seed: int = 0) -> Tensor:
    return torch.randn(1, sum(SIZES), generator=torch.Generator().manual_seed(seed)).repeat(count, 1)


class Run:
    """Steps of a population, with gradients that depend on the step alone."""

    def __init__(self, population: GpuPopulation | UnfusedPopulation, count: int) -> None:
        self.population, self.weights, self.grads = population, rows(count), torch.zeros(count, sum(SIZES))
        population.bind_rows(self.weights, self.grads)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.grads.copy_(rows(len(self.grads), step))
            self.population.prepare(step)
            self.population.launch()

    def keep(self, programs: Sequence[int]) -> None:
        self.population = self.population.keep(programs)
        self.weights, self.grads = self.weights[list(programs)].clone(), self.grads[list(programs)].clone()
        self.population.bind_rows(self.weights, self.grads)


def test_each_program_of_a_population_is_stepped_as_it_is_alone(make) -> None:  # type: ignore[no-untyped-def]
    together = Run(make(PROGRAMS), len(PROGRAMS))
    together.steps(1, 4)
    for number, program in enumerate(PROGRAMS):
        alone = Run(make([program]), 1)
        alone.steps(1, 4)
        assert torch.equal(together.population.died_at[number], alone.population.died_at[0])
        if not together.population.died_at[number]:
            assert torch.equal(together.weights[number], alone.weights[0])  # the same operations on the same layout


def test_the_step_that_kills_a_program_is_known(make) -> None:  # type: ignore[no-untyped-def]
    run = Run(make(PROGRAMS), len(PROGRAMS))
    run.steps(1, 2)
    assert not run.population.died_at.any()
    run.steps(3, 5)
    assert run.population.died_at.tolist() == [3 if program is DIES_AT_3 else 0 for program in PROGRAMS]
    assert int(run.population.step) == 6


def test_programs_that_are_kept_continue(make) -> None:  # type: ignore[no-untyped-def]
    whole, parts = (Run(make(PROGRAMS), len(PROGRAMS)) for _ in range(2))
    whole.steps(1, 6)
    parts.steps(1, 3)
    kept = [number for number, program in enumerate(PROGRAMS) if program is not DIES_AT_3]
    parts.keep(kept)
    parts.steps(4, 6)
    assert torch.equal(parts.weights, whole.weights[kept])


def test_prepare_tells_when_the_code_no_longer_changes(make) -> None:  # type: ignore[no-untyped-def]
    population = make([KNOWN_PROGRAMS["AdamW"], Program()])  # AdamW's moments are scalars before the first step
    population.bind_rows(rows(2), rows(2))
    assert [population.prepare(step) for step in (1, 2, 3)] == [False, True, True]


def test_gradients_are_clipped_to_norm_1(make) -> None:  # type: ignore[no-untyped-def]
    program = Program.parse("r9 = mul(grad, 1.0)")
    population = make([program, program], scaled_gradient=True)
    weights, grads = torch.zeros(2, sum(SIZES)), rows(2)
    grads[1] *= 1e-3  # of a norm below 1: left alone
    population.bind_rows(weights, grads)
    population.prepare(1)
    population.clip()
    expected = [float(torch.clamp(1 / (row.norm() + 1e-6), max=1.0)) for row in grads]
    # A norm is a sum in another order here, so it is not torch's to the last bit.
    torch.testing.assert_close(population.grad_scales, torch.tensor(expected), rtol=1e-5, atol=0)
    assert population.grad_scales[1] == 1
    population.launch()
    torch.testing.assert_close(weights, -grads * population.grad_scales.unsqueeze(1))


def test_tensors_of_more_than_a_tile_are_updated_throughout(kernels: EmulatedKernels) -> None:
    size = 8192 + 9
    population = GpuPopulation([Program.parse("r9 = mul(grad, 1.0)")], [size], kernels, "cpu")
    weights, grads = torch.zeros(1, size), torch.arange(float(size)).unsqueeze(0)
    population.bind_rows(weights, grads)
    population.prepare(1)
    population.launch()
    assert torch.equal(weights, -grads)
