from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import FUNCTIONS, Probe, ProbeTensor, Program, ProgramOptimizer, canonical_form
from nosbench_env.identity.probe import probe_inputs
from nosbench_env.identity.probe_code import ProbeCode
from nosbench_env.identity.probe_machine import LANES, ProbeMachine


def probe_of(*tensors: ProbeTensor, certain_steps: int = 0) -> Probe:
    return Probe("test-1", tensors, steps_per_epoch=100, certain_steps=certain_steps)


def by_optimizer(program: Program, probe: Probe, steps: int, dtype: torch.dtype) -> np.ndarray:
    """Computes the machine's sums by `ProgramOptimizer` on tensors of eight elements."""
    inputs = probe_inputs(probe)
    rows = inputs.weights[0].reshape(-1, LANES)
    params = [torch.nn.Parameter(torch.tensor(row, dtype=dtype)) for row in rows]
    optimizer = ProgramOptimizer(params, program)
    sums = np.zeros((inputs.blocks.max() + 1, len(params)))
    for step in range(steps):
        for index, param in enumerate(params):
            param.grad = torch.tensor(inputs.gradients[step].reshape(-1, LANES)[index], dtype=dtype)
        before = [param.detach().clone() for param in params]
        optimizer.step()
        for index, (param, old) in enumerate(zip(params, before, strict=True)):
            update = (old - param.detach()).double().numpy()
            with np.errstate(invalid="ignore"):
                sums[inputs.blocks[step], index] += update @ inputs.coefficients[step].reshape(-1, LANES)[index]
    return sums


EIGHT = probe_of(ProbeTensor(8, (-1.0, 1.0), 0.1), ProbeTensor(8, (0.0, 0.0), 0.01, zero_element=True))


def test_the_machine_computes_what_the_optimizer_does(conformance: dict[str, Any]) -> None:
    """In both precisions, on tensors of as many elements as the machine's."""
    programs = [Program.from_json(row["program"]) for row in conformance["rows"]]
    compared = 0
    for real, dtype, tolerance in (("float", torch.float32, 2e-4), ("double", torch.float64, 1e-6)):
        machine = ProbeMachine(probe_inputs(EIGHT), real)
        for program in programs:
            code = ProbeCode(canonical_form(program), machine.num_steps)
            registers = code.registers(machine.num_lanes, np.full(2 * LANES, 8.0), machine.dtype)
            died, (sums, _) = machine.run(code.code, code.starts, code.ends, registers, 3)
            expected = by_optimizer(program, EIGHT, 3, dtype)
            # The optimizer's update is a difference of parameters, which limits its precision. The machine takes
            # functions from the C library, torch its own, which depend on the processor.
            assert (died > 0) == (not np.isfinite(expected).all()), program
            if not died:
                compared += 1
                scale = np.abs(expected) + np.abs(sums) + 1.0
                assert (np.abs(expected - sums) <= tolerance * scale).all(), (program, expected, sums)
    assert compared > 400


def test_every_function_is_computed(conformance: dict[str, Any]) -> None:
    machine = ProbeMachine(probe_inputs(EIGHT), "double")
    for function in FUNCTIONS.values():
        inputs = ", ".join(("r10", "r11", "r12")[: function.arity])
        program = Program.parse(
            f"r10 = mul(grad, 0.5); r11 = mul(param, 0.5); r12 = add(param, grad); r9 = {function.name}({inputs}); "
            "r9 = minimum(r9, 1.0); r13 = interpolate(r13, grad, 0.5); r9 = mul(r9, r13)"
        )
        code = ProbeCode(canonical_form(program), machine.num_steps)
        registers = code.registers(machine.num_lanes, np.full(2 * LANES, 8.0), np.float64)
        died, (sums, _) = machine.run(code.code, code.starts, code.ends, registers, 5)
        expected = by_optimizer(program, EIGHT, 5, torch.float64)
        assert (died > 0) == (not np.isfinite(expected).all()), function.name
        assert died or np.allclose(sums, expected, rtol=1e-9, atol=1e-12), function.name


def test_tensors_stand_for_larger_ones() -> None:
    """Norms and sizes are those of the larger tensor."""
    large = probe_of(ProbeTensor(800, (0.5, 0.5), 0.1))
    size, norm = Program.parse("r9 = size(grad)"), Program.parse("r9 = norm(param)")
    for program, expected in ((size, 800.0), (norm, 0.5 * 800**0.5)):
        form = canonical_form(program)
        machine = ProbeMachine(probe_inputs(large), "double")
        code = ProbeCode(form, machine.num_steps)
        registers = code.registers(machine.num_lanes, np.full(LANES, 800.0), np.float64)
        _, (sums, _) = machine.run(code.code, code.starts, code.ends, registers, 1)
        assert sums[0, 0] == pytest.approx(expected * probe_inputs(large).coefficients[0].sum())
