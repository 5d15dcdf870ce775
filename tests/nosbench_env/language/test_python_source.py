import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exported import of_program, same, start_and_gradients, trajectory
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nosbench_env import KNOWN_PROGRAMS, InvalidProgram, Program, canonical_form


def step(body: str, signature: str = "w, grad, t") -> Program:
    lines = [line.strip() for line in body.strip().split("\n")]
    return Program.from_python("\n    ".join([f"def step({signature}):", *lines]))


def test_optimizers_written_by_hand_are_the_known_ones() -> None:
    adam = step(
        """
        m = 0.9 * m + 0.100000024 * grad
        v = 0.999 * v + 0.0009999871 * grad ** 2
        m_hat = m / (1 - 0.9 ** t)
        v_hat = v / (1 - 0.999 ** t)
        w = w - 0.001 * (m_hat / (torch.sqrt(v_hat) + 1e-8))
        """
    )
    assert canonical_form(adam) == canonical_form(KNOWN_PROGRAMS["Adam"])
    adagrad = step("total += grad.square()\nreturn 0.01 * (grad / (total.sqrt() + 1e-8))", "w, grad")
    assert canonical_form(adagrad) == canonical_form(KNOWN_PROGRAMS["Adagrad"])


def adam_by_torch(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=0.001)


def test_numbers_are_those_of_python() -> None:
    """1 - 0.999 is 0.001, as Python computes it and torch.optim.Adam uses it; not the difference in float32."""
    adam = step(
        """
        beta1 = 0.9
        beta2 = 1 - 0.001
        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad * grad
        w = w - 0.001 * ((m / (1 - beta1 ** t)) / ((v / (1 - beta2 ** t)) ** 0.5 + 1e-8))
        """
    )
    start, grads = start_and_gradients()
    expected, got = trajectory(adam_by_torch, start, grads), of_program(adam, start, grads)
    for of_expected, of_got in zip(expected, got, strict=True):
        torch.testing.assert_close(of_got, of_expected, rtol=1e-6, atol=1e-7)


def run_by_hand(source: Callable[..., tuple[torch.Tensor, ...]], memories: int) -> list[list[torch.Tensor]]:
    """All parameters after each step of a function that returns the update and what it remembers."""
    start, grads = start_and_gradients()
    params, memory = [tensor.clone() for tensor in start], [[torch.tensor(0.0)] * memories for _ in start]
    after = []
    for number, of_step in enumerate(grads, start=1):
        for place, grad in enumerate(of_step):
            update, *memory[place] = source(params[place], grad, torch.tensor(float(number)), *memory[place])
            params[place] = params[place] - update
        after.append(list(params))
    return after


