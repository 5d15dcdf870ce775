"""A program as LaTeX: pseudocode as in the paper's Appendix E, and formulas for notebooks."""

from __future__ import annotations

from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import Term, assignments

_SUM, _PRODUCT, _POWER, _ATOM = 1, 2, 3, 4
_FUNCTIONS = {"exp": r"\exp", "log": r"\log", "minimum": r"\min", "maximum": r"\max"} | {
    name: rf"\{name}" for name in ("sin", "cos", "tan", "arcsin", "arccos", "arctan")
}
_PREAMBLE = r"""\documentclass{article}
\usepackage{amsmath}
\usepackage{algorithm}
\usepackage{algpseudocode}
\begin{document}
"""


def to_latex(program: Program, name: str | None = None, *, standalone: bool = False) -> str:
    """A program as pseudocode, in an `algorithm` environment (packages amsmath, algorithm, algpseudocode).

    Constants are rounded to what tells them apart for a reader; see `notation.pseudocode`.

    Args:
        program: The program.
        name: The caption; by default "Optimizer". Any text; it is not read as LaTeX.
        standalone: Whether to write a document that compiles by itself.

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    lines = assignments(program)
    written = [rf"${_name(line.name)} \gets {_text(line.term)}$" for line in lines]
    names = dict.fromkeys(line.name for line in lines if line.name.startswith("m") and not line.name.endswith("_old"))
    steps = any(_reads(line.term, "t") for line in lines)
    starts = [rf"${_name(memory)} \gets 0$" for memory in names] + ([r"$t \gets 0$"] if steps else [])
    in_loop = [
        *([r"$t \gets t + 1$"] if steps else []),
        r"$g \gets \nabla_\theta f(\theta, D)$ \Comment{gradient, clipped to norm 1}",
        *written,
    ]
    algorithm = [
        r"\begin{algorithm}",
        rf"\caption{{{_escaped(name or 'Optimizer')}}}",
        r"\begin{algorithmic}[1]",
        r"\Require $f(\theta, D)$: objective function with parameters $\theta$ and data set $D$",
        r"\Require $\theta$: initial parameters",
        *(rf"\State {line}" for line in starts),
        r"\While{$\theta$ not converged}",
        *(rf"    \State {line}" for line in in_loop),
        r"\EndWhile",
        r"\State \Return $\theta$",
        r"\end{algorithmic}",
        r"\end{algorithm}",
    ]
    text = "\n".join(algorithm) + "\n"
    return f"{_PREAMBLE}{text}\\end{{document}}\n" if standalone else text


def formulas(program: Program) -> str:
    """What a program computes in a step, as aligned formulas between dollar signs.

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    lines = [rf"{_name(line.name)} &\leftarrow {_text(line.term)}" for line in assignments(program)]
    rows = " \\\\\n".join(lines or [r"\theta &\leftarrow \theta"])
    return f"$\\displaystyle \\begin{{aligned}}\n{rows}\n\\end{{aligned}}$"


def _reads(term: Term, name: str) -> bool:
    return term.text == name or any(_reads(source, name) for source in term.inputs)


def _name(name: str) -> str:
    letter, _, age = name.partition("_")
    if letter == "w":
        return r"\theta"
    symbol = f"{letter[0]}_{{{letter[1:]}}}" if letter[1:] else letter
    return rf"{symbol}^{{\mathrm{{old}}}}" if age else symbol


def _text(term: Term) -> str:
    return _written(term)[0]


def _written(term: Term) -> tuple[str, int]:
    """A term as LaTeX, and how tightly it binds."""
    op = term.op
    if op == "name":
        return _name(term.text), _POWER if term.text.endswith("_old") else _ATOM
    if op == "number":
        return _number(float(term.text))
    if op == "div":
        return rf"\frac{{{_text(term.inputs[0])}}}{{{_text(term.inputs[1])}}}", _PRODUCT
    if op == "pow":
        base, exponent = term.inputs
        return f"{_bound(base, _ATOM)}^{{{_text(exponent)}}}", _POWER
    if op in ("add", "sub"):
        left, right = term.inputs
        sign, least = ("+", _SUM) if op == "add" else ("-", _PRODUCT)
        right_text = _bound(right, least)
        return f"{_bound(left, _SUM)} {sign} {_parenthesised(right_text) if right_text[0] == '-' else right_text}", _SUM
    if op == "mul":
        left, right = term.inputs
        sign = r"\cdot" if right.op == "number" or (left.op, right.op) == ("name", "name") else r"\,"
        return f"{_bound(left, _PRODUCT)} {sign} {_bound(right, _PRODUCT)}", _PRODUCT
    inner = ", ".join(_text(source) for source in term.inputs)
    if op == "sqrt":
        return rf"\sqrt{{{inner}}}", _ATOM
    if op == "abs":
        return rf"\left| {inner} \right|", _ATOM
    if op == "norm":
        return rf"\left\Vert {inner} \right\Vert_2", _POWER
    function = _FUNCTIONS.get(op) or rf"\operatorname{{{op}}}"
    return f"{function}{_parenthesised(inner)}", _ATOM


def _bound(term: Term, least: int) -> str:
    """A term in parentheses, unless it binds tightly enough."""
    text, binding = _written(term)
    return text if binding >= least else _parenthesised(text)


def _parenthesised(text: str) -> str:
    tall = r"\frac" in text or r"\sqrt" in text
    return rf"\left({text}\right)" if tall else f"({text})"


def _number(value: float) -> tuple[str, int]:
    if value != value:
        return r"\mathrm{NaN}", _ATOM
    sign, size = ("-" if value < 0 else ""), abs(value)
    binding = _SUM if sign else _ATOM
    if size == float("inf"):
        return rf"{sign}\infty", binding
    text = f"{size:.{6 if 0.9 < size < 1.1 else 4}g}"
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return sign + text, binding
    power = f"10^{{{int(exponent)}}}"
    if mantissa == "1":
        return sign + power, binding if sign else _POWER
    return rf"{sign}{mantissa} \cdot {power}", _SUM if sign else _PRODUCT


def _escaped(text: str) -> str:
    """Text as LaTeX shows it."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in " ".join(text.split()))
