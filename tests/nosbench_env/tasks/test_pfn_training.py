"""The fast training paths against the plain one, and populations against single models."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_kernels import COMPILER, EmulatedKernels

from nosbench_env import KNOWN_PROGRAMS, Curve, Program, ProgramOptimizer, make_task
from nosbench_env.tasks import pfn, pfn_training
from nosbench_env.tasks.pfn import PFNTask
from nosbench_env.tasks.pfn_training import Block, CpuEngine, Engine, GpuEngine, train_population
from nosbench_env.tasks.task import Progress

CPU = torch.device("cpu")
# Sets the parameters to NaN in the update of step 11: log(1.1 - 0.1 * step) turns NaN there.
DIES_AT_11 = Program.parse(
    "r9 = mul(0.1, step); r10 = add(1.0, 0.1); r10 = sub(r10, r9); r9 = log(r10); r9 = mul(r9, 1e-06)"
)
DIES_AT_11_TRAINING = Program((*DIES_AT_11, *Program.parse("r11 = mul(grad, 0.001); r9 = add(r9, r11)")))
DIES_AT_ONCE = Program.parse("r9 = log(r10); r10 = add(r10, grad); r11 = mul(r9, 0.001)")
REDUCES = Program.parse(
    "r9 = norm(grad); r10 = add(r9, 0.001); r11 = div(grad, r10); r12 = mean(r11); r13 = sub(r11, r12)"
    "; r14 = mul(r13, 0.001); r14 = mul(r14, 0.1)"
)
DECAYS = Program.parse("r9 = mul(param, 0.001)")
POPULATION = [KNOWN_PROGRAMS["AdamW"], DIES_AT_11_TRAINING, KNOWN_PROGRAMS["SGD"], DIES_AT_ONCE, REDUCES, DECAYS]
STEPS_PER_EPOCH = 8
# For losses of the first steps, of up to 5 nats. Matrix products of other shapes and layouts sum up in another order,
# which depends on the processor; measured with three instruction sets, this changes losses by up to 2.4e-7.
LOSS_TOLERANCE = 1e-6


def short_task(**arguments: Any) -> PFNTask:
    """The PFN task with epochs of 8 steps; everything else as it is."""
    task = make_task("pfn", "cpu")
    assert isinstance(task, PFNTask)
    task.steps_per_epoch = STEPS_PER_EPOCH
    for name, value in arguments.items():
        setattr(task, name, value)
    return task


def curves_of(engine: Engine, epochs: int = 2) -> dict[int, Curve]:
    curves: dict[int, Curve] = {}
    train_population(
        engine,
        len(POPULATION),
        epochs,
        STEPS_PER_EPOCH,
        last_epoch_only=False,
        on_step=None,
        on_curve=curves.__setitem__,
    )
    return curves


@pytest.fixture(scope="module")
def singles() -> list[Curve]:
    """Each program of the population, trained alone."""
    return short_task().train_programs(POPULATION, epochs=2)


@pytest.mark.parametrize("name", [*KNOWN_PROGRAMS, "reduces", "decays"])
def test_first_steps_are_those_of_the_plain_path(name: str) -> None:
    """Unless changing the start by one unit in the last place moves the plain path as far."""
    program = {**KNOWN_PROGRAMS, "reduces": REDUCES, "decays": DECAYS}[name]
    task = short_task(steps_per_epoch=11)
    make_optimizer = partial(ProgramOptimizer, program=program)
    plain = task.train(make_optimizer, epochs=1).step_losses
    fast = task.train_programs([program], epochs=1)[0].step_losses
    if np.abs(fast - plain).max() <= LOSS_TOLERANCE:
        return
    assert moves_when_nudged(task, make_optimizer, plain), f"{name} is off by {np.abs(fast - plain).max()}"
    assert name in ("SignSGD", "HeroLion", "RMSprop", "Adagrad")  # divide by what may be next to nothing, or take signs


def moves_when_nudged(task: PFNTask, make_optimizer: Any, plain: Any) -> bool:
    """True if one of some changes of the start by one unit in the last place moves the plain path."""

    def moves(direction: float, share: float) -> bool:
        def nudged(seed: int) -> Any:
            model = pfn_training.initial_model(seed)
            generator = torch.Generator().manual_seed(0)
            for param in model.parameters():
                moved = torch.nextafter(param.data, torch.full_like(param.data, direction))
                chosen = torch.rand(param.shape, generator=generator) < share
                param.data = torch.where(chosen & (param.data != 0), moved, param.data)
            return model

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pfn, "initial_model", nudged)
            return bool(np.abs(task.train(make_optimizer, epochs=1).step_losses - plain).max() > LOSS_TOLERANCE)

    return any(moves(direction, share) for share in (1.0, 0.5, 0.1) for direction in (torch.inf, -torch.inf))


def check_losses(curve: Curve, expected: Curve, tolerance: float = LOSS_TOLERANCE) -> None:
    np.testing.assert_array_equal(np.isnan(curve.step_losses), np.isnan(expected.step_losses))
    np.testing.assert_allclose(curve.step_losses, expected.step_losses, rtol=0, atol=tolerance)
    assert curve.stopped_at == expected.stopped_at


def test_a_population_on_the_cpu_is_its_models_one_by_one(singles: list[Curve]) -> None:
    curves = curves_of(CpuEngine(POPULATION, 0, 16))
    for number, expected in enumerate(singles):
        check_losses(curves[number], expected)


@pytest.mark.parametrize("kernels", [False, True], ids=["torch's operations", "kernels"])
def test_the_gpus_engine_run_on_the_cpu_agrees(kernels: bool, singles: list[Curve], tmp_path: Path) -> None:
    if kernels and COMPILER is None:
        pytest.skip("needs g++ to run the GPU's kernels on the CPU")
    # One thread sums a tensor's squares in a row here, which rounds more coarsely than a GPU's many.
    tolerance = 1e-5 if kernels else LOSS_TOLERANCE
    engine = GpuEngine(POPULATION, 0, 16, CPU, EmulatedKernels(tmp_path) if kernels else None)
    engine.block_size = 3  # so that models die within a block, and the last one is shorter
    curves = curves_of(engine)
    for number, expected in enumerate(singles):
        check_losses(curves[number], expected, tolerance)


def test_train_programs_splits_populations_and_keeps_the_order(singles: list[Curve]) -> None:
    task = short_task(population=2)
    reported: dict[int, Curve] = {}
    progress: list[Progress] = []
    curves = task.train_programs(POPULATION, epochs=2, on_curve=reported.__setitem__, on_step=progress.append)
    assert sorted(reported) == list(range(len(POPULATION)))
    assert {(p.index, p.programs) for p in progress} == {(index, len(POPULATION)) for index in range(len(POPULATION))}
    assert max(p.step for p in progress if p.index == 0) == 16
    assert max(p.step for p in progress if p.index == 1) == 11
    for number, expected in enumerate(singles):
        assert curves[number] is reported[number]
        check_losses(curves[number], expected)


def test_a_program_that_dies_costs_no_further_step() -> None:
    progress: list[Progress] = []
    (curve,) = short_task().train_programs([DIES_AT_11_TRAINING], epochs=20, on_step=progress.append)
    assert curve.stopped_at == 11
    assert progress[-1].step == len(progress) == 11
    assert np.isfinite(curve.step_losses.ravel()[:11]).all()
    assert np.isnan(curve.step_losses.ravel()[11:]).all()


@pytest.mark.parametrize("program", [DECAYS, Program()], ids=["decays", "empty"])
def test_programs_without_gradient_give_the_last_epoch_alone_if_that_is_asked(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = short_task()
    (whole,) = task.train_programs([program], epochs=3)
    assert (whole.first_epoch, whole.step_losses.shape) == (0, (3, 8))
    plain = task.train(partial(ProgramOptimizer, program=program), epochs=3)
    np.testing.assert_allclose(whole.step_losses, plain.step_losses, rtol=0, atol=LOSS_TOLERANCE)

    forwards = []
    monkeypatch.setattr(
        pfn_training.PFNPopulation, "loss_and_gradients", lambda *_: pytest.fail("a backward pass for nothing")
    )
    forward = pfn_training.PFNPopulation.loss
    monkeypatch.setattr(
        pfn_training.PFNPopulation, "loss", lambda *arguments: forwards.append(1) or forward(*arguments)
    )
    (last,) = task.train_programs([program], epochs=3, last_epoch_only=True)
    assert len(forwards) == 8
    assert (last.first_epoch, last.step_losses.shape, last.stopped_at) == (2, (1, 8), None)
    np.testing.assert_array_equal(last.step_losses[0], whole.step_losses[2])


def test_programs_with_gradient_give_all_epochs_even_so() -> None:
    (curve,) = short_task().train_programs([KNOWN_PROGRAMS["SGD"]], epochs=2, last_epoch_only=True)
    assert (curve.first_epoch, curve.step_losses.shape) == (0, (2, 8))


def test_a_death_before_the_last_epoch_is_known_without_a_loss() -> None:
    (curve,) = short_task().train_programs([DIES_AT_11], epochs=4, last_epoch_only=True)
    assert (curve.first_epoch, curve.stopped_at) == (3, 11)
    assert np.isnan(curve.step_losses).all()


def test_out_of_memory_halves_the_population_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Small(CpuEngine):
        """A device with room for two, which it finds out in the middle of training."""

        def run(self, start: int, count: int, *, losses: bool) -> Block:
            if start == 0:
                asked.append(len(self._programs))
            if start == 5 and len(self._programs) > 2:
                raise torch.OutOfMemoryError("no room")
            return super().run(start, count, losses=losses)

    monkeypatch.setattr(pfn, "engine_for", lambda programs, seed, steps, device: Small(programs, seed, steps))
    programs = [DIES_AT_ONCE, *(Program.parse(f"r9 = mul(grad, {lr})") for lr in (0.1, 0.01, 0.001, 1e-6, 0.5))]
    reported: list[int] = []
    task = short_task(population=6)
    curves = task.train_programs(programs, epochs=1, on_curve=lambda index, _: reported.append(index))
    assert asked[:3] == [6, 3, 1]
    assert sorted(reported) == list(range(6))  # each once, also the one that had died before memory ran out
    for curve, expected in zip(curves, short_task().train_programs(programs, epochs=1), strict=True):
        check_losses(curve, expected)


def test_out_of_memory_with_a_single_program_is_the_users_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(CpuEngine):
        def run(self, start: int, count: int, *, losses: bool) -> Block:
            raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(pfn, "engine_for", lambda programs, seed, steps, device: Full(programs, seed, steps))
    with pytest.raises(torch.OutOfMemoryError):
        short_task(population=4).train_programs([DECAYS, DECAYS], epochs=1)


@pytest.mark.gpu
@pytest.mark.parametrize("population", [1, len(POPULATION)])
def test_gpu_populations_are_the_cpus_models(population: int, singles: list[Curve]) -> None:
    task = PFNTask("cuda", population=population)
    task.steps_per_epoch = STEPS_PER_EPOCH
    for curve, expected in zip(task.train_programs(POPULATION, epochs=2), singles, strict=True):
        check_losses(curve, expected, 1e-5)
