"""Fingerprints: what a program does on a cheap probe, so that equivalent programs train once (paper, Appendix B)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nosbench_env.canonical import CanonicalForm, canonical_form
from nosbench_env.compiled.lowering import REDUCTIONS, live_code
from nosbench_env.compiled.probe_code import ProbeCode
from nosbench_env.compiled.probe_machine import LANES, ProbeMachine
from nosbench_env.functions import FUNCTIONS
from nosbench_env.probes import EARLY_BLOCKS, PFN_PROBE, STRESS, WRECKED, Probe, mild, probe_inputs
from nosbench_env.program import CONSTANTS, FIRST_WRITABLE_SLOT, GRAD, MAX_SLOTS, PARAM, STEP, Program, check_program
from nosbench_env.tasks.task import Status, loss_status
from nosbench_env.tasks.training import exact_arithmetic, subnormals_kept

Method = Literal["fingerprint", "paper"]
FINGERPRINT_VERSION = 1  # changes whenever fingerprints change

# The probe of the paper's code. Appendix B gives its form; the numbers are the code's.
_SEED, _DIMENSIONS, _SCALE = 42, 10, 0.1
PROXY_STEPS, PROXY_TARGET = 10, -0.5
_STEPS, _TARGET = PROXY_STEPS, np.float32(PROXY_TARGET)
_DECAY, _WEIGHT = 0.9, 0.1  # of the running average, which starts at 0
_ONE, _TWO = np.float32(1), np.float32(2)

# Above this mean absolute update of a tensor in its first 20 steps a training blows up, or nearly. Its losses then show
# a change in the last bit of an update within a few steps, so such programs are equal only if equal to the last bit.
_VIOLENT = 0.0123  # not a number that updates like to be
# The sums of other programs are rounded to 14 bits each. Programs whose updates differ by a factor of 1 + 1e-7, as with
# 0.1 * 0.1 for 0.01, then differ in one of the sums in 8 % of cases; with 1 + 1e-5 nearly always.
_BITS = 14
_VANISHING = 1e-8  # sums of up to 640 updates below are 0: such updates leave no trace in a training
_TOO_FEW = 6  # steps, in which a program that dies there has not shown what it would do where it lives
_SENSITIVE = 1e-3  # where single and double precision are further apart, rounding decides what a program does


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a program did on a probe. Programs with equal fingerprints are taken to be equivalent.

    Attributes:
        method: How it was taken, with a version: fingerprints of different methods never compare equal.
        status: "ok", or how its training diverges: programs that diverge in the same way share a fingerprint.
        value: What tells it from others; None if it diverges. For "paper" the running average of the proxy's loss.

    `str()` gives the stored form, exact to the last bit.
    """

    method: str
    status: Status
    value: float | str | None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.method}:{self.status}"
        return f"{self.method}:{self.value.hex() if isinstance(self.value, float) else self.value}"


def fingerprint(program: Program, method: Method = "fingerprint", probe: Probe = PFN_PROBE) -> Fingerprint:
    """Runs a program on a probe and says what came out.

    "fingerprint" runs the program's canonical form on parameters, gradients and steps like a task's, for 100 steps and
    some at the limits, and digests its updates. It computes in double precision and rounds to 14 bits, so that programs
    that differ in rounding alone are one. Those for which rounding decides what they do are equal only if equal to the
    last bit in single precision: where the two precisions disagree, and where updates are so large that training blows
    up. A program is diverged if in single precision a parameter is soon not finite, also with milder weights and
    gradients: within the first epoch where it ignores the gradient, since then the probe does what training does, and
    within the probe's `certain_steps` otherwise.

    "paper" is the proxy of the paper's code (Appendix B, eq. 1): ten steps on a loss of ten parameters, with no
    gradient clipping, in float32 on the CPU; the value is the running average of the loss, compared to the last bit.
    A program is diverged if a loss before one of the ten updates is not finite. Other processors may round
    differently, by about 1e-7, and then know equivalent programs under two fingerprints.

    Args:
        program: The program.
        method: "fingerprint" or "paper".
        probe: What "fingerprint" runs on: a task's `probe`; the paper's task's if none is named.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the method is unknown.
    """
    check_program(program)
    if method == "paper":
        return _paper_proxy(program)
    if method == "fingerprint":
        return probed(canonical_form(program), probe)
    raise ValueError(f"unknown fingerprint method {method!r}; known: 'fingerprint', 'paper'")


