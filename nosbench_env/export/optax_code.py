"""Exports as an `optax.GradientTransformation`."""

from __future__ import annotations

import builtins
import keyword
import re

from nosbench_env.export.infix import infix
from nosbench_env.export.step import is_square, step_of
from nosbench_env.export.torch_code import class_name, rendered, wrapped
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.live_code import Kind
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import INFIX, Term

_MODULE_NAMES = frozenset(("jax", "jnp", "optax"))
_HELPERS = ("sign", "norm", "std", "size", "heaviside")  # functions of the file: jax lacks them or differs for NaN


def to_optax(program: Program, name: str | None = None) -> str:
    """Writes a Python file with an `optax.GradientTransformation`.

    The file needs jax and optax alone. Its results equal those of `ProgramOptimizer` up to rounding: functions such as
    `exp` and powers differ in the last bits, which a program may amplify. The learning rate, a number or a schedule,
    multiplies the update (1 by default).

    Args:
        program: The program.
        name: The name of the state's class, and in lower case of the function; the default is that of `to_torch`.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If `name` is no valid name for a class or function of that file.
    """
    form = canonical_form(program)
    step = step_of(form)
    name = class_name(program, name)
    function = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
    if keyword.iskeyword(function) or function in _MODULE_NAMES or hasattr(builtins, function):
        raise ValueError(
            f"name {name!r} would make a function {function!r}, which means something else; choose another"
        )
    arguments = [*(["param"] if "param" in step.reads else []), "grad", *step.memories]
    trees = {"param": "params", "grad": "updates"} | {memory: f"state.{memory}" for memory in step.memories}
    arrays = {memory: kind == Kind.ARRAY and not step.grows for memory, kind in step.memories.items()}
    after = [f"_like({name}, grad)" if array else f"jnp.asarray({name}, grad.dtype)" for name, array in arrays.items()]
    (update,) = (line.term for line in step.lines if line.name == "param")
    results = [f"_like({'-' if step.added else ''}{infix(update, _call)}, grad)", *after]
    define = [f"{argument}: Array" for argument in arguments]
    return rendered(
        "optax.py.jinja",
        name,
        form,
        step,
        function=function,
        needs_params="param" in step.reads,
        arrays=arrays,
        schedule=[f"{line.name} = {infix(line.term, _call)}" for line in step.schedule],
        define=wrapped("def of_tensor(", define, ") -> tuple[Array, ...]:", indent=8),
        lines=[f"{line.name} = {infix(line.term, _call)}" for line in step.lines if line.name != "param"],
        results=wrapped("(", results, ")", indent=12) if len(results) > 1 else f"({results[0]},)",
        trees=f"trees = ({', '.join(trees[a] for a in arguments)}{',' if len(arguments) == 1 else ''})",
        columns=len(results),
        state=", ".join([*(["step"] if step.counts_steps else []), *(["*columns[1:]"] if arrays else [])]),
    )


def _call(term: Term, arguments: list[str], receivers: list[str]) -> str | None:
    """Writes a term as a `jax.numpy` call; None for operators."""
    if is_square(term):
        return f"jnp.square({arguments[0]})"
    if term.op in INFIX or (term.op == "pow" and term.inputs[0].op == "number"):
        return None
    function = f"_{term.op}" if term.op in _HELPERS else "jnp.power" if term.op == "pow" else f"jnp.{term.op}"
    return f"{function}({', '.join(arguments)})"
