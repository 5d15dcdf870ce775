"""Exports that can be read back: JSON and Python."""

from __future__ import annotations

import json

from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import pseudocode_lines


def to_json(program: Program, name: str | None = None) -> str:
    """Writes a program as a JSON file.

    The file has the name, the text, the JSON form and the canonical form.

    `nosbench evaluate` reads the JSON form, under "program". Programs with equal "canonical" are certainly the same
    optimizer.

    Raises:
        TypeError: If `program` is not a `Program`.

    >>> print(to_json(Program.parse("r9 = mul(grad, 0.01)"), "Descent"))
    {
      "name": "Descent",
      "text": ["r9 = mul(grad, 0.01)"],
      "program": [["mul", [1, 6], 9]],
      "canonical": "canonical-1:ad6180f378cb3dff4a6b5952269af7a4"
    }
    <BLANKLINE>
    """
    form = str(canonical_form(program))
    values = {
        "name": json.dumps(name),
        "text": _lines([str(instruction) for instruction in program]),
        "program": _lines(program.to_json()),
        "canonical": json.dumps(form),
    }
    return "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in values.items()) + "\n}\n"


def to_python(program: Program) -> str:
    """Writes a program as a Python function.

    `Program.from_python` reads it, also after changes by hand.

    Functions such as `sqrt` are torch's. Constants have all digits of their float32 values. Reading refuses a constant
    that takes more than a few instructions to compose from the language's constants.

    Raises:
        TypeError: If `program` is not a `Program`.

    >>> print(to_python(Program.parse("r9 = mul(grad, 0.01)")))
    def step(w, g, t):
        w = w - 0.01*g
    <BLANKLINE>
    """
    form = canonical_form(program)
    lines = ["return 0.0"] if form.behaviour == "no-op" else pseudocode_lines(form, exact=True)
    return "".join(f"{line}\n" for line in ["def step(w, g, t):", *(f"    {line}" for line in lines)])


def _lines(items: list[str] | list[list[object]]) -> str:
    """Writes a JSON list with one item per line."""
    text = ",\n    ".join(map(json.dumps, items))
    return f"[\n    {text}\n  ]" if len(items) > 1 else f"[{text}]"