@lru_cache(maxsize=16384)
def probed(form: CanonicalForm, probe: Probe) -> Fingerprint:
    """The fingerprint of programs of this canonical form."""
    single, double, milder = _machines(probe)
    code = ProbeCode(form, single.num_steps)
    method = f"fingerprint-{FINGERPRINT_VERSION}-{probe.name}"

    def run(
        machine: ProbeMachine, steps: int, *left_out: slice
    ) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        registers = code.registers(machine.num_lanes, _numel(probe), machine.dtype)
        with subnormals_kept():
            died, (sums, sizes) = machine.run(code.code, code.starts, code.without(*left_out), registers, steps)
        return died, sums, sizes

    died, rough, sizes = run(single, single.num_steps, WRECKED)
    certain = probe.certain_until(form.behaviour == "gradient-based")
    if 0 < died <= certain and run(milder, certain)[0]:
        return Fingerprint(method, "nan", None)
    if 0 < died <= _TOO_FEW:
        return Fingerprint(method, "ok", f"form-{form.digest}")
    exact = bool((sizes > _VIOLENT * single.total_coefficients)[:EARLY_BLOCKS].any())
    if not exact:
        died_too, sums, _ = run(double, died - 1 if died else double.num_steps, WRECKED)
        with np.errstate(all="ignore"):
            apart = np.abs(rough - sums) > _SENSITIVE * (np.abs(sums) + _VANISHING)
        exact = bool(died_too or apart.any() or not np.isfinite(sums).all())
    if not exact:
        value = _digest(_rounded(sums), died)
    else:
        died, rough, _ = run(single, single.num_steps, STRESS)
        # How a reduction rounds depends on the real size of a tensor: other reductions make another program.
        reductions = sorted({op for op, _, _ in form.nodes} & {*REDUCTIONS})
        value = f"single-{_digest(rough, died, *reductions)}"
    return Fingerprint(method, "ok", value)


def _rounded(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums to `_BITS` bits each."""
    mantissa, exponent = np.frexp(sums)
    rounded: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(mantissa, _BITS)), exponent - _BITS)
    rounded[np.abs(sums) < _VANISHING] = 0.0
    rounded += 0.0  # no minus zero
    return rounded


def _digest(sums: NDArray[np.float64], died: int, *words: str) -> str:
    text = f"{died} {' '.join(words)}".encode()
    return blake2b(sums.tobytes() + text, digest_size=16).hexdigest()


@cache
def _machines(probe: Probe) -> tuple[ProbeMachine, ProbeMachine, ProbeMachine]:
    """Machines of single and of double precision, and one of single precision with mild inputs."""
    inputs = probe_inputs(probe)
    return ProbeMachine(inputs, "float"), ProbeMachine(inputs, "double"), ProbeMachine(mild(probe, inputs), "float")


@cache
def _numel(probe: Probe) -> NDArray[np.float64]:
    """The number of elements of each element's tensor."""
    return np.repeat([float(tensor.numel) for tensor in probe.tensors], LANES)


@lru_cache(maxsize=4096)
def _paper_proxy(program: Program) -> Fingerprint:
    """What `ProgramOptimizer` and autograd would do on the probe, to the last bit, without their overhead."""
    code = [(FUNCTIONS[i.function].torch_code, i.inputs, i.output) for i in live_code(program)[0]]
    average = 0.0
    # numpy would warn where torch does not: the loss of a diverging program overflows.
    with exact_arithmetic(), torch.inference_mode(), np.errstate(all="ignore"):
        a, b, start, fixed_slots, steps = _probe()
        x, gradient, slope = start.clone(), torch.empty_like(start), torch.empty(())
        x_row, gradient_row, a_transposed = x.unsqueeze(0), gradient.unsqueeze(0), a.t()  # views, for torch.mm
        memory = [*fixed_slots]
        for step in steps:
            y = torch.mm(x_row, a) + b
            norm = torch.linalg.vector_norm(y)
            z = np.float32(norm.item())
            square = z * z
            fraction = square / (square + _ONE)
            value = float(fraction - _TARGET)  # not negative, so it is its own absolute value
            if not math.isfinite(value):
                return Fingerprint("paper-1", loss_status(value), None)
            average = _DECAY * average + _WEIGHT * value
            if step is steps[-1]:
                break  # no loss follows that its update could change

            # The gradient, in the order of operations of autograd, which decides how it rounds: numerator and
            # denominator of the fraction each contribute to the derivative by z.
            denominator = square + _ONE
            slope.fill_(float(_ONE / denominator * (_TWO * z) - fraction / denominator * (_TWO * z)))
            direction = y / norm if z else torch.zeros_like(y)
            torch.mm(slope * direction, a_transposed, out=gradient_row)

            memory[PARAM], memory[GRAD], memory[STEP] = x, gradient, step
            update = fixed_slots[FIRST_WRITABLE_SLOT]  # zero
            for function, inputs, output in code:
                update = memory[output] = function(*[memory[slot] for slot in inputs])
            x.sub_(update)
    return Fingerprint("paper-1", "ok", average)


@cache
def _probe() -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """The loss's constants, the parameter at the start, the memory before the first step, and the step numbers."""
    a, b, start = proxy_tensors(_SEED)
    memory = [torch.tensor(0.0)] * MAX_SLOTS
    for slot, value in CONSTANTS.items():
        memory[slot] = torch.tensor(value)
    return a, b, start, memory, [torch.tensor(float(step)) for step in range(1, _STEPS + 1)]


def proxy_tensors(seed: int = _SEED) -> tuple[Tensor, Tensor, Tensor]:
    """What the paper's proxy draws: A `(10, 10)`, B `(10,)` and the parameter at the start, `(10,)`."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(_DIMENSIONS, _DIMENSIONS, generator=generator) * _SCALE
    b = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    start = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    return a, b, start
