"""Terms as Python expressions."""

from __future__ import annotations

from collections.abc import Callable

from nosbench_env.language.pseudocode import Term

# How tightly an operation binds, in Python.
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = 1, 2, 3, 4, 5
_INFIX = {"add": ("+", _SUM), "sub": ("-", _SUM), "mul": ("*", _PRODUCT), "div": ("/", _PRODUCT)}

# Writes what infix notation can't, given the term and its inputs, as they can stand among arguments and before a dot;
# None leaves it to infix notation.
Call = Callable[[Term, list[str], list[str]], str | None]


def number(term: Term) -> str:
    """A number as Python reads it."""
    if term.text in ("nan", "inf", "-inf"):
        return f'float("{term.text}")'
    text = term.text.removesuffix(".0")
    return term.text if text == "-0" else text


def infix(term: Term, call: Call) -> str:
    """A term in infix notation, with parentheses where Python needs them."""
    return _infix(term, call)[0]


def _infix(term: Term, call: Call) -> tuple[str, int]:
    if term.op == "name":
        return term.text, _ATOM
    if term.op == "number":
        return number(term), _SIGN if term.text.startswith("-") and term.text != "-inf" else _ATOM
    inputs = [_infix(source, call) for source in term.inputs]
    called = call(term, [text for text, _ in inputs], [_bound(*of_input, _ATOM) for of_input in inputs])
    if called is not None:
        return called, _ATOM
    if term.op == "pow":
        base, exponent = (_bound(*of_input, _ATOM) for of_input in inputs)
        return (f"{base} ** {exponent}" if "(" in base + exponent else f"{base}**{exponent}"), _POWER
    sign, binding = _INFIX[term.op]
    left, right = inputs
    return f"{_bound(*left, binding)} {sign} {_bound(*right, binding + 1)}", binding


def _bound(text: str, binding: int, least: int) -> str:
    return text if binding >= least else f"({text})"
