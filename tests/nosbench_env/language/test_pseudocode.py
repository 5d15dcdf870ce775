import ast
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import any_programs, memory_shuffles, programs
from torch import Tensor

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS, Program, ProgramOptimizer, SearchSpace, canonical_form
from nosbench_env.language.live_code import apply, scalar
from nosbench_env.language.pseudocode import assignments, pseudocode

OPERATORS = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div"}


def value(node: ast.expr, names: dict[str, Tensor]) -> Tensor:
    """Evaluates an expression with Python's precedence and order."""
    match node:
        case ast.Constant() | ast.UnaryOp(ast.USub()) | ast.Name("inf" | "nan"):
            return scalar(float(ast.unparse(node)))
        case ast.Name():
            return names[node.id]
        case ast.BinOp(left, ast.Pow(), ast.Constant(2)):
            return apply("square", value(left, names))
        case ast.BinOp(left, ast.Pow(), right):
            return apply("pow", value(left, names), value(right, names))
        case ast.BinOp(left, operator, right):
            return apply(OPERATORS[type(operator)], value(left, names), value(right, names))
        case ast.Call(ast.Name("size"), [ast.Name("w")]):
            return scalar(names["w"].numel())
        case ast.Call(ast.Name(function), inputs):
            assert len(inputs) == FUNCTIONS[function].arity
            return apply(function, *(value(source, names) for source in inputs))
    raise AssertionError(ast.dump(node))


def run(text: str, param: Tensor, grads: Sequence[Tensor]) -> list[Tensor]:
    """Returns the parameter after each step of pseudocode."""
    lines = [(line.targets[0].id, line.value) for line in ast.parse(text).body if isinstance(line, ast.Assign)]
    remembered = {name: scalar(0.0) for name, _ in lines if name.startswith("m") and not name.endswith("_old")}
    after = []
    for step, grad in enumerate(grads, start=1):
        names = {**remembered, "w": param, "g": grad, "t": scalar(step)}  # nothing else outlives a step
        for name, term in lines:
            names[name] = value(term, names)
        param = names["w"]
        remembered = {name: names[name] for name in remembered}
        after.append(param)
    return after


def trajectories(program: Program, text: str) -> list[tuple[Tensor, Tensor]]:
    """Returns the parameters after the steps, by the program and by the pseudocode."""
    pairs = []
    generator = torch.Generator().manual_seed(len(program))
    for shape in ((3, 4), (1,), ()):
        start = torch.randn(shape, generator=generator)
        grads = [torch.randn(shape, generator=generator) for _ in range(4)]
        param = torch.nn.Parameter(start.clone())
        optimizer = ProgramOptimizer([param], program)
        by_text = run(text, start, grads)
        for grad, got in zip(grads, by_text, strict=True):
            param.grad = grad.clone()
            optimizer.step()
            pairs.append((param.detach().clone(), got))
    return pairs


def assert_exact(program: Program) -> None:
    text = pseudocode(program, exact=True)
    for expected, got in trajectories(program, text):
        # Equal as numbers, as canonical forms are: a zero may have either sign, and a NaN any payload.
        assert torch.equal(torch.nan_to_num(expected, nan=1.5e38), torch.nan_to_num(got, nan=1.5e38)), (
            f"{program!r}\n{text}"
        )


@given(programs())
def test_pseudocode_of_random_programs_computes_what_they_do(program: Program) -> None:
    assert_exact(program)


@given(any_programs())
def test_so_does_that_of_the_whole_language(program: Program) -> None:
    assert_exact(program)


@given(memory_shuffles())
@settings(max_examples=300)
def test_so_does_that_of_programs_that_shuffle_their_memory(program: Program) -> None:
    assert_exact(program)


