import copy
import json
import math
import pickle
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import programs

from nosbench_env import KNOWN_PROGRAMS, Evaluation, Oracle, Program, ResultStore, make_task
from nosbench_env.store import Record

ADAM, SGD = KNOWN_PROGRAMS["Adam"], KNOWN_PROGRAMS["SGD"]
SGD_OTHERWISE = Program.parse("r10 = mul(grad, 0.01)")
DIVERGES = Program.parse("r9 = log(-1.0)".replace("-1.0", "r9") + "; r9 = mul(r9, r10)")
# Lives on the probe (10 steps) and dies on the task at step 26, in epoch 3.
DIES_AT_26 = Program.parse(
    "r9 = mul(0.1, step); r10 = add(1.0, 1.0); r10 = add(r10, 0.5); r9 = sub(r10, r9); r9 = add(r9, 0.01)"
    "; r9 = log(r9); r9 = mul(r9, 1e-06)"
)


def test_a_first_query_trains_and_a_second_is_a_hit_with_the_same_answer(oracle: Oracle) -> None:
    first, second = oracle.query(ADAM, epochs=3), oracle.query(ADAM, epochs=3)
    assert (first.hit, first.source, second.hit, second.source) == (False, "trained", True, "store")
    assert first.loss == second.loss == first.curve[-1]
    assert first.curve == second.curve
    assert first.status == "ok"
    expected = make_task("toy", "cpu").train_programs([ADAM], epochs=3)[0]
    assert first.curve == tuple(expected.epoch_means)


def test_fewer_epochs_are_answered_from_the_curve_and_more_are_trained(oracle: Oracle) -> None:
    long = oracle.query(ADAM, epochs=4)
    short = oracle.query(ADAM, epochs=2)
    assert short.hit
    assert short.curve == long.curve[:2]
    longer = oracle.query(ADAM, epochs=6)
    assert not longer.hit
    assert longer.curve[:4] == long.curve
    assert oracle.query(ADAM, epochs=5).hit


def test_default_epochs_are_the_tasks(oracle: Oracle) -> None:
    assert oracle.query(SGD).epochs == len(oracle.query(SGD).curve) == 20


def test_equivalent_programs_train_once(oracle: Oracle) -> None:
    first, second = oracle.query(SGD, epochs=1), oracle.query(SGD_OTHERWISE, epochs=1)
    assert second.hit
    assert second.key == first.key
    assert second.program == SGD_OTHERWISE
    assert Program.from_json(second.provenance["program"]) == SGD


def test_query_many_trains_each_distinct_unknown_program_once_and_keeps_the_order(oracle: Oracle) -> None:
    oracle.query(ADAM, epochs=1)
    trained: list[Program] = []
    asked = [SGD, ADAM, DIVERGES, SGD_OTHERWISE, KNOWN_PROGRAMS["RMSprop"], SGD]
    found = oracle.query_many(asked, epochs=1, on_trained=lambda program, curve: trained.append(program))
    assert [evaluation.program for evaluation in found] == asked
    assert trained == [SGD, KNOWN_PROGRAMS["RMSprop"]]
    assert [evaluation.source for evaluation in found] == ["trained", "store", "probe", "store", "trained", "store"]
    assert oracle.query_many([], epochs=1) == []


def test_seeds_have_results_of_their_own(oracle: Oracle) -> None:
    losses = {oracle.query(SGD, epochs=1, seed=seed).loss for seed in range(3)}
    assert len(losses) == 3
    assert oracle.query(SGD, epochs=1, seed=2).hit


def test_a_program_that_diverges_on_the_probe_is_not_trained(oracle: Oracle) -> None:
    found = oracle.query(DIVERGES)
    assert (found.status, found.source, found.hit, found.curve) == ("nan", "probe", True, ())
    assert math.isnan(found.loss)
    assert oracle.statistics.trained == 0


def test_a_program_that_dies_late_is_ok_before_and_nan_after(oracle: Oracle) -> None:
    assert oracle.query(DIES_AT_26, epochs=2).status == "ok"
    dead = oracle.query(DIES_AT_26, epochs=3)
    assert (dead.status, dead.source) == ("nan", "trained")
    assert [math.isfinite(mean) for mean in dead.curve] == [True, True, False]
    longer = oracle.query(DIES_AT_26, epochs=20)
    assert (longer.status, longer.source, len(longer.curve)) == ("nan", "store", 20)
    assert oracle.query(DIES_AT_26, epochs=2).status == "ok"


