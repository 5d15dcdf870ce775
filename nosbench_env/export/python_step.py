"""A program as a step in Python, which `Program.from_python` reads."""

from __future__ import annotations

from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import pseudocode


def to_python(program: Program) -> str:
    """A function in the form that `Program.from_python` reads: a start for changes by hand.

    Functions such as `sqrt` are torch's. Constants have all digits of their float32 values; one that can't be composed
    of the language's constants in a few instructions is refused when it is read again.

    Raises:
        TypeError: If `program` is not a `Program`.

    >>> print(to_python(Program.parse("r9 = mul(grad, 0.01)")))
    def step(w, g, t):
        w = w - 0.01*g
    <BLANKLINE>
    """
    lines = pseudocode(program, exact=True).splitlines()
    if lines[0].startswith("#"):
        lines = ["return 0.0"]
    return "".join(f"{line}\n" for line in ["def step(w, g, t):", *(f"    {line}" for line in lines)])
