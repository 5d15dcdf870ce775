"""The functions of the search space (paper, Table 1).

Importing this module does not import torch: the torch code of a function is bound the first time it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the search space.

    Calling it applies it to tensors. Each input is 0-d or has the shape of the parameter; inputs broadcast, so every
    result is 0-d or has that shape too. Nothing raises on a bad value: division by zero, the logarithm of a negative
    number and the like give inf or NaN.

    >>> FUNCTIONS["interpolate"].arity
    3
    """

    name: str
    arity: int
    meaning: str

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Applies the function to `arity` tensors; returns a new tensor, never an input."""
        return self.torch_code(*inputs)

    @property
    def torch_code(self) -> Callable[..., Tensor]:
        """What a call runs, for those who call it often."""
        return _torch_code()[self.name]


# In the order of Table 1. The order numbers the functions in the env's actions: it is frozen for NOSBench-v0.
# Table 1 lists `clip` with the unary functions; the paper's code, which we follow, gives it two inputs.
FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        function.name: function
        for function in (
            Function("square", 1, "x**2"),
            Function("exp", 1, "e**x"),
            Function("log", 1, "natural logarithm of x"),
            Function("sign", 1, "-1, 0 or 1; 0 for NaN"),
            Function("sqrt", 1, "square root of x"),
            Function("abs", 1, "absolute value of x"),
            Function("norm", 1, "2-norm over the tensor, a scalar"),
            Function("clip", 2, "x, at most m; the same as minimum(x, m)"),
            Function("sin", 1, "sine of x"),
            Function("cos", 1, "cosine of x"),
            Function("tan", 1, "tangent of x"),
            Function("arcsin", 1, "inverse sine of x"),
            Function("arccos", 1, "inverse cosine of x"),
            Function("arctan", 1, "inverse tangent of x"),
            Function("mean", 1, "mean over the tensor, a scalar"),
            Function("std", 1, "unbiased standard deviation over the tensor, a scalar; NaN for a single element"),
            Function("size", 1, "number of elements of the tensor, a scalar"),
            Function("div", 2, "a / b"),
            Function("mul", 2, "a * b"),
            Function("add", 2, "a + b"),
            Function("sub", 2, "a - b"),
            Function("minimum", 2, "elementwise minimum; NaN if either is"),
            Function("maximum", 2, "elementwise maximum; NaN if either is"),
            Function("heaviside", 2, "0 for x < 0, v for x == 0, 1 for x > 0; 0 for NaN"),
            Function("interpolate", 3, "a * c + b * (1 - c)"),
            Function("bias_correct", 3, "x / (1 - b**t)"),
        )
    }
)


@cache
def _torch_code() -> Mapping[str, Callable[..., Tensor]]:
    """The torch code of every function, value for value as the paper's code computes it (float32)."""
    import torch

    def std(x: Tensor) -> Tensor:
        # torch.std gives the same NaN for fewer than two elements, with a warning at every step.
        return torch.std(x) if x.numel() > 1 else x.new_full((), torch.nan)

    def size(x: Tensor) -> Tensor:
        return x.new_full((), x.numel())

    def heaviside(x: Tensor, v: Tensor) -> Tensor:
        dtype = torch.result_type(x, v)  # torch.heaviside alone does not promote (half-precision parameters)
        return torch.heaviside(x.to(dtype), v.to(dtype))

    def interpolate(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a * c + b * (1.0 - c)  # not torch.lerp, which rounds differently

    def bias_correct(x: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return x / (1.0 - b**t)

    return {
        "square": torch.square,
        "exp": torch.exp,
        "log": torch.log,
        "sign": torch.sign,
        "sqrt": torch.sqrt,
        "abs": torch.abs,
        "norm": torch.linalg.vector_norm,
        "clip": torch.minimum,  # bitwise torch.clip(x, max=m), NaN included
        "sin": torch.sin,
        "cos": torch.cos,
        "tan": torch.tan,
        "arcsin": torch.arcsin,
        "arccos": torch.arccos,
        "arctan": torch.arctan,
        "mean": torch.mean,
        "std": std,
        "size": size,
        "div": torch.div,
        "mul": torch.mul,
        "add": torch.add,
        "sub": torch.sub,
        "minimum": torch.minimum,
        "maximum": torch.maximum,
        "heaviside": heaviside,
        "interpolate": interpolate,
        "bias_correct": bias_correct,
    }
