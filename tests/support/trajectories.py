"""Trajectories of parameters under a program, by any executor, and their distance."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from nosbench_env import Program, ProgramOptimizer
from nosbench_env.execution.fused_cpu import FusedCpuProgram
from nosbench_env.execution.gpu.fused_gpu import FusedGpuProgram
from nosbench_env.execution.gpu.interpreter import GpuPopulation, Kernels
from nosbench_env.execution.gpu.without_kernels import UnfusedPopulation

TOLERANCE = 1e-6  # of the largest weight
Trajectory = list[list[Tensor]]  # the parameters after each step
Step = Callable[[list[Tensor], int], None]  # runs a step, counted from 1, with these gradients
Executor = Callable[[Program, list[nn.Parameter]], Step]


def plain(program: Program, params: list[nn.Parameter]) -> Step:
    """The definition: `ProgramOptimizer`, one operation per instruction."""
    optimizer = ProgramOptimizer(params, program)

    def step(grads: list[Tensor], _: int) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        optimizer.step()

    return step


def fused_cpu(program: Program, params: list[nn.Parameter]) -> Step:
    """Fused loops on the CPU."""
    runner = FusedCpuProgram(program)
    memories: list[dict[int, Tensor]] = [{} for _ in params]

    def step(grads: list[Tensor], number: int) -> None:
        finite = runner.step(params, grads, memories, number)
        assert finite == all(bool(param.isfinite().all()) for param in params)

    return step


def population_of_one(make: Callable[[Program, list[int]], GpuPopulation | UnfusedPopulation]) -> Executor:
    """A population with a single program."""

    def execute(program: Program, params: list[nn.Parameter]) -> Step:
        sizes = [param.numel() for param in params]
        population = make(program, sizes)
        weights = torch.cat([param.detach().reshape(-1) for param in params]).unsqueeze(0)
        grads_row = torch.zeros_like(weights)
        population.bind_rows(weights, grads_row)
        with torch.no_grad():  # the parameters become views of the row
            for param, part in zip(params, weights[0].split(sizes), strict=True):
                param.data = part.view(param.shape)

        def step(grads: list[Tensor], number: int) -> None:
            grads_row[0] = torch.cat([grad.reshape(-1) for grad in grads])
            population.prepare(number)
            with torch.no_grad():
                population.launch()
            died_at = int(population.died_at)
            assert (died_at == 0) == all(bool(param.isfinite().all()) for param in params)

        return step

    return execute


unfused_population = population_of_one(lambda program, sizes: UnfusedPopulation([program], sizes, "cpu"))


def gpu_population(kernels: Kernels) -> Executor:
    """The GPU's kernels, as populations use them."""
    return population_of_one(lambda program, sizes: GpuPopulation([program], sizes, kernels, "cpu"))


def fused_gpu(kernels: Kernels) -> Executor:
    """The GPU's kernels, as `ProgramOptimizer(fused=True)` uses them."""

    def execute(program: Program, params: list[nn.Parameter]) -> Step:
        runner = FusedGpuProgram(program, kernels)
        memories: list[dict[int, Tensor]] = [{} for _ in params]

        def step(grads: list[Tensor], number: int) -> None:
            with torch.no_grad():
                runner.step(params, grads, memories, number)

        return step

    return execute


def trajectory(executor: Executor, program: Program, initial: Sequence[Tensor], steps: int = 5) -> Trajectory:
    """Runs steps with the gradients of the conformance data.

    Stops when a parameter is not finite.
    """
    params = [nn.Parameter(values.clone()) for values in initial]
    step = executor(program, params)
    after_steps = []
    for number in range(1, steps + 1):
        grads = []
        for k, param in enumerate(params):
            wave = torch.cos(torch.arange(param.numel(), dtype=torch.float32) + (number - 1)).reshape(param.shape)
            grads.append(0.5 * param.detach() + 0.1 * (k + 1) * wave)
        step(grads, number)
        after_steps.append([param.detach().clone() for param in params])
        if not all(bool(param.isfinite().all()) for param in params):
            break
    return after_steps


def distance(own: Trajectory, expected: Trajectory) -> float:
    """Returns the greatest difference, relative to the largest finite weight.

    Infinite if values stop being finite at different places.
    """
    if len(own) != len(expected):
        return float("inf")
    pairs = [pair for steps in zip(own, expected, strict=True) for pair in zip(*steps, strict=True)]
    largest = greatest = 0.0
    for ours, theirs in pairs:
        finite = theirs.isfinite()
        if not torch.equal(finite, ours.isfinite()) or not torch.equal(
            ours[~finite].nan_to_num(nan=7.0), theirs[~finite].nan_to_num(nan=7.0)
        ):
            return float("inf")
        if finite.any():
            largest = max(largest, float(theirs[finite].abs().max()))
            greatest = max(greatest, float((ours - theirs)[finite].abs().max()))
    return greatest / largest if greatest else 0.0


def is_ill_conditioned(program: Program, initial: Sequence[Tensor], steps: int = 5) -> bool:
    """True if nudging the start exceeds the tolerance too.

    A nudge moves values by one unit in the last place.
    """
    expected = trajectory(plain, program, initial, steps)
    return any(distance(trajectory(plain, program, start, steps), expected) > TOLERANCE for start in _nudged(initial))


def _nudged(initial: Sequence[Tensor]) -> Iterable[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for direction in (torch.inf, -torch.inf):
        toward = [torch.full_like(values, direction) for values in initial]
        yield [torch.nextafter(values, t) for values, t in zip(initial, toward, strict=True)]
    for _ in range(6):
        yield [
            torch.where(
                torch.rand(values.shape, generator=generator) < 0.5,
                values,
                torch.nextafter(values, values.new_tensor(9)),
            )
            for values in initial
        ]
