"""Optimizers from the literature as programs.

The first ten are those of the paper's code, the last is the paper's incumbent (Appendix E).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nosbench_env.language.program import Program

# Hyperparameters are PyTorch's defaults if the constants can express them. SGD and SignSGD have momentum 0 (r9 = 0.1 -
# 0.1), as in the paper's code.
_SOURCES = {
    "SGD": """
        r9 = sub(0.1, 0.1)                  # momentum: 0
        r12 = mul(r12, r9)
        r12 = add(grad, r12)
        r19 = mul(r12, 0.01)                # learning rate
    """,
    "SignSGD": """
        r9 = sub(0.1, 0.1)                  # momentum: 0
        r12 = mul(r12, r9)
        r12 = add(grad, r12)
        r19 = sign(r12)
        r19 = mul(r19, 0.01)                # learning rate
    """,
    "Adam": """
        r11 = square(grad)
        r9 = sub(1.0, 0.1)                  # beta1
        r10 = sub(1.0, 0.001)               # beta2
        r12 = interpolate(r12, grad, r9)    # first moment
        r13 = interpolate(r13, r11, r10)    # second moment
        r14 = bias_correct(r12, r9, step)
        r15 = bias_correct(r13, r10, step)
        r16 = mul(0.01, 1e-06)              # epsilon
        r17 = sqrt(r15)
        r17 = add(r17, r16)
        r19 = div(r14, r17)
        r19 = mul(r19, 0.001)               # learning rate
    """,
    # Weight decay is 0.01, as in the paper's code. The listing in Appendix A multiplies by r16 (1e-8) instead.
    "AdamW": """
        r11 = square(grad)
        r9 = sub(1.0, 0.1)                  # beta1
        r10 = sub(1.0, 0.001)               # beta2
        r12 = interpolate(r12, grad, r9)    # first moment
        r13 = interpolate(r13, r11, r10)    # second moment
        r14 = bias_correct(r12, r9, step)
        r15 = bias_correct(r13, r10, step)
        r16 = mul(0.01, 1e-06)              # epsilon
        r17 = sqrt(r15)
        r17 = add(r17, r16)
        r19 = div(r14, r17)
        r18 = mul(param, 0.01)              # weight decay
        r19 = add(r19, r18)
        r19 = mul(r19, 0.001)               # learning rate
    """,
    "RMSprop": """
        r10 = sub(1.0, 0.01)                # alpha
        r11 = square(grad)
        r13 = interpolate(r13, r11, r10)    # second moment
        r16 = mul(0.01, 1e-06)              # epsilon
        r17 = sqrt(r13)
        r17 = add(r17, r16)
        r19 = div(grad, r17)
        r19 = mul(r19, 0.01)                # learning rate
    """,
    "Adagrad": """
        r11 = square(grad)
        r13 = add(r11, r13)                 # sum of squares
        r17 = sqrt(r13)
        r16 = mul(0.01, 1e-06)              # epsilon (PyTorch: 1e-10)
        r17 = add(r17, r16)
        r19 = div(grad, r17)
        r19 = mul(r19, 0.01)                # learning rate
    """,
    # Slot 20 lies outside the paper's 20-slot space; `SearchSpace.admit` renumbers it.
    "Adadelta": """
        r11 = square(grad)
        r10 = sub(1.0, 0.1)                 # rho
        r13 = interpolate(r13, r11, r10)    # mean squared gradient
        r14 = add(r12, 1e-06)
        r15 = add(r13, 1e-06)
        r17 = sqrt(r15)
        r16 = sqrt(r14)
        r19 = div(r16, r17)
        r19 = mul(r19, grad)
        r20 = square(r19)
        r12 = interpolate(r12, r20, r10)    # mean squared update
        r19 = mul(r19, 1.0)                 # learning rate
    """,
    "HeroLion": """
        r9 = sub(1.0, 0.1)                  # beta1
        r10 = sub(1.0, 0.001)               # beta2
        r12 = interpolate(r12, grad, r10)
        r14 = bias_correct(r12, r10, step)
        r14 = interpolate(r14, grad, r9)
        r19 = sign(r14)
        r18 = mul(param, 0.01)              # weight decay
        r19 = add(r19, r18)
        r19 = mul(r19, 0.001)               # learning rate
    """,
    "PowerSign": """
        r10 = sub(1.0, 0.01)                # beta
        r12 = interpolate(r12, grad, r10)
        r11 = sign(grad)
        r14 = sign(r12)
        r19 = mul(r14, r11)
        r19 = exp(r19)
        r19 = mul(r19, grad)
        r19 = mul(r19, 0.001)               # learning rate
    """,
    "AddSign": """
        r10 = sub(1.0, 0.01)                # beta
        r12 = interpolate(r12, grad, r10)
        r11 = sign(grad)
        r14 = sign(r12)
        r19 = mul(r14, r11)
        r19 = add(r19, 1.0)
        r19 = mul(r19, grad)
        r19 = mul(r19, 0.001)               # learning rate
    """,
    "Incumbent": """
        r17 = sub(r13, grad)
        r11 = square(r17)
        r13 = sub(r11, 1e-06)
        r13 = add(grad, r13)
        r10 = sub(1.0, 0.1)                 # beta
        r13 = interpolate(r13, r11, r10)
        r15 = add(r13, 1e-06)
        r9 = clip(0.01, r15)
        r15 = maximum(r15, 1e-06)
        r17 = sqrt(r15)
        r14 = tan(0.001)                    # learning rate
        r19 = div(r14, r17)
        r13 = maximum(r9, r17)
        r18 = mul(r19, grad)
    """,
}

KNOWN_PROGRAMS: Mapping[str, Program] = MappingProxyType(
    {name: Program.parse(source) for name, source in _SOURCES.items()}
)


def known_name(text: str) -> str | None:
    """Returns a name's key in `KNOWN_PROGRAMS`, in any case, or None."""
    return next((name for name in KNOWN_PROGRAMS if name.lower() == text.lower()), None)
