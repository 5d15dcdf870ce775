import math
from dataclasses import replace
from pathlib import Path

import pytest
from results import full_provenance, key, record

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, ResultStore, fingerprint
from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.results.verify import NotVerifiable, Verified, draw_sample, verify
from nosbench_env.store import Record, StoredRecord

IGNORES_GRADIENT = Program.parse("r9 = mul(param, 0.01)")
BLOWS_UP = Program.parse("r10 = div(step, 1e-6); r11 = exp(r10); r9 = mul(grad, r11)")


def identity_value_of(program: Program, key: ResultKey) -> str | None:
    return str(fingerprint(program, "paper")) if key.identity == "paper-1" else None


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return Oracle("toy", tmp_path / "oracle.sqlite", "cpu", "paper", workers=1)


def trained(oracle: Oracle, program: Program, epochs: int = 3, **options: object) -> StoredRecord:
    evaluation = oracle.query(program, epochs, **options)
    return next(stored for stored in oracle.store.records() if stored.key == evaluation.key)


def verified(*records: StoredRecord, **options: object) -> list[Verified | NotVerifiable]:
    outcomes: list[Verified | NotVerifiable] = []
    verify(records, outcomes.append, device="cpu", **options)
    return sorted(outcomes, key=lambda outcome: outcome.stored.id)


def with_means(stored: StoredRecord, *means: float) -> StoredRecord:
    return replace(stored, record=replace(stored.record, epoch_means=means))


def test_honest_results_are_found_right(oracle: Oracle) -> None:
    records = [
        trained(oracle, KNOWN_PROGRAMS["AdamW"]),
        trained(oracle, KNOWN_PROGRAMS["SGD"], 5, seed=7),
        trained(oracle, IGNORES_GRADIENT),
        trained(oracle, IGNORES_GRADIENT, seed=3, last_epoch_only=True),
    ]
    for verdict in verified(*records, identity_value_of=identity_value_of):
        assert isinstance(verdict, Verified)
        assert (verdict.difference, verdict.within, verdict.identity, verdict.right) == (0.0, True, "same", True)
        assert verdict.again.epoch_means == verdict.stored.record.epoch_means


def test_a_record_of_the_last_epoch_is_compared_there(oracle: Oracle) -> None:
    stored = trained(oracle, KNOWN_PROGRAMS["SGD"])
    last = replace(stored, record=Record(stored.record.epoch_means[-1:], None, stored.record.provenance, first_epoch=2))
    assert verified(last)[0].right
    assert not verified(with_means(last, stored.record.epoch_means[0] + 1.0))[0].right


def test_a_false_loss_is_found(oracle: Oracle) -> None:
    stored = trained(oracle, KNOWN_PROGRAMS["SGD"])
    first, second, third = stored.record.epoch_means
    for means, difference in (((first, second, third - 0.5), 0.5), ((first, second + 0.25, third), 0.25)):
        (verdict,) = verified(with_means(stored, *means))
        assert not verdict.within
        assert verdict.difference == pytest.approx(difference)
    assert verified(with_means(stored, first, second, third + 0.1))[0].within
    assert not verified(with_means(stored, first, second, third + 0.1), tolerance=0.05)[0].within


def test_what_no_rounding_changes_is_compared_closely(oracle: Oracle) -> None:
    stored = trained(oracle, KNOWN_PROGRAMS["SGD"])
    first, second, third = stored.record.epoch_means
    assert not verified(with_means(stored, first + 1e-4, second, third))[0].within  # ten steps
    assert verified(with_means(stored, first, second + 1e-4, third))[0].within
    free = trained(oracle, IGNORES_GRADIENT)
    means = free.record.epoch_means
    assert not verified(with_means(free, *means[:2], means[2] + 1e-4))[0].within
    assert verified(with_means(free, *means[:2], means[2] + 1e-7))[0].within


def test_a_death_is_compared_too(oracle: Oracle) -> None:
    task = oracle.task
    (curve,) = task.train_programs([BLOWS_UP], 3)
    assert curve.stopped_at is not None
    stored = StoredRecord(
        1, key(), Record(tuple(curve.epoch_means.tolist()), curve.stopped_at, {"program": BLOWS_UP.to_json()})
    )
    assert verified(stored)[0].within
    (verdict,) = verified(with_means(stored, 1.0, 1.0, 1.0))
    assert (verdict.difference, verdict.within) == (math.inf, False)
    sgd = trained(oracle, KNOWN_PROGRAMS["SGD"])
    assert verified(with_means(sgd, *sgd.record.epoch_means[:2], math.nan))[0].difference == math.inf


def test_a_result_under_the_key_of_another_program_is_found(oracle: Oracle) -> None:
    stored, other = trained(oracle, KNOWN_PROGRAMS["SGD"]), trained(oracle, KNOWN_PROGRAMS["Adam"])
    (verdict,) = verified(replace(stored, key=other.key), identity_value_of=identity_value_of)
    assert (verdict.within, verdict.identity, verdict.right) == (True, "other", False)
    value = float.fromhex(stored.key.partition(":")[2])
    near = replace(stored, key=stored.key.partition(":")[0] + ":" + (value * (1 + 1e-7)).hex())  # another processor's
    assert verified(near, identity_value_of=identity_value_of)[0].identity == "same"
    for identity in ("paper-2", "unknown-1"):
        (verdict,) = verified(
            replace(stored, key=stored.key.replace("paper-1", identity)), identity_value_of=identity_value_of
        )
        assert (verdict.identity, verdict.right) == ("not compared", True)


@pytest.mark.parametrize(
    ("text", "result", "reason"),
    [
        (key(), record(1.0), "does not name the program"),
        ("a", record(1.0, **full_provenance()), "expected a key"),
        (key(task="toy-2"), record(1.0, **full_provenance()), "version 2 of the task"),
        (key(task="mine-1"), record(1.0, **full_provenance()), "unknown task 'mine'"),
        (key().replace("float32", "tf32"), record(1.0, **full_provenance()), "computes only in 'float32'"),
        (key(), record(1.0, **full_provenance(program="x")), "a program is a list"),
    ],
)
def test_what_cannot_be_trained_again_is_told(text: str, result: Record, reason: str) -> None:
    (verdict,) = verified(StoredRecord(1, text, result))
    assert isinstance(verdict, NotVerifiable)
    assert reason in verdict.reason


def test_samples_are_drawn_evenly_and_again_the_same(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "store.sqlite")
    store.add_many((key(f"{number}", task="pfn-1" if number % 10 else "toy-1"), record(1.0)) for number in range(50))
    drawn = [stored.id for stored in draw_sample(store, 5, seed=3)]
    assert drawn == [stored.id for stored in draw_sample(store, 5, seed=3)] == sorted(set(drawn))
    counts = [0] * 51
    for seed in range(400):
        for stored in draw_sample(store, 5, seed):
            counts[stored.id] += 1
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
