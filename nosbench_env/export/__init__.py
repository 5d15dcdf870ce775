"""Exports of programs that work without this package."""

from nosbench_env.export.latex import to_latex
from nosbench_env.export.optax_code import to_optax
from nosbench_env.export.round_trip import to_json, to_python
from nosbench_env.export.torch_code import to_torch

__all__ = ["to_json", "to_latex", "to_optax", "to_python", "to_torch"]
