"""LaTeX pseudocode in the style of the paper's Appendix E."""

from __future__ import annotations

from nosbench_env.export.step import names_in
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import Binding, Term, assignments, is_memory

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
    """Writes a program as pseudocode in an `algorithm` environment.

    It needs the packages amsmath, algorithm and algpseudocode. Constants are rounded as in `pseudocode`.

    Args:
        program: The program.
        name: The caption, as plain text; by default "Optimizer".
        standalone: Writes a complete document that compiles by itself.

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    lines = assignments(canonical_form(program))
    written = [rf"${_name(line.name)} \gets {_text(line.term)}$" for line in lines]
    memories = dict.fromkeys(line.name for line in lines if is_memory(line.name))
    steps = any("t" in names_in(line.term) for line in lines)
    starts = [rf"${_name(memory)} \gets 0$" for memory in memories] + ([r"$t \gets 0$"] if steps else [])
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


def _name(name: str) -> str:
    letter, _, age = name.partition("_")
    if letter == "w":
        return r"\theta"
    symbol = f"{letter[0]}_{{{letter[1:]}}}" if letter[1:] else letter
    return rf"{symbol}^{{\mathrm{{old}}}}" if age else symbol


def _text(term: Term) -> str:
    return _written(term)[0]


def _written(term: Term) -> tuple[str, Binding]:
    """Returns a term's LaTeX and binding."""
    op = term.op
    if op == "name":
        return _name(term.text), Binding.POWER if term.text.endswith("_old") else Binding.ATOM
    if op == "number":
        return _number(float(term.text))
    if op == "div":
        return rf"\frac{{{_text(term.inputs[0])}}}{{{_text(term.inputs[1])}}}", Binding.PRODUCT
    if op == "pow":
        base, exponent = term.inputs
        return f"{_bound(base, Binding.ATOM)}^{{{_text(exponent)}}}", Binding.POWER
    if op in ("add", "sub"):
        left, right = term.inputs
        sign, least = ("+", Binding.SUM) if op == "add" else ("-", Binding.PRODUCT)
        right_text = _bound(right, least)
        right_text = _parenthesised(right_text) if right_text[0] == "-" else right_text
        return f"{_bound(left, Binding.SUM)} {sign} {right_text}", Binding.SUM
    if op == "mul":
        left, right = term.inputs
        sign = r"\cdot" if right.op == "number" or (left.op, right.op) == ("name", "name") else r"\,"
        return f"{_bound(left, Binding.PRODUCT)} {sign} {_bound(right, Binding.PRODUCT)}", Binding.PRODUCT
    inner = ", ".join(_text(source) for source in term.inputs)
    if op == "sqrt":
        return rf"\sqrt{{{inner}}}", Binding.ATOM
    if op == "abs":
        return rf"\left| {inner} \right|", Binding.ATOM
    if op == "norm":
        return rf"\left\Vert {inner} \right\Vert_2", Binding.POWER
    function = _FUNCTIONS.get(op) or rf"\operatorname{{{op}}}"
    return f"{function}{_parenthesised(inner)}", Binding.ATOM


def _bound(term: Term, least: int) -> str:
    """Returns a term's LaTeX, in parentheses if needed."""
    text, binding = _written(term)
    return text if binding >= least else _parenthesised(text)


def _parenthesised(text: str) -> str:
    tall = r"\frac" in text or r"\sqrt" in text
    return rf"\left({text}\right)" if tall else f"({text})"


def _number(value: float) -> tuple[str, Binding]:
    if value != value:
        return r"\mathrm{NaN}", Binding.ATOM
    sign, size = ("-" if value < 0 else ""), abs(value)
    binding = Binding.SUM if sign else Binding.ATOM
    if size == float("inf"):
        return rf"{sign}\infty", binding
    text = f"{size:.{6 if 0.9 < size < 1.1 else 4}g}"
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return sign + text, binding
    power = f"10^{{{int(exponent)}}}"
    if mantissa == "1":
        return sign + power, binding if sign else Binding.POWER
    return rf"{sign}{mantissa} \cdot {power}", Binding.SUM if sign else Binding.PRODUCT


def _escaped(text: str) -> str:
    """Escapes plain text for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in " ".join(text.split()))
