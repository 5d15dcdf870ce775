"""Fingerprints: what a program does on a cheap probe, so that equivalent programs train once (paper, Appendix B)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nosbench_env.compiled.lowering import live_code
from nosbench_env.functions import FUNCTIONS
from nosbench_env.program import CONSTANTS, FIRST_WRITABLE_SLOT, GRAD, MAX_SLOTS, PARAM, STEP, Program
from nosbench_env.tasks.task import Status, loss_status
from nosbench_env.tasks.training import exact_arithmetic

Method = Literal["paper"]

# The probe of the paper's code. Appendix B gives its form; the numbers are the code's.
_SEED, _DIMENSIONS, _SCALE = 42, 10, 0.1
_STEPS, _TARGET = 10, np.float32(-0.5)
_DECAY, _WEIGHT = 0.9, 0.1  # of the running average, which starts at 0
_ONE, _TWO = np.float32(1), np.float32(2)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a program did on a probe. Programs with equal fingerprints are taken to be equivalent.

    Attributes:
        method: How it was taken, with a version: fingerprints of different methods never compare equal.
        status: "ok", or how the probe's loss diverged. Programs that diverge in the same way share a fingerprint.
        value: The weighted running average of the probe's loss; None if it diverged.

    `str()` gives the stored form, exact to the last bit.
    """

    method: str
    status: Status
    value: float | None

    def __str__(self) -> str:
        return f"{self.method}:{self.status if self.value is None else self.value.hex()}"


def fingerprint(program: Program, method: Method = "paper") -> Fingerprint:
    """Runs a program on a probe and says what came out.

    "paper" is the proxy of the paper's code (Appendix B, eq. 1): ten steps on a loss of ten parameters, with no
    gradient clipping, in float32 on the CPU; the value is the running average of the loss, compared to the last bit.
    A program is diverged if a loss before one of the ten updates is not finite. Other processors may round
    differently, by about 1e-7, and then know equivalent programs under two fingerprints.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the method is unknown.
    """
    if not isinstance(program, Program):
        raise TypeError(
            f"program must be a Program, such as KNOWN_PROGRAMS['Adam'] or Program.parse(text), "
            f"got {type(program).__name__}"
        )
    if method != "paper":
        raise ValueError(f"unknown fingerprint method {method!r}; known: 'paper'")
    return _paper_proxy(program)


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
    generator = torch.Generator().manual_seed(_SEED)
    a = torch.randn(_DIMENSIONS, _DIMENSIONS, generator=generator) * _SCALE
    b = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    start = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    memory = [torch.tensor(0.0)] * MAX_SLOTS
    for slot, value in CONSTANTS.items():
        memory[slot] = torch.tensor(value)
    return a, b, start, memory, [torch.tensor(float(step)) for step in range(1, _STEPS + 1)]
