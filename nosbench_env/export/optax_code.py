"""A program as a file of its own with an `optax.GradientTransformation`, for training that needs no more than optax."""

from __future__ import annotations

import builtins
import keyword
import re
from importlib.metadata import version

from nosbench_env.export.infix import infix
from nosbench_env.export.step import is_square, step_of, subterms
from nosbench_env.export.torch_code import class_name, introduction, remembered, template, wrapped
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.live_code import Kind
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import Term, pseudocode

_TEMPLATE = "optax.py.jinja"
_MODULE_NAMES = frozenset(("jax", "jnp", "optax"))
_FUNCTIONS = ("sqrt", "exp", "log", "abs", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "mean")
_HELPERS = ("sign", "norm", "std", "size", "heaviside")  # which jax lacks, or computes otherwise for NaN


def to_optax(program: Program, name: str | None = None) -> str:
    """A Python file with a function that makes an `optax.GradientTransformation`; it needs jax and optax alone.

    It computes what `ProgramOptimizer` computes up to rounding: functions such as `exp` and powers differ in the last
    bits, and where a program amplifies that, so does the result. The learning rate, a number or a schedule, multiplies
    the update (1 by default).

    Args:
        program: The program.
        name: The name of the state's class; the function has it in lower case. By default as in `to_torch`.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If `name` can't name a class of that file.
    """
    step = step_of(program)
    name = class_name(program, name)
    function = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()
    if keyword.iskeyword(function) or function in _MODULE_NAMES or hasattr(builtins, function):
        raise ValueError(
            f"name {name!r} would make a function {function!r}, which means something else; choose another"
        )
    terms = [term for line in (*step.schedule, *step.lines) for term in subterms(line.term)]
    arguments = [*(["param"] if "param" in step.reads else []), "grad", *step.memories]
    trees = {"param": "params", "grad": "updates"} | {memory: f"state.{memory}" for memory in step.memories}
    arrays = {memory: kind == Kind.ARRAY and not step.grows for memory, kind in step.memories.items()}
    after = [f"_like({name}, grad)" if array else f"jnp.asarray({name}, grad.dtype)" for name, array in arrays.items()]
    (update,) = (line.term for line in step.lines if line.name == "param")
    results = [f"_like({'-' if step.added else ''}{infix(update, _call)}, grad)", *after]
    define = [f"{argument}: Array" for argument in arguments]
    return template(_TEMPLATE).render(
        name=name,
        function=function,
        introduction=introduction(step),
        remembered=remembered(step),
        formulas=pseudocode(program).splitlines(),
        digest=str(canonical_form(program)),
        version=version("nosbench_env"),
        step=step,
        needs_params="param" in step.reads,
        arrays=arrays,
        schedule=[f"{line.name} = {infix(line.term, _call)}" for line in step.schedule],
        define=wrapped("def of_tensor(", define, ") -> tuple[Array, ...]:", indent=8),
        lines=[f"{line.name} = {infix(line.term, _call)}" for line in step.lines if line.name != "param"],
        results=wrapped("(", results, ")", indent=12) if len(results) > 1 else f"({results[0]},)",
        trees=f"trees = ({', '.join(trees[a] for a in arguments)}{',' if len(arguments) == 1 else ''})",
        columns=len(results),
        state=", ".join([*(["step"] if step.counts_steps else []), *(["*columns[1:]"] if arrays else [])]),
        functions={term.op for term in terms},
    )


def _call(term: Term, arguments: list[str], receivers: list[str]) -> str | None:
    """A term as a call of jax.numpy; None if it is one that has a sign in Python."""
    if term.op in _HELPERS:
        return f"_{term.op}({', '.join(arguments)})"
    if term.op in (*_FUNCTIONS, "minimum", "maximum"):
        return f"jnp.{term.op}({', '.join(arguments)})"
    if is_square(term):
        return f"jnp.square({arguments[0]})"
    if term.op == "pow" and term.inputs[0].op != "number":
        return f"jnp.power({', '.join(arguments)})"
    return None
