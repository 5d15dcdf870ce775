import math
from dataclasses import replace
from pathlib import Path

import pytest
from results import full_provenance, key, record

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, ResultStore, fingerprint
from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.results.verify import Comparison, NotVerifiable, draw_sample, verify
from nosbench_env.store import Record, StoredRun

IGNORES_GRADIENT = Program.parse("r9 = mul(param, 0.01)")
BLOWS_UP = Program.parse("r10 = div(step, 1e-6); r11 = exp(r10); r9 = mul(grad, r11)")


def identity_like(program: Program, key: ResultKey) -> str | None:
    return str(fingerprint(program, "paper")) if key.method == "paper-1" else None


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return Oracle("toy", tmp_path / "oracle.sqlite", "cpu", "paper", workers=1)


def trained(oracle: Oracle, program: Program, epochs: int = 3, **options: object) -> StoredRun:
    evaluation = oracle.query(program, epochs, **options)
    return next(run for run in oracle.store.runs() if run.key == evaluation.key)


def verified(*runs: StoredRun, **options: object) -> list[Comparison | NotVerifiable]:
    found: list[Comparison | NotVerifiable] = []
    verify(runs, found.append, device="cpu", **options)
    return sorted(found, key=lambda item: item.run.id)


def with_means(run: StoredRun, *means: float) -> StoredRun:
    return replace(run, record=replace(run.record, epoch_means=means))


def test_honest_results_are_found_right(oracle: Oracle) -> None:
    runs = [
        trained(oracle, KNOWN_PROGRAMS["AdamW"]),
        trained(oracle, KNOWN_PROGRAMS["SGD"], 5, seed=7),
        trained(oracle, IGNORES_GRADIENT),
        trained(oracle, IGNORES_GRADIENT, seed=3, last_epoch_only=True),
    ]
    for found in verified(*runs, identity_like=identity_like):
        assert isinstance(found, Comparison)
        assert (found.difference, found.within, found.identity, found.right) == (0.0, True, "same", True)
        assert found.again.epoch_means == found.run.record.epoch_means


def test_a_record_of_the_last_epoch_is_compared_there(oracle: Oracle) -> None:
    run = trained(oracle, KNOWN_PROGRAMS["SGD"])
    last = replace(run, record=Record(run.record.epoch_means[-1:], None, run.record.provenance, first_epoch=2))
    assert verified(last)[0].right
    assert not verified(with_means(last, run.record.epoch_means[0] + 1.0))[0].right


def test_a_false_loss_is_found(oracle: Oracle) -> None:
    run = trained(oracle, KNOWN_PROGRAMS["SGD"])
    first, second, third = run.record.epoch_means
    for means, difference in (((first, second, third - 0.5), 0.5), ((first, second + 0.25, third), 0.25)):
        (found,) = verified(with_means(run, *means))
        assert not found.within
        assert found.difference == pytest.approx(difference)
    assert verified(with_means(run, first, second, third + 0.1))[0].within
    assert not verified(with_means(run, first, second, third + 0.1), tolerance=0.05)[0].within


def test_what_no_rounding_changes_is_compared_closely(oracle: Oracle) -> None:
    run = trained(oracle, KNOWN_PROGRAMS["SGD"])
    first, second, third = run.record.epoch_means
    assert not verified(with_means(run, first + 1e-4, second, third))[0].within  # ten steps
    assert verified(with_means(run, first, second + 1e-4, third))[0].within
    free = trained(oracle, IGNORES_GRADIENT)
    means = free.record.epoch_means
    assert not verified(with_means(free, *means[:2], means[2] + 1e-4))[0].within
    assert verified(with_means(free, *means[:2], means[2] + 1e-7))[0].within


def test_a_death_is_compared_too(oracle: Oracle) -> None:
    task = oracle.task
    (curve,) = task.train_programs([BLOWS_UP], 3)
    assert curve.stopped_at is not None
    run = StoredRun(
        1, key(), Record(tuple(curve.epoch_means.tolist()), curve.stopped_at, {"program": BLOWS_UP.to_json()})
    )
    assert verified(run)[0].within
    (found,) = verified(with_means(run, 1.0, 1.0, 1.0))
    assert (found.difference, found.within) == (math.inf, False)
    sgd = trained(oracle, KNOWN_PROGRAMS["SGD"])
    assert verified(with_means(sgd, *sgd.record.epoch_means[:2], math.nan))[0].difference == math.inf


def test_a_result_under_the_key_of_another_program_is_found(oracle: Oracle) -> None:
    run, other = trained(oracle, KNOWN_PROGRAMS["SGD"]), trained(oracle, KNOWN_PROGRAMS["Adam"])
    (found,) = verified(replace(run, key=other.key), identity_like=identity_like)
    assert (found.within, found.identity, found.right) == (True, "other", False)
    value = float.fromhex(run.key.partition(":")[2])
    near = replace(run, key=run.key.partition(":")[0] + ":" + (value * (1 + 1e-7)).hex())  # another processor's
    assert verified(near, identity_like=identity_like)[0].identity == "same"
    for method in ("paper-2", "unknown-1"):
        (found,) = verified(replace(run, key=run.key.replace("paper-1", method)), identity_like=identity_like)
        assert (found.identity, found.right) == ("not compared", True)


@pytest.mark.parametrize(
    ("text", "result", "reason"),
    [
        (key(), record(1.0), "does not say which program"),
        ("a", record(1.0, **full_provenance()), "expected a key"),
        (key(task="toy-2"), record(1.0, **full_provenance()), "version 2 of the task; here is version 1"),
        (key(task="mine-1"), record(1.0, **full_provenance()), "unknown task 'mine'"),
        (key().replace("float32", "tf32"), record(1.0, **full_provenance()), "computes in 'float32' alone"),
        (key(), record(1.0, **full_provenance(program="x")), "a program is a list"),
    ],
)
def test_what_cannot_be_trained_again_is_told(text: str, result: Record, reason: str) -> None:
    (found,) = verified(StoredRun(1, text, result))
    assert isinstance(found, NotVerifiable)
    assert reason in found.reason


def test_samples_are_drawn_evenly_and_again_the_same(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "store.sqlite")
    store.add_many((key(f"{number}", task="pfn-1" if number % 10 else "toy-1"), record(1.0)) for number in range(50))
    drawn = [run.id for run in draw_sample(store, 5, seed=3)]
    assert drawn == [run.id for run in draw_sample(store, 5, seed=3)] == sorted(set(drawn))
    counts = [0] * 51
    for seed in range(400):
        for run in draw_sample(store, 5, seed):
            counts[run.id] += 1
    assert min(counts[1:]) > 15
    assert max(counts[1:]) < 75  # 40 expected
    assert len(draw_sample(store, 1000, 0)) == 50
    assert len(draw_sample(store, 1000, 0, Selection(task="toy"))) == 5
    with pytest.raises(ValueError, match="1 result or more, got 0"):
        draw_sample(store, 0, 0)


def test_a_senseless_tolerance_is_refused() -> None:
    for tolerance in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance"):
            verified(tolerance=tolerance)
