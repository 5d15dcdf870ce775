"""Names of memories and values in exports, as in `torch.optim` if known."""

from __future__ import annotations

from collections.abc import Mapping

from nosbench_env.language.pseudocode import Term

# Names of averages and sums over steps, by their summand.
_AVERAGES = {"g": "exp_avg", "g**2": "exp_avg_sq", "abs(g)": "exp_avg_abs", "sign(g)": "exp_avg_sign"}
_SUMS = {"g": "momentum_buffer", "g**2": "sum_sq"}

# Names of other values, by their operation.
_VALUES = {
    "pow": "power",
    "exp": "scale",
    "log": "logarithm",
    "sign": "direction",
    "sqrt": "root",
    "abs": "magnitude",
    "norm": "norm",
    "sin": "sine",
    "cos": "cosine",
    "tan": "tangent",
    "arcsin": "angle",
    "arccos": "angle",
    "arctan": "angle",
    "mean": "average",
    "std": "deviation",
    "size": "size",
    "div": "ratio",
    "mul": "product",
    "add": "total",
    "sub": "difference",
    "minimum": "bounded",
    "maximum": "bounded",
    "heaviside": "gate",
}


def memory_name(name: str, lines: Mapping[str, Term]) -> str:
    """Chooses a memory's name by its new value.

    The name of an unknown pattern is "memory".

    Args:
        name: The memory's name in `assignments`.
        lines: The new value of every name in a step; for "w", the update.
    """
    term = lines[name]
    if term.op == "name":
        return {"w": "prev_param", "g": "prev_grad"}.get(term.text, "memory")
    others = [source for source in term.inputs if not _is(_without_number(source), name)]
    if term.op not in ("add", "maximum") or len(others) != 1:
        return "memory"
    (other,) = others
    if term.op == "maximum":
        known = other.text.startswith("m") and other.text in lines and lines[other.text].op != "maximum"
        return f"max_{memory_name(other.text, lines)}" if known else "memory"
    factor = _without_number(other)
    described = _described(factor)
    if factor == other:  # as in m = 0.9*m + g and m = m + g**2
        return _SUMS.get(described, "memory")
    if described == "g**2" and not any(_averages_gradient(other_name, lines) for other_name in lines):
        return "square_avg"  # as RMSprop and Adadelta call it
    if factor.op == "pow" and _is(factor.inputs[0], lines["w"].text):
        return "acc_delta"
    return _AVERAGES.get(described, "memory")


def _averages_gradient(name: str, lines: Mapping[str, Term]) -> bool:
    """Returns True for an average of the gradient itself."""
    term = lines[name]
    return term.op == "add" and {_described(_without_number(source)) for source in term.inputs} == {name, "g"}


def value_name(term: Term, *, schedule: bool) -> str:
    """Chooses the name of a value.

    Args:
        term: The value, with the names of exported code.
        schedule: True if it depends on the step number alone.
    """
    match term:
        case Term("sub", (Term("number", _, "1.0"), Term("pow", (_, Term("name", _, "t"))))):
            return "bias_correction"
        case Term("name", _, "t"):
            return "steps"
        case _ if schedule:
            return "schedule"
        case Term("add", (Term("sqrt"), Term("number"))):
            return "denom"
        case Term("pow", (inner, Term("number", _, "2.0"))):
            return f"squared_{inner.text if inner.op == 'name' else _VALUES.get(inner.op, 'value')}"
        case Term("norm" | "mean" | "std" | "sign" | "size" as op, (Term("name", _, name),)):
            return f"{name}_{_VALUES[op]}"
    return _VALUES.get(term.op, "value")


def plural(name: str) -> str:
    """Returns the plural, the name of a list of values."""
    stem = name.rstrip("0123456789")
    number = name[len(stem) :]
    if stem.endswith("y"):
        return f"{stem[:-1]}ies{number}"
    return f"{stem}es{number}" if stem.endswith(("s", "x")) else f"{stem}s{number}"


def _without_number(term: Term) -> Term:
    """Returns a term without its constant factor."""
    return term.inputs[1] if term.op == "mul" and term.inputs[0].op == "number" else term


def _is(term: Term, name: str) -> bool:
    return bool(name) and term.op == "name" and term.text == name


def _described(term: Term) -> str:
    match term:
        case Term("name"):
            return term.text
        case Term("pow", (Term("name", _, name), Term("number", _, "2.0"))):
            return f"{name}**2"
        case Term(op, (Term("name", _, name),)):
            return f"{op}({name})"
    return ""
