"""Memory, chunks and compiled steps of fused programs.

Results are compared with the definition in test_equality.py.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.execution import fused_cpu
from nosbench_env.execution.fused_cpu import FusedCpuProgram, Memory

ADAMW = KNOWN_PROGRAMS["AdamW"]
NORMALISED = Program.parse("r9 = norm(grad); r10 = div(grad, r9); r11 = std(r10); r12 = mul(r10, r11)")


def tensors(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in sizes]


def stepped(runner: FusedCpuProgram, params: Sequence[Tensor], steps: int = 2) -> list[Tensor]:
    own, memories = [param.clone() for param in params], [Memory() for _ in params]
    for step in range(1, steps + 1):
        assert runner.step(own, [param.sin() for param in own], memories, step)
    return own


@pytest.mark.parametrize("program", [ADAMW, NORMALISED], ids=["AdamW", "normalised"])
def test_tensors_stepped_together_or_in_chunks_get_the_same_results(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tensors(5, 40, 17, 300)
    together = stepped(FusedCpuProgram(program), params)
    monkeypatch.setattr(fused_cpu, "_CHUNK_ELEMENTS", 50)
    in_chunks = stepped(FusedCpuProgram(program), params)
    alone = [stepped(FusedCpuProgram(program), [param])[0] for param in params]
    for a, b, c in zip(together, in_chunks, alone, strict=True):  # bit for bit: each tensor's computation is the same
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_a_parameter_that_is_not_finite_is_reported() -> None:
    params, grads = tensors(3, 40), tensors(3, 40)
    runner, memories = FusedCpuProgram(Program.parse("r9 = mul(grad, 1.0)")), [Memory(), Memory()]
    assert runner.step(params, grads, memories, 1)
    grads[1][39] = torch.inf
    assert not runner.step(params, grads, memories, 2)
    assert not params[1][39].isfinite()


def test_no_tensors_are_finite() -> None:
    assert FusedCpuProgram(ADAMW).step([], [], [], 1)


def test_gradients_are_multiplied_by_their_scale() -> None:
    program = Program.parse("r9 = mul(grad, 0.5)")
    (param,), (grad,) = tensors(20), tensors(20)
    expected = param - grad * 0.25 * 0.5
    FusedCpuProgram(program, scaled_gradient=True).step([param], [grad], [Memory()], 1, grad_scale=torch.tensor(0.25))
    assert torch.equal(param, expected)  # all products are exact


def test_a_program_that_reads_no_gradient_needs_none() -> None:
    (param,) = tensors(20)
    expected = param - param * 0.5
    assert FusedCpuProgram(Program.parse("r9 = mul(param, 0.5)")).step([param], None, [Memory()], 1)
    assert torch.equal(param, expected)


def test_a_compiled_step_dropped_for_others_is_compiled_again() -> None:
    # Each step hands the gradient one slot further, so the kinds of the slots, and the code, change for seven steps.
    chain = "; ".join(f"r{slot} = mul(r{slot - 1}, 0.5)" for slot in range(16, 9, -1))
    program = Program.parse(f"{chain}; r9 = mul(grad, 1.0); r17 = add(r16, grad)")
    runner = FusedCpuProgram(program)
    assert len(runner.codes.steps) > fused_cpu._MAX_COMPILED_STEPS
    params = tensors(20)
    first = stepped(runner, params, 9)
    assert torch.equal(stepped(runner, params, 9)[0], first[0])


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (None, "nothing"),
        (torch.ones(2), r"torch\.float32 of shape \(2,\)"),
        (torch.ones(3, dtype=torch.float64), r"torch\.float64 of shape \(3,\)"),
        (torch.ones(3, 1), r"torch\.float32 of shape \(3, 1\)"),
    ],
    ids=["nothing", "shape", "precision", "dimensions"],
)
def test_a_memory_that_does_not_fit_is_refused_before_anything_is_read(value: Tensor | None, content: str) -> None:
    (param,), (grad,), memory = tensors(3), tensors(3), Memory()
    runner = FusedCpuProgram(ADAMW)
    runner.step([param], [grad], [memory], 1)
    before = param.clone()
    if value is None:
        del memory[12]
    else:
        memory[12] = value
    with pytest.raises(ValueError, match=rf"slot 12 .*holds {content}.*expected torch\.float32 of shape \(3,\)"):
        runner.step([param], [grad], [memory], 2)
    assert torch.equal(param, before)


def test_an_array_where_a_scalar_belongs_is_refused() -> None:
    runner = FusedCpuProgram(Program.parse("r9 = add(r9, 0.1); r10 = mul(grad, r9)"))
    (param,), (grad,) = tensors(3), tensors(3)
    with pytest.raises(ValueError, match=r"\(3,\) in slot 9, expected a scalar"):
        runner.step([param], [grad], [{9: torch.ones(3)}], 1)
