import pytest
import torch
from emulated_kernels import EmulatedKernels

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer
from nosbench_env.execution.fused_cpu import Memory
from nosbench_env.execution.gpu.bytecode import MAX_SCALARS, TooLarge
from nosbench_env.execution.gpu.fused_gpu import FusedGpuProgram
from nosbench_env.language.program import Instruction

ADAMW = KNOWN_PROGRAMS["AdamW"]
ON_GPU = {name: KNOWN_PROGRAMS[name] for name in ("AdamW", "Adadelta", "HeroLion", "Incumbent")} | {
    "scalars": Program.parse("r10 = norm(grad); r9 = add(r9, r10); r11 = size(grad); r12 = div(grad, r9)")
}


def test_parameters_that_move_in_memory_are_found_again(kernels: EmulatedKernels) -> None:
    runner, memory = FusedGpuProgram(ADAMW, kernels), Memory()
    moving, staying = torch.ones(40), torch.ones(40)
    other, other_memory = FusedGpuProgram(ADAMW, kernels), Memory()
    for step in range(1, 4):
        grad = torch.full((40,), 0.1 * step)
        moving, memory = moving.clone(), {slot: value.clone() for slot, value in memory.items()}
        runner.step([moving], [grad], [memory], step)
        other.step([staying], [grad], [other_memory], step)
    assert torch.equal(moving, staying)


def test_the_update_is_multiplied_by_lr(kernels: EmulatedKernels) -> None:
    param, grad = torch.zeros(40), torch.arange(40.0)
    FusedGpuProgram(Program.parse("r9 = mul(grad, 1.0)"), kernels).step([param], [grad], [Memory()], 1, lr=0.5)
    assert torch.equal(param, -0.5 * grad)


def test_a_memory_that_does_not_fit_is_refused(kernels: EmulatedKernels) -> None:
    runner, memory = FusedGpuProgram(ADAMW, kernels), Memory()
    param, grad = torch.ones(3), torch.ones(3)
    runner.step([param], [grad], [memory], 1)
    memory[12] = torch.ones(2)
    with pytest.raises(ValueError, match=r"slot 12 .*shape \(2,\) on cpu, expected torch\.float32 of shape \(3,\)"):
        runner.step([param], [grad], [memory], 2)


def test_a_program_that_is_too_large_is_refused_before_the_first_step(kernels: EmulatedKernels) -> None:
    scalars = [Instruction("add", (2, 3), 9)] + [Instruction("add", (9, 3), 9)] * MAX_SCALARS
    with pytest.raises(TooLarge):
        FusedGpuProgram(Program((*scalars, Instruction("mul", (9, 1), 10))), kernels)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_fused_steps_on_a_gpu_are_the_cpus(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    on_cpu = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 40), (7,), ()]]
    on_gpu = [torch.nn.Parameter(param.detach().cuda()) for param in on_cpu]
    optimizers = [ProgramOptimizer(on_cpu, ON_GPU[name]), ProgramOptimizer(on_gpu, ON_GPU[name], fused=True)]
    for _ in range(6):
        for own, other in zip(on_cpu, on_gpu, strict=True):
            own.grad = torch.randn(own.shape, generator=generator)
            other.grad = own.grad.cuda()
        for optimizer in optimizers:
            optimizer.step()
    for expected, param in zip(on_cpu, on_gpu, strict=True):
        torch.testing.assert_close(param.cpu(), expected, rtol=1e-5, atol=1e-6)