def test_statistics_count_hits_with_and_without_diverged(oracle: Oracle) -> None:
    assert math.isnan(oracle.statistics.hit_rate)
    oracle.query_many([SGD, SGD_OTHERWISE, DIVERGES, ADAM], epochs=1)
    counts = oracle.statistics
    assert (counts.queries, counts.trained, counts.stored, counts.diverged) == (4, 2, 1, 1)
    assert counts.hit_rate == 0.5
    assert counts.hit_rate_excluding_diverged == pytest.approx(1 / 3)


def test_each_result_is_stored_before_the_next_training_begins(oracle: Oracle) -> None:
    stored: list[int] = []

    def interrupt(program: Program, curve: object) -> None:
        stored.append(len(oracle.store))
        if len(stored) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        oracle.query_many([SGD, ADAM, KNOWN_PROGRAMS["RMSprop"]], epochs=1, on_trained=interrupt)
    assert stored == [1, 2]
    assert oracle.query(ADAM, epochs=1).hit


def test_the_first_stored_result_wins_over_ones_own(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may store the same result while this one trains."""
    key = oracle.query(SGD, epochs=1, seed=5).key
    quicker = Record((0.125,), None, {"seconds": 1.0})
    monkeypatch.setattr(oracle, "store", ResultStore("sqlite://"))
    add = oracle.store.add

    def add_second(key: str, record: Record) -> None:
        add(key, quicker)
        add(key, record)

    monkeypatch.setattr(oracle.store, "add", add_second)
    found = oracle.query(SGD, epochs=1, seed=5)
    assert (found.key, found.loss, found.source) == (key, 0.125, "trained")
    assert oracle.query(SGD, epochs=1, seed=5).loss == 0.125


def test_results_are_stored_from_a_bare_checkout_too(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("nosbench_env.oracle.version", not_installed)
    assert oracle.query(SGD, epochs=1).provenance["nosbench_env"] == "unknown"


def test_numpy_integers_are_welcome(oracle: Oracle) -> None:
    found = oracle.query(SGD, epochs=np.int64(1), seed=np.int32(2))
    assert (type(found.epochs), type(found.seed)) == (int, int)
    assert oracle.query(SGD, epochs=1, seed=2).hit


def test_provenance_says_where_a_result_comes_from(oracle: Oracle) -> None:
    made = oracle.query(SGD, epochs=1).provenance
    assert set(made) == {"program", "device", "nosbench_env", "torch", "python", "seconds", "date"}
    assert made["device"].startswith("cpu")
    assert made["seconds"] > 0


def test_evaluation_is_json_data(oracle: Oracle) -> None:
    for program in (SGD, DIVERGES, DIES_AT_26):
        data = json.loads(json.dumps(oracle.query(program, epochs=3).to_json(), allow_nan=False))
        assert (data["loss"] is None) == (data["status"] != "ok")
        assert Program.from_json(data["program"]) == program


def test_keys_tell_task_version_seed_arithmetic_and_identity(oracle: Oracle) -> None:
    assert oracle.query(SGD, epochs=1, seed=3).key.startswith("toy-1/seed=3/float32/paper-1:0x1.")


def test_copies_are_the_same_oracle_and_pickles_use_the_same_store(oracle: Oracle) -> None:
    oracle.query(SGD, epochs=1)
    assert copy.deepcopy(oracle) is copy.copy(oracle) is oracle
    elsewhere = pickle.loads(pickle.dumps(oracle))
    assert elsewhere.query(SGD, epochs=1).hit
    assert elsewhere.statistics.queries == 1


def test_construction_opens_nothing(tmp_path: Path) -> None:
    Oracle("pfn", tmp_path / "new" / "results.sqlite", "cuda:77")
    assert not list(tmp_path.iterdir())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs())
def test_any_program_is_evaluated(oracle: Oracle, program: Program) -> None:
    found: Evaluation = oracle.query(program, epochs=1)
    assert (found.status == "ok") == math.isfinite(found.loss)


def test_bad_arguments_are_refused(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="unknown task 'mnist'; known are pfn, toy"):
        Oracle("mnist")
    with pytest.raises(ValueError, match="unknown identity 'hash'; known are paper"):
        Oracle("toy", identity="hash")
    with pytest.raises(TypeError, match=r"must be a Program, such as KNOWN_PROGRAMS.*, got str"):
        oracle.query("SGD")
    with pytest.raises(ValueError, match="epochs must be"):
        oracle.query(SGD, epochs=0)
    with pytest.raises(ValueError, match="seed must be"):
        oracle.query(SGD, seed=-1)
