import pytest
import torch
from hypothesis import given, settings
from strategies import programs

from nosbench_env import KNOWN_PROGRAMS, Program, fingerprint
from nosbench_env.identity.fingerprint import probed
from nosbench_env.identity.probe import ANY_PROBE, PFN_PROBE
from nosbench_env.tasks.toy import TOY_PROBE


@pytest.mark.parametrize(
    ("program", "same"),
    [
        ("r9 = mul(grad, 0.1); r9 = mul(r9, 0.1)", "r9 = mul(grad, 0.01)"),  # rounding
        ("r9 = div(param, 0.1); r9 = mul(r9, 0.001)", "r9 = mul(param, 0.01)"),
        ("r9 = mul(param, grad); r9 = div(r9, 0.1); r9 = mul(r9, 0.1)", "r9 = mul(grad, param)"),
        ("r9 = sub(grad, grad); r9 = add(r9, grad)", "r9 = mul(grad, 1.0)"),
        ("r9 = mul(r9, r30); r10 = sub(r9, grad)", "r9 = sub(r30, grad)"),
        ("r9 = mul(1e-06, 1e-06); r9 = mul(r9, param)", ""),  # updates that leave no trace
        (
            "r9 = sign(step); r10 = mul(grad, 0.001); r9 = mul(r9, r10)",
            "r9 = mul(grad, 0.001)",
        ),  # reads the step in vain
        ("r9 = add(r9, 1.0); r10 = mul(grad, r9)", "r10 = add(r9, 1.0); r9 = mul(r10, 1.0); r11 = mul(r10, grad)"),
    ],
)
def test_the_probe_sees_through_rounding(program: str, same: str) -> None:
    assert fingerprint(Program.parse(program)) == fingerprint(Program.parse(same))


@pytest.mark.parametrize(
    ("program", "other"),
    [
        # The paper's proxy cannot tell these pairs apart.
        ("r9 = mul(param, 0.1)", "r9 = mul(param, 0.1); r9 = sin(r9)"),
        ("r9 = maximum(param, 0.5)", "r9 = maximum(grad, 0.5)"),
        ("r9 = size(param); r9 = div(grad, r9)", "r9 = mul(grad, 0.1)"),
        (
            "r9 = norm(param); r9 = mul(grad, r9)",
            "r9 = square(param); r9 = mean(r9); r9 = sqrt(r9); r9 = mul(grad, r9)",
        ),
        # They differ at gradients that are exactly 0, at late steps, or at the first step alone.
        ("r9 = heaviside(grad, 0.5)", "r9 = heaviside(grad, 1.0)"),
        ("r10 = div(1.0, 0.001); r9 = minimum(step, r10)", "r9 = mul(step, 1.0)"),
        ("r10 = minimum(step, 1.0); r10 = sub(step, r10); r10 = sign(r10); r9 = mul(grad, r10)", "r9 = mul(grad, 1.0)"),
        # Few gradients are that large, and only in the first steps.
        ("r9 = div(grad, step)", "r9 = sqrt(0.001); r10 = div(grad, step); r9 = minimum(r9, r10)"),
        # Rounding decides: single precision gives multiples of 1/16, or loses most digits.
        ("r9 = exp(grad); r9 = log(r9)", "r9 = mul(grad, 1.0)"),
        ("r9 = div(1.0, 1e-06); r10 = add(r9, param); r10 = sub(r10, r9)", "r9 = mul(param, 1.0)"),
    ],
)
def test_the_probe_tells_apart(program: str, other: str) -> None:
    assert fingerprint(Program.parse(program)) != fingerprint(Program.parse(other))


