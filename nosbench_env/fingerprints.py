"""Fingerprints: what a program does on a cheap probe, so that equivalent programs train once (paper, Appendix B)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import torch
from torch import Tensor

from nosbench_env.optimizer import ProgramOptimizer
from nosbench_env.program import Program
from nosbench_env.tasks.task import Status, loss_status
from nosbench_env.tasks.training import exact_arithmetic

Method = Literal["paper"]

# The probe of the paper's code. Appendix B gives its form; the numbers are the code's.
_SEED, _DIMENSIONS, _SCALE = 42, 10, 0.1
_STEPS, _TARGET = 10, -0.5
_DECAY, _WEIGHT = 0.9, 0.1  # of the running average, which starts at 0


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
    average = 0.0
    with exact_arithmetic():
        a, b, start = _probe()
        x = torch.nn.Parameter(start.clone())
        optimizer = ProgramOptimizer([x], program)
        for _ in range(_STEPS):
            optimizer.zero_grad()
            z = torch.linalg.vector_norm(x @ a + b)
            loss = (z**2 / (z**2 + 1) - _TARGET).abs()
            value = loss.item()
            if not math.isfinite(value):
                return Fingerprint("paper-1", loss_status(value), None)
            average = _DECAY * average + _WEIGHT * value
            loss.backward()
            optimizer.step()
    return Fingerprint("paper-1", "ok", average)


@cache
def _probe() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(_SEED)
    a = torch.randn(_DIMENSIONS, _DIMENSIONS, generator=generator) * _SCALE
    b = torch.randn(_DIMENSIONS, generator=generator) * _SCALE
    return a, b, torch.randn(_DIMENSIONS, generator=generator) * _SCALE