def test_so_does_that_of_descendants_of_known_programs() -> None:
    rng, space = np.random.default_rng(1), SearchSpace()
    for known in list(KNOWN_PROGRAMS.values()) * 15:
        program = space.admit(known)
        for _ in range(rng.integers(0, 4)):
            program = space.mutate(program, rng)
        assert_exact(program)


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_rounded_constants_are_close(name: str) -> None:
    for expected, got in trajectories(KNOWN_PROGRAMS[name], pseudocode(KNOWN_PROGRAMS[name])):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SGD", "m = 0*m + g\nw = w - 0.01*m"),  # the momentum is 0, but 0 * inf is not
        ("RMSprop", "m = 0.99*m + 0.01*g**2\nw = w - 0.01*(g/(sqrt(m) + 1e-08))"),
        (
            "AdamW",
            "m1 = 0.9*m1 + 0.1*g\n"
            "m2 = 0.999*m2 + 0.001*g**2\n"
            "x = m1/(1 - 0.9**t)/(sqrt(m2/(1 - 0.999**t)) + 1e-08)\n"
            "w = w - 0.001*(0.01*w + x)",
        ),
    ],
)
def test_known_optimizers_read_as_in_a_textbook(name: str, text: str) -> None:
    assert pseudocode(KNOWN_PROGRAMS[name]) == text


@pytest.mark.parametrize(
    ("program", "text"),
    [
        # Each memory needs what the other was.
        (
            "r11 = add(r9, grad); r9 = add(r10, 0.5); r10 = mul(r11, 0.1)",
            "m2_old = m2\nm2 = 0.1*(m1 + g)\nm1 = m2_old + 0.5\nw = w - m2",
        ),
        # The parameter as it was a step before.
        ("r10 = sub(param, r9); r9 = mul(param, 1.0); r10 = mul(r10, 1.0)", "m_old = m\nm = w\nw = w - (w - m_old)"),
        # A memory that changes after it was read.
        ("r10 = mul(r9, 0.1); r9 = mul(grad, 1.0); r11 = mul(r10, 1.0)", "w = w - 0.1*m\nm = g"),
        # A line that waits for a memory, which itself waits for a reader of what it was.
        (
            "r11 = sin(r9); r9 = add(grad, r9); r12 = exp(r9); r13 = cos(r12); r13 = sub(r12, r13); r14 = cos(r11); "
            "r14 = sub(r11, r14); r15 = sub(r13, r14)",
            "x2 = sin(m)\nm = m + g\nx1 = exp(m)\nw = w - (x1 - cos(x1) - (x2 - cos(x2)))",
        ),
        ("r9 = sub(0.1, 0.5); r9 = mul(r9, grad)", "w = w + 0.4*g"),
        ("r9 = sub(r15, 0.1); r12 = mul(r12, r9); r12 = add(grad, r12)", "m = g - 0.1*m\nw = w - m"),
        ("r9 = sub(grad, 0.1); r10 = sub(step, r9)", "w = w - (t - (g - 0.1))"),
        ("r9 = size(grad); r9 = div(grad, r9)", "w = w - g/size(w)"),
        ("r9 = mul(0.1, 0.1)", "w = w - 0.01"),
        ("r9 = sub(0.1, 0.1)", "# w never changes"),
        ("", "# w never changes"),
    ],
)
def test_pseudocode_worked_out_by_hand(program: str, text: str) -> None:
    assert pseudocode(Program.parse(program)) == text


def test_programs_of_one_canonical_form_read_alike() -> None:
    a, b = Program.parse("r9 = mul(grad, 0.1)"), Program.parse("r11 = exp(step); r10 = mul(0.1, grad)")
    assert pseudocode(a) == pseudocode(b)


def test_constants_near_one_keep_their_distance_from_it() -> None:
    program = Program.parse("r9 = sub(1.0, 1e-06); r9 = mul(r9, grad)")
    assert pseudocode(program) == "w = w - 0.999999*g"
    assert pseudocode(program, exact=True) == "w = w - 0.999999*g"
    program = Program.parse("r9 = sub(1.0, 0.1); r9 = sub(1.0, r9); r9 = mul(r9, grad)")
    assert pseudocode(program) == "w = w - 0.1*g"
    assert pseudocode(program, exact=True) == "w = w - 0.100000024*g"


def test_the_longest_programs_are_written_in_short_lines() -> None:
    text = "\n".join(["r9 = sin(grad)", *["r9 = sin(r9); r9 = add(r9, grad)"] * 511])
    program = Program.parse(text)
    assert_exact(program)
    assert max(map(len, pseudocode(program).splitlines())) < 120


def test_assignments_are_data() -> None:
    (line,) = assignments(canonical_form(Program.parse("r9 = mul(grad, 0.1)")))
    assert line.name == "w"
    assert line.term.op == "sub"
    assert [term.op for term in line.term.inputs] == ["name", "mul"]
