"""The paper's proxy, which identifies programs there (Appendix B)."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.identity.fingerprint import Fingerprint
from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.live_code import live_code
from nosbench_env.language.program import CONSTANTS, FIRST_WRITABLE_SLOT, GRAD, MAX_SLOTS, PARAM, STEP, Program
from nosbench_env.language.status import loss_status

# Appendix B gives the form of the proxy; the numbers are those of the paper's code.
PROXY_STEPS, PROXY_TARGET = 10, -0.5
_SEED, _DIMENSIONS, _SCALE = 42, 10, 0.1
_DECAY, _WEIGHT = 0.9, 0.1  # of the running average, which starts at 0
_TARGET, _ONE, _TWO = np.float32(PROXY_TARGET), np.float32(1), np.float32(2)


@lru_cache(maxsize=4096)
def paper_fingerprint(program: Program) -> Fingerprint:
    """Computes the fingerprint, bit for bit as `ProgramOptimizer` and autograd would."""
    code = [(FUNCTIONS[i.function].torch_code, i.inputs, i.output) for i in live_code(program)[0]]
    average = 0.0
    # The loss of a diverging program overflows, of which numpy would warn.
    with exact_arithmetic(), torch.inference_mode(), np.errstate(all="ignore"):
        a, b, start, fixed_slots, steps = _proxy()
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

            # The gradient, in autograd's order of operations, which decides the rounding. Numerator and denominator
            # of the fraction each contribute to the derivative by z.
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
def _proxy() -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
    """Returns the proxy's tensors, initial memory and step numbers."""
    a, b, start = proxy_tensors(_SEED)
    memory = [torch.tensor(0.0)] * MAX_SLOTS
    for slot, value in CONSTANTS.items():
        memory[slot] = torch.tensor(value)
    return a, b, start, memory, [torch.tensor(float(step)) for step in range(1, PROXY_STEPS + 1)]


def proxy_tensors(seed: int = _SEED) -> tuple[Tensor, Tensor, Tensor]:
    """Draws A `(10, 10)`, B `(10,)` and the initial parameter `(10,)`."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(_DIMENSIONS, _DIMENSIONS, generator=generator) * _SCALE
    b = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    start = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    return a, b, start
