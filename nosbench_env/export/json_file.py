"""A program as a JSON file."""

from __future__ import annotations

import json

from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program


def to_json(program: Program, name: str | None = None) -> str:
    """A program's JSON form under "program", which `nosbench evaluate` reads, beside its name, text and identity.

    "canonical" is equal for programs that are the same optimizer for certain.

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
    text = ",\n    ".join(json.dumps(str(instruction)) for instruction in program)
    data = ",\n    ".join(json.dumps(instruction) for instruction in program.to_json())
    values = {"name": json.dumps(name), "text": _lines(text), "program": _lines(data), "canonical": json.dumps(form)}
    return "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in values.items()) + "\n}\n"


def _lines(text: str) -> str:
    """A list with an item a line, if there is more than one."""
    return f"[\n    {text}\n  ]" if "\n" in text else f"[{text}]"
