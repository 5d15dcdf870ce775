"""The way out: a program as code, formulas or data that need this package no more."""

from nosbench_env.export.json_file import to_json
from nosbench_env.export.latex import to_latex
from nosbench_env.export.optax_code import to_optax
from nosbench_env.export.python_step import to_python
from nosbench_env.export.torch_code import to_torch

__all__ = ["to_json", "to_latex", "to_optax", "to_python", "to_torch"]