@pytest.mark.parametrize(
    "program",
    [
        "r9 = log(grad)",
        "r9 = div(grad, param)",  # weights that start as 0
        "r9 = div(1.0, grad)",  # gradients of the first step that are 0
        "r9 = sub(0.1, step); r9 = log(r9)",
        "r9 = mul(step, 10.0)".replace("10.0", "step") + "; r9 = exp(r9)",  # overflows in single precision
        "r9 = mul(0.01, step); r9 = sub(0.5, r9); r9 = log(r9)",  # at step 50
    ],
)
def test_certain_divergence_is_recognised(program: str) -> None:
    certain = fingerprint(Program.parse(program))
    assert (certain.status, certain.value) == ("nan", None)
    assert fingerprint(Program.parse(program), probe=ANY_PROBE).status == "ok"  # nothing is known of the task


@pytest.mark.parametrize(
    "program",
    [
        "r9 = sub(r30, param); r9 = mul(r9, 0.1)",  # grows, but not to infinity within an epoch
        "r9 = std(param)",  # NaN for a tensor of one element, of which the PFN has none
        "r9 = arcsin(grad)",
        # Only as large a gradient as the probe has would make it diverge.
        "r10 = mul(0.5, 0.1); r9 = sub(r10, grad); r9 = sqrt(r9); r9 = mul(r9, 1e-06); r11 = mul(grad, 0.01); "
        "r11 = add(r11, r9)",
        "r9 = mul(0.01, step); r9 = sub(1.0, r9); r9 = log(r9)",  # at step 100: the first epoch is still finite
        # Means and deviations of eight elements are far from the tensor's: with 0.1 * grad added these train well.
        "r9 = mean(grad); r9 = div(r9, 0.01); r9 = arcsin(r9)",
        "r9 = std(param); r10 = add(0.5, 0.1); r9 = div(r9, r10); r9 = arcsin(r9)",
    ],
)
def test_programs_that_may_survive_are_trained(program: str) -> None:
    assert fingerprint(Program.parse(program)).status == "ok"


def test_programs_that_die_at_once_stay_apart_on_tasks_where_they_may_live() -> None:
    """Unknown tasks may have other gradients and tensors."""
    texts = ("r9 = log(param)", "r9 = div(grad, param)", "r9 = norm(grad); r9 = div(grad, r9); r9 = mul(r9, 0.1)")
    values = [fingerprint(Program.parse(text), probe=ANY_PROBE) for text in texts]
    assert len(set(values)) == len(texts)
    again = Program.parse("r9 = exp(step); r10 = log(param)")
    assert fingerprint(again, probe=ANY_PROBE) == values[0]


def test_fingerprints_of_tasks_differ() -> None:
    program = KNOWN_PROGRAMS["SGD"]
    assert len({str(fingerprint(program, probe=probe)) for probe in (PFN_PROBE, TOY_PROBE, ANY_PROBE)}) == 3


@given(programs())
@settings(deadline=None, max_examples=200)
def test_any_program_has_a_fingerprint_and_its_simplified_form_the_same(program: Program) -> None:
    assert fingerprint(program.simplified()) == fingerprint(program)


def test_the_longest_programs_have_fingerprints() -> None:
    text = "\n".join(f"r{9 + i % 200} = interpolate(r{9 + (i + 1) % 200}, grad, r11)" for i in range(1024))
    assert fingerprint(Program.parse(text)).identity.endswith(f"-{PFN_PROBE.name}")


def test_fingerprints_do_not_depend_on_how_the_thread_treats_subnormal_numbers() -> None:
    tiny = Program.parse("r9 = mul(1e-06, 1e-06); r9 = square(r9); r9 = mul(r9, r9); r9 = sign(r9)")  # 1e-48 is 0
    smaller = Program.parse("r9 = mul(grad, 1e-06)" + "; r9 = mul(r9, 1e-06)" * 6 + "; r9 = sign(r9)")
    expected = [fingerprint(tiny), fingerprint(smaller)]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush subnormal numbers")
    try:
        probed.cache_clear()
        assert [fingerprint(tiny), fingerprint(smaller)] == expected
        assert float(torch.tensor(1e-38) * 0.1) == 0  # the caller's setting is given back
    finally:
        torch.set_flush_denormal(False)
