import pytest
from hypothesis import given, settings
from strategies import programs

from nosbench_env import KNOWN_PROGRAMS, Program
from nosbench_env.export import to_latex

INCUMBENT = r"""\begin{algorithm}
\caption{Incumbent}
\begin{algorithmic}[1]
\Require $f(\theta, D)$: objective function with parameters $\theta$ and data set $D$
\Require $\theta$: initial parameters
\State $m \gets 0$
\While{$\theta$ not converged}
    \State $g \gets \nabla_\theta f(\theta, D)$ \Comment{gradient, clipped to norm 1}
    \State $x_{1} \gets (m - g)^{2}$
    \State $x_{2} \gets 0.1 \, x_{1} + 0.9 \, (x_{1} - 10^{-6} + g) + 10^{-6}$
    \State $x_{3} \gets \sqrt{\max(10^{-6}, x_{2})}$
    \State $m \gets \max(\min(0.01, x_{2}), x_{3})$
    \State $\theta \gets \theta - \frac{0.001}{x_{3}} \, g$
\EndWhile
\State \Return $\theta$
\end{algorithmic}
\end{algorithm}
"""


def test_the_incumbent_reads_as_in_the_paper() -> None:
    assert to_latex(KNOWN_PROGRAMS["Incumbent"], "Incumbent") == INCUMBENT


def test_a_step_that_is_counted_starts_at_0() -> None:
    lines = [line.strip() for line in to_latex(KNOWN_PROGRAMS["Adam"]).splitlines()]
    assert lines.index(r"\State $t \gets 0$") < lines.index(r"\State $t \gets t + 1$")
    assert r"\caption{Optimizer}" in lines


def test_a_caption_is_text() -> None:
    text = to_latex(Program(), r"100%_\input{x} & $y^2~#")
    assert r"\caption{100\%\_\textbackslash{}input\{x\} \& \$y\textasciicircum{}2\textasciitilde{}\#}" in text


def test_a_document_of_its_own() -> None:
    text = to_latex(KNOWN_PROGRAMS["SGD"], standalone=True)
    assert text.startswith(r"\documentclass{article}")
    assert text.endswith("\\end{document}\n")
    assert to_latex(KNOWN_PROGRAMS["SGD"]) in text


@given(programs())
@settings(max_examples=25)
def test_formulas_of_random_programs_can_be_typeset(program: Program) -> None:
    """matplotlib knows most of TeX's mathematics and rejects malformed formulas."""
    mathtext = pytest.importorskip("matplotlib.mathtext", reason="needs matplotlib: pip install matplotlib")
    parser = mathtext.MathTextParser("path")
    formulas = [f"${line.split('$')[1]}$" for line in to_latex(program).splitlines() if r"\gets" in line]
    assert len(formulas) == to_latex(program).count(r"\gets")
    for formula in formulas:
        parser.parse(formula.replace(r"\gets", r"\leftarrow"))


@pytest.mark.parametrize(
    ("program", "line"),
    [
        ("r9 = sub(0.1, 0.5); r9 = mul(r9, grad)", r"\theta + 0.4 \, g"),
        ("r9 = sub(grad, param); r9 = sub(grad, r9)", r"\theta - (g - (g - \theta))"),
        ("r9 = mul(grad, param); r9 = norm(r9); r9 = mul(r9, grad)", r"\left\Vert \theta \cdot g \right\Vert_2 \, g"),
        ("r9 = mean(grad); r10 = abs(grad); r9 = div(r9, r10)", r"\frac{\operatorname{mean}(g)}{\left| g \right|}"),
        ("r9 = bias_correct(grad, 0.5, step)", r"\frac{g}{1 - 0.5^{t}}"),
        ("r10 = sub(param, r9); r9 = mul(param, 1.0); r10 = mul(r10, 1.0)", r"m^{\mathrm{old}}"),
    ],
)
def test_formulas_are_as_in_a_textbook(program: str, line: str) -> None:
    assert line in to_latex(Program.parse(program))
