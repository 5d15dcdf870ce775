import math
from pathlib import Path

import pytest

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, canonical_form
from nosbench_env.identity.identify import identify
from nosbench_env.postprocessing import Evaluator, shorten, shortening
from nosbench_env.postprocessing.shortening import TrainingProof
from nosbench_env.tasks.task import probe_of

INCUMBENT = KNOWN_PROGRAMS["Incumbent"]


@pytest.fixture
def evaluator(tmp_path: Path) -> Evaluator:
    return Evaluator(Oracle("toy", tmp_path / "store.sqlite", "cpu", "canonical", workers=1), 2, (0, 1))


@pytest.mark.slow  # 20 seconds of CPU time
def test_the_incumbent_loses_what_never_decides(evaluator: Evaluator) -> None:
    """maximum(clip(0.01, x), sqrt(maximum(x, 1e-6))) is its second argument for all x: clip(0.01, x) <= sqrt(x)."""
    found = shorten(INCUMBENT, evaluator)
    assert found.canonical == INCUMBENT
    assert [str(step.replacement.instruction) for step in found.steps] == ["r13 = maximum(r9, r17)"]
    assert len(found.probed) == 12
    assert found.training == TrainingProof(0.0, pytest.approx(float("nan"), nan_ok=True))
    assert found.training.verdict == "equal to the last bit"
    task = evaluator.oracle.task
    assert identify(found.probed, "fingerprint", probe_of(task)) == identify(INCUMBENT, "fingerprint", probe_of(task))
    assert canonical_form(found.probed) != canonical_form(INCUMBENT)
    ours, original = (evaluator.at([5]).losses([program])[0] for program in (found.probed, INCUMBENT))
    assert ours == original  # also at a seed that took no part
    assert found.approximated == found.probed


def test_what_falls_away_for_certain_needs_no_training(evaluator: Evaluator) -> None:
    program = Program.parse("r9 = exp(step); r10 = mul(grad, 1.0); r9 = mul(r10, 0.1)")
    found = shorten(program, evaluator)
    assert str(found.canonical) == "r9 = mul(grad, 0.1)"
    assert (found.steps, found.training) == ((), None)
    assert evaluator.oracle.statistics.queries == 0


def test_what_differs_is_never_called_equal(evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the fingerprint says: here it takes all programs for one."""
    monkeypatch.setattr(shortening, "identify", lambda program, identity, task: ("all", "ok"))
    program = Program.parse("r9 = sign(grad); r9 = mul(r9, 0.01)")
    found = shorten(program, evaluator)
    assert found.probed == program
    assert (found.steps, found.training) == ((), None)
    assert len(found.refused) == 1
    for _, proof in found.refused:
        assert proof.verdict == "different"
        assert proof.difference > 1e-3 > 1e-5 > proof.rounding > 0
    assert found.to_json()["refused"][0]["training"]["verdict"] == "different"


def test_a_difference_of_rounding_is_called_so(evaluator: Evaluator) -> None:
    """The gradient times 0.2, with more or fewer roundings on the way."""
    found = shortening._Measure(Program.parse("r9 = mul(grad, 0.1); r9 = add(r9, r9)"), evaluator).compare(
        Program.parse("r9 = mul(0.1, 0.1); r9 = div(grad, r9); r9 = mul(r9, 0.001); r9 = add(r9, r9)")
    )
    assert 0 < found.difference < 1e-5
    assert found.verdict == "equal up to rounding"


@pytest.mark.parametrize(
    ("difference", "rounding", "verdict"),
    [
        (0.0, math.nan, "equal to the last bit"),
        (9e-7, 1e-7, "equal up to rounding"),
        (2e-6, 1e-7, "different"),
        (1e-9, 0.0, "different"),
        (math.inf, 1e-7, "different"),
        (math.inf, math.inf, "different"),
        (5.0, math.inf, "different"),
    ],
)
def test_the_verdict_of_training(difference: float, rounding: float, verdict: str) -> None:
    assert TrainingProof(difference, rounding).verdict == verdict


@pytest.mark.slow
def test_a_tolerance_takes_out_what_changes_little_and_says_by_how_much(evaluator: Evaluator) -> None:
    program, evaluator = KNOWN_PROGRAMS["HeroLion"], Evaluator(evaluator.oracle, 1, (0,))
    found = shorten(program, evaluator, tolerance=0.002)
    assert found.approximate
    (original,) = evaluator.losses([program])
    for step in found.approximate:
        (losses,) = evaluator.losses([step.replacement.program])
        assert step.change.mean == pytest.approx((losses - original).mean())
        assert step.change.mean <= 0.002
    assert len(found.approximated) < len(found.probed)
    none = shorten(program, evaluator, tolerance=0.0)
    assert all(step.change.mean <= 0 for step in none.approximate)


def test_a_program_that_diverges_on_the_probe_is_left_alone(evaluator: Evaluator) -> None:
    program = Program.parse("r10 = exp(grad); r9 = log(r9); r9 = mul(r9, r10)")
    found = shorten(program, evaluator)
    assert found.behaviour == "nan"
    assert found.probed == found.canonical
    with pytest.raises(ValueError, match="nothing to compare with"):
        shorten(program, evaluator, tolerance=0.1)


def test_the_empty_program_stays_empty(evaluator: Evaluator) -> None:
    assert shorten(Program(), evaluator).probed == Program()


def test_wrong_arguments_are_said(evaluator: Evaluator, oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="must have identity='canonical'"):
        shorten(INCUMBENT, Evaluator(oracle, 1))
    with pytest.raises(ValueError, match="tolerance must be a number >= 0, got -1"):
        shorten(INCUMBENT, evaluator, tolerance=-1)
    with pytest.raises(TypeError, match="must be a Program"):
        shorten("r9 = mul(grad, 0.1)", evaluator)
