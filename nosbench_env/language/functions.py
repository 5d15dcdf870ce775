"""The functions of the search space (paper, Table 1).

This module does not import torch at import time: the torch code of a function is bound at its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

FunctionKind = Literal["elementwise", "transcendental", "reduction", "shape", "composed"]


@dataclass(frozen=True, slots=True)
class Function:
    """One function of the search space.

    Calling it applies it to tensors. Each input is 0-d or has the shape of the parameter. Inputs broadcast, so every
    result is 0-d or has that shape too. No value raises an error: division by zero, the logarithm of a negative number
    and the like give inf or NaN.

    Attributes:
        name: The paper's name.
        arity: Number of inputs.
        meaning: The definition, for readers.
        kind: "elementwise": each element is computed by itself. "transcendental": the same, but slower; compiled
            programs leave it to torch. "reduction": one number from all elements. "shape": one number from the shape
            alone. "composed": written with the other functions before a program is compiled.
        commutative: True if the order of the inputs makes no difference.

    >>> FUNCTIONS["interpolate"].arity
    3
    """

    name: str
    arity: int
    meaning: str
    kind: FunctionKind = "elementwise"
    commutative: bool = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Applies the function to tensors; returns a new one."""
        return self.torch_code(*inputs)

    @property
    def torch_code(self) -> Callable[..., Tensor]:
        """The torch function that a call runs."""
        return _torch_code()[self.name]

    @property
    def c_name(self) -> str:
        """The C library's name of a transcendental function."""
        return self.name.replace("arc", "a")


# In the order of Table 1, which numbers the functions in the env's actions: it is frozen for NOSBench-v0.
# Table 1 lists `clip` with the unary functions. We follow the paper's code, which gives it two inputs.
FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        function.name: function
        for function in (
            Function("square", 1, "x**2"),
            Function("exp", 1, "e**x", "transcendental"),
            Function("log", 1, "natural logarithm of x", "transcendental"),
            Function("sign", 1, "-1, 0 or 1; 0 for NaN"),
            Function("sqrt", 1, "square root of x"),
            Function("abs", 1, "absolute value of x"),
            Function("norm", 1, "2-norm over the tensor, a scalar", "reduction"),
            Function("clip", 2, "x, at most m; the same as minimum(x, m)", "composed"),
            Function("sin", 1, "sine of x", "transcendental"),
            Function("cos", 1, "cosine of x", "transcendental"),
            Function("tan", 1, "tangent of x", "transcendental"),
            Function("arcsin", 1, "inverse sine of x", "transcendental"),
            Function("arccos", 1, "inverse cosine of x", "transcendental"),
            Function("arctan", 1, "inverse tangent of x", "transcendental"),
            Function("mean", 1, "mean over the tensor, a scalar", "reduction"),
            Function(
                "std", 1, "unbiased standard deviation over the tensor, a scalar; NaN for a single element", "reduction"
            ),
            Function("size", 1, "number of elements of the tensor, a scalar", "shape"),
            Function("div", 2, "a / b"),
            Function("mul", 2, "a * b", commutative=True),
            Function("add", 2, "a + b", commutative=True),
            Function("sub", 2, "a - b"),
            Function("minimum", 2, "elementwise minimum; NaN if either is", commutative=True),
            Function("maximum", 2, "elementwise maximum; NaN if either is", commutative=True),
            Function("heaviside", 2, "0 for x < 0, v for x == 0, 1 for x > 0; 0 for NaN"),
            Function("interpolate", 3, "a * c + b * (1 - c)", "composed"),
            Function("bias_correct", 3, "x / (1 - b**t)", "composed"),
        )
    }
)

# The operations of compiled programs: the functions that are not composed, and the power of `bias_correct`.
OPERATIONS: Mapping[str, Function] = MappingProxyType(
    {name: function for name, function in FUNCTIONS.items() if function.kind != "composed"}
    | {"pow": Function("pow", 2, "a**b", "transcendental")}
)


def of_kind(*kinds: FunctionKind) -> tuple[str, ...]:
    """Returns the names of the operations of these kinds.

    >>> of_kind("reduction", "shape")
    ('norm', 'mean', 'std', 'size')
    """
    return tuple(name for name, operation in OPERATIONS.items() if operation.kind in kinds)


REDUCTIONS = of_kind("reduction")
PER_TENSOR = of_kind("reduction", "shape")  # their results have one value per tensor
TRANSCENDENTALS = of_kind("transcendental")
COMMUTATIVE = frozenset(name for name, operation in OPERATIONS.items() if operation.commutative)


@cache
def _torch_code() -> Mapping[str, Callable[..., Tensor]]:
    """Returns all functions in torch, bit for bit the paper's in float32."""
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

    special: dict[str, Callable[..., Tensor]] = {
        "norm": torch.linalg.vector_norm,
        "clip": torch.minimum,  # bitwise torch.clip(x, max=m), NaN included
        "std": std,
        "size": size,
        "heaviside": heaviside,
        "interpolate": interpolate,
        "bias_correct": bias_correct,
    }
    return {name: special.get(name) or getattr(torch, name) for name in (*FUNCTIONS, *OPERATIONS)}