@pytest.mark.parametrize(
    ("body", "by_hand"),
    [
        ("m = grad\nreturn 0.1 * m", lambda w, g, t, m: (0.1 * g, g)),
        ("old = m\nm = grad\nreturn old - m * t", lambda w, g, t, m: (m - g * t, g)),
        ("u = a\na = b + grad\nb = u\nreturn a + b", lambda w, g, t, a, b: (b + g + a, b + g, a)),  # they change places
        ("w = w + 0.1 * m\nm = grad", lambda w, g, t, m: (-(0.1 * m), g)),
        ("m = m + 1\nn = m\nreturn grad * n", lambda w, g, t, m, n: (g * (m + 1), m + 1, m + 1)),
        ("m = w\nreturn grad + 0 * m", lambda w, g, t, m: (g + 0 * w, w)),
        ("return w", lambda w, g, t: (w,)),
        ("return 0.5", lambda w, g, t: (torch.tensor(0.5),)),
        ("return grad.clamp(-0.1, 0.1)", lambda w, g, t: (g.clamp(-0.1, 0.1),)),
        ("return torch.clamp(grad, max=0.1)", lambda w, g, t: (g.clamp(max=0.1),)),
        ("return -grad / w.numel() - +w", lambda w, g, t: (-g / w.numel() - w,)),
        ("return torch.linalg.vector_norm(grad) * grad.sign() ** 2", lambda w, g, t: (g.norm() * g.sign() ** 2,)),
        ("return torch.reciprocal(grad.abs() + 1) ** -1", lambda w, g, t: (1 / (1 / (g.abs() + 1)),)),
        (
            "return torch.heaviside(grad, w) + torch.max(w, grad)",
            lambda w, g, t: (torch.heaviside(g, w) + g.maximum(w),),
        ),
        ("return grad * (2 * 3 - 4 / 2 ** 2)", lambda w, g, t: (g * 5,)),
        ("return torch.log(grad - grad) * torch.inf", lambda w, g, t: (torch.full_like(g, -torch.inf),)),
    ],
)
def test_steps_do_what_torch_does(body: str, by_hand: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    program = step(body)
    memories = by_hand.__code__.co_argcount - 3
    assert same(of_program(program, *start_and_gradients()), run_by_hand(by_hand, memories)), str(program)


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ("", "def step("),
        ("x = = 1", "line 1: "),
        (
            "def step(w, grad):\n    w -= 0.001 * w\n    w -= 0.01 * grad",
            "line 3: w ",
        ),
        ("def step(w, w):\n    return w", "w, w"),
        ("def step(w, grad): return w.__class__", "line 1: w.__class__ "),
        ("def step(w, grad):\n    return open('/etc/passwd')", "line 2: |'open'"),
        ("def step(w, grad):\n    return __import__('os').system(grad)", "line 2"),
        ("import os\nos.remove('x')", "line 2: "),
        ("def step(w, grad):\n    for x in grad: pass", "line 2: for x in grad:"),
        ("def step(w, grad):\n    m.mul_(0.9)\n    return m", "line 2: m.mul_(0.9)"),
        ("def step(w, grad):\n    return momentum * grad", "line 2: |'momentum'"),
        ("def step(w, grad):\n    return torch.tanh(grad)", "line 2: |'tanh'|sqrt"),
        ("def step(w, grad):\n    return torch.sqrt(grad, w)", "line 2: sqrt |1 input|2"),
        ("def step(w, grad):\n    return torch.std(grad, unbiased=False)", "line 2: std |unbiased=False"),
        ("def step(w, grad):\n    return grad ** 3", "line 2: |x ** 2|x / (1 - b ** t)"),
        ("def step(w, grad, t):\n    return (1 - 0.9 ** t) ** 0.5 * grad", "line 2: |x ** 2|x / (1 - b ** t)"),
        ("def step(w, grad):\n    return 123.456 * grad", "line 2: 123.456 |1.0, 0.5, 0.1"),
        ("def step(w, grad):\n    return grad * (1 / 0)", "line 2: 1 / 0: "),
        ("def step(w, grad):\n    return grad * (10.0 ** 10 ** 10)", "line 2"),
        ("def step(w, grad):\n    return grad * (-1) ** 0.5", "line 2: (-1) ** 0.5 |real"),
        ("def step(w, grad):\n    return w - 0.1 * grad", "line 2: |update|'w = w - 0.1 * grad'"),
        ("def step(w, grad):\n    w = 0.1 * grad", "line 2: |'w = w - ...'"),
        ("def step(w, grad):\n    w -= grad\n    m = w\n    w -= m", "line 3: w "),
        ("def step(w, grad):\n    grad = 2 * grad\n    return grad", "line 1: |'grad'"),
        ("def step(w, grad):\n    return grad\n    m = 1", "line 2: 'return'"),
        ("def step(w, grad):\n    m = grad", "'w = w - ...'|return"),
        ("def step(w): return w", "line 1: |'def step(w, grad, t, ...)'"),
        ("def step(w, grad, lr=0.1): return lr * grad", "line 1: |defaults"),
        ("@compiled\ndef step(w, grad): return grad", "line 2: |decorators"),
        ("def step(w, grad): return grad\ndef other(w, grad): return w", "line 2: |'step'"),
        ("def step(w, grad): return True * grad", "line 1: True "),
        ("def step(w, grad): return grad if grad else w", "line 1: grad if grad else w "),
        ("def step(w, grad): return (lambda: grad)()", "line 1: lambda: grad "),
        ("def step(w, grad): return grad[0]", "line 1: grad[0] "),
        ("def step(w, grad): return f'{grad}'", "line 1: f'{grad}' "),
        (f"def step(w, grad): return {'(' * 90}grad{')' * 90}" + "\x00", "Python"),
        (f"def step(w, grad): return {'-' * 5000}grad", ""),
        (f"def step(w, grad): return {' + '.join(['grad'] * 5000)}", ""),
        (f"def step(w, grad): return {'(' * 3000}grad{')' * 3000}", ""),
        (f"def step(w, grad): return {'9' * 5000} * grad", ""),
        ("def step(w, grad): return grad" + " " * 70000, "65,536|70,030"),
        (
            "def step(w, grad):\n" + "".join(f"    x{n} = grad * w + grad / 0.1 ** 2 - x{n}\n" for n in range(600)),
            "return",
        ),
    ],
)
def test_other_sources_are_refused_with_a_reason(source: str, facts: str) -> None:
    with pytest.raises(InvalidProgram) as refused:
        Program.from_python(source)
    assert [fact for fact in facts.split("|") if fact not in str(refused.value)] == [], str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_source_must_be_text() -> None:
    with pytest.raises(InvalidProgram, match="must be a string, got int"):
        Program.from_python(3)


@given(st.text(max_size=60))
@settings(max_examples=50)
@example("def step(w, grad): return grad")
def test_any_text_is_a_step_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidProgram):
        Program.from_python(text)


def test_too_many_memories_are_refused() -> None:
    names = [f"m{number}" for number in range(260)]
    body = [f"{name} = {name} + grad" for name in names] + [f"return {' + '.join(names[:90])}"]
    assert len(step("\n".join(body))) == 179  # those that reach no update are left out
    sums = [f"s{place} = {' + '.join(names[place : place + 65])}" for place in range(0, 260, 65)]
    with pytest.raises(InvalidProgram, match="more than 247 slots"):
        step("\n".join([*body[:-1], *sums, "return s0 + s65 + s130 + s195"]))


def test_a_file_is_evaluated(nosbench: Callable[..., object], tmp_path: Path) -> None:
    path = tmp_path / "my_step.py"
    path.write_text("def step(w, grad):\n    m = 0.9 * m + grad\n    w = w - 0.01 * m\n")
    result = nosbench("evaluate", str(path), "--task", "toy", "--epochs", "1", "--quiet")
    assert result.code == 0
    path.write_text("def step(w, grad):\n    return torch.tanh(grad)\n")
    result = nosbench("evaluate", str(path), "--task", "toy")
    assert result.code == 2
    assert f"{path}: line 2: unknown function 'tanh'" in result.err
