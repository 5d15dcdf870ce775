"""Terms as Python expressions in infix notation."""

from __future__ import annotations

from collections.abc import Callable

from nosbench_env.language.pseudocode import INFIX, Binding, Term

# Writes a term as a call, or returns None to have it written with its operator. The lists are the texts of its inputs,
# first as arguments, then as receivers of a method, which may need parentheses.
Call = Callable[[Term, list[str], list[str]], str | None]


def number(term: Term) -> str:
    """Writes a number as a Python literal."""
    if term.text in ("nan", "inf", "-inf"):
        return f'float("{term.text}")'
    text = term.text.removesuffix(".0")
    return term.text if text == "-0" else text


def infix(term: Term, call: Call) -> str:
    """Writes a term in infix notation as Python."""
    return _infix(term, call)[0]


def _infix(term: Term, call: Call) -> tuple[str, Binding]:
    if term.op == "name":
        return term.text, Binding.ATOM
    if term.op == "number":
        signed = term.text.startswith("-") and term.text != "-inf"
        return number(term), Binding.SIGN if signed else Binding.ATOM
    inputs = [_infix(source, call) for source in term.inputs]
    called = call(term, [text for text, _ in inputs], [_bound(*of_input, Binding.ATOM) for of_input in inputs])
    if called is not None:
        return called, Binding.ATOM
    if term.op == "pow":
        base, exponent = (_bound(*of_input, Binding.ATOM) for of_input in inputs)
        return (f"{base} ** {exponent}" if "(" in base + exponent else f"{base}**{exponent}"), Binding.POWER
    sign, binding = INFIX[term.op]
    left, right = inputs
    return f"{_bound(*left, binding)} {sign} {_bound(*right, binding + 1)}", binding


def _bound(text: str, binding: Binding, least: int) -> str:
    return text if binding >= least else f"({text})"
