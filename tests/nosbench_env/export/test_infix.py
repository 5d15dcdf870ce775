import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nosbench_env.export.infix import infix, number
from nosbench_env.language.pseudocode import Term

X, Y = Term("name", text="x"), Term("name", text="y")
OPERATORS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**"}


def called(term: Term, arguments: list[str], receivers: list[str]) -> str | None:
    """Writes `abs` as a function and `neg` as a method; leaves operators."""
    if term.op == "abs":
        return f"abs({', '.join(arguments)})"
    return f"{receivers[0]}.__neg__()" if term.op == "neg" else None


def in_parentheses(term: Term) -> str:
    """Writes a term with all parentheses."""
    if not term.inputs:
        return f"({number(term)})" if term.op == "number" else term.text
    inputs = [in_parentheses(source) for source in term.inputs]
    if term.op in OPERATORS:
        return f"({inputs[0]} {OPERATORS[term.op]} {inputs[1]})"
    return f"abs({inputs[0]})" if term.op == "abs" else f"(-{inputs[0]})"


leaves = st.sampled_from([X, Y, *(Term("number", text=text) for text in ("2.0", "-3.0", "0.5"))])
terms = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda op, a, b: Term(op, (a, b)), st.sampled_from(["add", "sub", "mul"]), inner, inner)
        | st.builds(lambda a: Term("abs", (a,)), inner)
        | st.builds(lambda a: Term("neg", (a,)), inner.filter(lambda term: term.op != "number"))  # `2.f()` is no Python
        | st.builds(lambda a: Term("pow", (a, Term("number", text="2.0"))), inner)
    ),
    max_leaves=8,
)


@given(terms)
def test_python_reads_the_term_that_was_written(term: Term) -> None:
    names = {"x": 1.5, "y": -0.75}
    try:
        expected = eval(in_parentheses(term), names)
    except OverflowError:
        return
    assert eval(infix(term, called), names) == expected


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (Term("sub", (X, Term("add", (X, Y)))), "x - (x + y)"),
        (Term("sub", (Term("add", (X, Y)), X)), "x + y - x"),
        (Term("div", (Term("mul", (X, Y)), Term("mul", (Y, X)))), "x * y / (y * x)"),
        (Term("pow", (X, Term("number", text="2.0"))), "x**2"),
        (Term("pow", (Term("number", text="-0.9"), X)), "(-0.9) ** x"),
        (Term("pow", (Term("add", (X, Y)), X)), "(x + y) ** x"),
        (Term("neg", (Term("add", (X, Y)),)), "(x + y).__neg__()"),
        (Term("abs", (Term("add", (X, Y)),)), "abs(x + y)"),
    ],
)
def test_parentheses_stand_where_python_needs_them(term: Term, text: str) -> None:
    assert infix(term, called) == text


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0.5", "-0", "-0.0", "1e-08", "3.0"])
def test_numbers_are_python_literals(text: str) -> None:
    value = eval(number(Term("number", text=text)))
    assert math.isnan(value) if text == "nan" else value == float(text)
