import contextlib
import copy
import math
import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from strategies import programs
from workers import train_two

from nosbench_env import KNOWN_PROGRAMS, Curve, Evaluation, Oracle, Program, ResultStore, canonical_form, make_task
from nosbench_env.results.transfer import export_results
from nosbench_env.store import Record
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.toy import ToyTask
from nosbench_env.tasks.worker_pool import WorkerError, WorkerPool

ADAM, SGD = KNOWN_PROGRAMS["Adam"], KNOWN_PROGRAMS["SGD"]
SGD_OTHERWISE = Program.parse("r10 = mul(grad, 0.01)")
DIVERGES = Program.parse("r9 = log(-1.0)".replace("-1.0", "r9") + "; r9 = mul(r9, r10)")
QUICK_WORKER = Path(__file__).parents[2] / "support" / "quick_worker.py"
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
    evaluations = oracle.query_many(asked, epochs=1, on_trained=lambda program, curve: trained.append(program))
    assert [evaluation.program for evaluation in evaluations] == asked
    assert trained == [SGD, KNOWN_PROGRAMS["RMSprop"]]
    assert [evaluation.source for evaluation in evaluations] == [
        "trained",
        "store",
        "probe",
        "store",
        "trained",
        "store",
    ]
    assert oracle.query_many([], epochs=1) == []


def test_seeds_have_results_of_their_own(oracle: Oracle) -> None:
    losses = {oracle.query(SGD, epochs=1, seed=seed).loss for seed in range(3)}
    assert len(losses) == 3
    assert oracle.query(SGD, epochs=1, seed=2).hit


def test_a_program_that_diverges_on_the_probe_is_not_trained(oracle: Oracle) -> None:
    evaluation = oracle.query(DIVERGES)
    assert (evaluation.status, evaluation.source, evaluation.hit, evaluation.curve) == ("nan", "probe", True, ())
    assert math.isnan(evaluation.loss)
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


def test_numpy_integers_are_welcome(oracle: Oracle) -> None:
    evaluation = oracle.query(SGD, epochs=np.int64(1), seed=np.int32(2))
    assert (type(evaluation.epochs), type(evaluation.seed)) == (int, int)
    assert oracle.query(SGD, epochs=1, seed=2).hit


def test_keys_tell_task_version_seed_arithmetic_and_identity(oracle: Oracle) -> None:
    assert oracle.query(SGD, epochs=1, seed=3).key.startswith("toy-1/seed=3/float32/fingerprint-1-toy-1:")


def test_copies_are_the_same_oracle_and_pickles_use_the_same_store(oracle: Oracle) -> None:
    oracle.query(SGD, epochs=1)
    assert copy.deepcopy(oracle) is copy.copy(oracle) is oracle
    elsewhere = pickle.loads(pickle.dumps(oracle))
    assert elsewhere.query(SGD, epochs=1).hit
    assert elsewhere.statistics.queries == 1


def test_construction_opens_nothing(tmp_path: Path) -> None:
    Oracle("pfn", tmp_path / "new" / "results.sqlite", "cuda:77")
    assert not list(tmp_path.iterdir())


class LastEpochTask(ToyTask):
    """Returns no more than it is asked for."""

    name = "last"

    def __init__(self) -> None:
        super().__init__("cpu")
        self.asked: list[tuple[int, bool]] = []

    def train_programs(self, programs, epochs=None, seed=0, *, on_step=None, on_curve=None, last_epoch_only=False):
        self.asked.append((epochs, last_epoch_only))

        def on_whole_curve(index: int, curve: Curve) -> None:
            if last_epoch_only:
                curve = Curve(curve.step_losses[-1:], curve.stopped_at, first_epoch=epochs - 1)
            on_curve(index, curve)

        return super().train_programs(programs, epochs, seed, on_step=on_step, on_curve=on_whole_curve)


def test_the_last_epoch_alone_is_trained_and_told_if_asked_for(tmp_path: Path) -> None:
    task = LastEpochTask()
    oracle = Oracle(task, tmp_path / "s.sqlite")
    last = oracle.query(ADAM, epochs=4, last_epoch_only=True)
    assert (last.curve, last.first_epoch, last.source) == ((last.loss,), 3, "trained")
    assert oracle.query(ADAM, epochs=4, last_epoch_only=True).hit
    whole = oracle.query(ADAM, epochs=4)
    assert (whole.hit, whole.first_epoch, len(whole.curve)) == (False, 0, 4)
    assert whole.loss == last.loss
    again = oracle.query(ADAM, epochs=4, last_epoch_only=True)
    assert (again.hit, again.curve) == (True, whole.curve)
    shorter = oracle.query(ADAM, epochs=2, last_epoch_only=True)
    assert (shorter.hit, shorter.curve) == (True, whole.curve[:2])
    assert task.asked == [(4, True), (4, False)]
    assert (last.to_json()["first_epoch"], whole.to_json()["first_epoch"]) == (3, 0)


def test_a_death_known_from_the_last_epoch_alone_answers_for_longer_trainings(tmp_path: Path) -> None:
    oracle = Oracle(LastEpochTask(), tmp_path / "s.sqlite")
    dead = oracle.query(DIES_AT_26, epochs=5, last_epoch_only=True)
    longer = oracle.query(DIES_AT_26, epochs=9, last_epoch_only=True)
    assert (dead.status, dead.hit, longer.status, longer.hit, longer.first_epoch) == ("nan", False, "nan", True, 8)
    assert oracle.query(DIES_AT_26, epochs=2, last_epoch_only=True).status == "ok"


def started(oracle: Oracle) -> int:
    """Returns the number of an oracle's worker processes."""
    return 0 if oracle._pool is None else len(oracle._pool._alive)


def test_several_unknown_programs_are_trained_by_workers_to_the_same_results(oracle: Oracle) -> None:
    asked = [SGD, ADAM, DIVERGES, SGD_OTHERWISE, DIES_AT_26, SGD]
    expected = oracle.query_many(asked, epochs=4)
    with contextlib.closing(Oracle("toy", "sqlite://", "cpu", workers=2)) as parallel:
        evaluations = parallel.query_many(asked, epochs=4)
        for one, other in zip(expected, evaluations, strict=True):
            assert repr(one.curve) == repr(other.curve)
            assert (one.program, one.key, one.source, one.hit) == (other.program, other.key, other.source, other.hit)
            assert set(one.provenance) == set(other.provenance)
        assert parallel.statistics == oracle.statistics
        assert started(parallel) == 2
        steps: list[Progress] = []
        trained: list[Program] = []
        parallel.query_many(
            [SGD, ADAM, DIES_AT_26], 6, on_step=steps.append, on_trained=lambda program, _: trained.append(program)
        )
        assert {(step.index, step.programs) for step in steps} == {(0, 2), (1, 2)}
        assert sorted(map(str, trained)) == sorted(map(str, [SGD, ADAM]))
    assert started(parallel) == 0


def test_a_single_program_a_task_of_ones_own_and_one_worker_start_no_process(tmp_path: Path) -> None:
    alone = Oracle("toy", "sqlite://", "cpu", workers=4)
    alone.query_many([SGD, SGD_OTHERWISE, DIVERGES], epochs=1)
    own_task = Oracle(make_task("toy", "cpu"), "sqlite://", workers=4)
    own_task.query_many([SGD, ADAM], epochs=1)
    in_process = Oracle("toy", "sqlite://", "cpu", workers=1)
    in_process.query_many([SGD, ADAM], epochs=1)
    assert [started(oracle) for oracle in (alone, own_task, in_process)] == [0, 0, 0]


def test_a_program_that_no_worker_survives_is_named_and_the_others_are_stored(oracle: Oracle, tmp_path: Path) -> None:
    command = (sys.executable, str(QUICK_WORKER), str(tmp_path), '{"mul": "kill"}')
    oracle._pool = WorkerPool("toy", 2, command=command)
    with pytest.raises(WorkerError, match=r"1 of 3 programs .*\n\nr10 = mul\(grad, 0.01\)\n-> .*SIGKILL"):
        oracle.query_many([ADAM, SGD_OTHERWISE, KNOWN_PROGRAMS["SignSGD"]], epochs=1)
    assert len(oracle.store) == 2
    assert oracle.query(ADAM, epochs=1).hit
    oracle._pool = None
    assert oracle.query(SGD, epochs=1).status == "ok"


def test_copies_and_pickles_of_an_oracle_with_workers(tmp_path: Path) -> None:
    with contextlib.closing(Oracle("toy", tmp_path / "s.sqlite", "cpu", workers=2)) as oracle:
        oracle.query_many([SGD, ADAM], epochs=1)
        assert copy.deepcopy(oracle) is oracle
        elsewhere = pickle.loads(pickle.dumps(oracle))
        assert (elsewhere.workers, started(elsewhere), started(oracle)) == (2, 0, 2)
        assert elsewhere.query(SGD, epochs=1).hit


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_daemonic_processes_may_have_workers(tmp_path: Path, method: str) -> None:
    process = multiprocessing.get_context(method).Process(target=train_two, args=(tmp_path / "s.sqlite",), daemon=True)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == 0
    assert len(ResultStore(tmp_path / "s.sqlite")) == 2


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs())
def test_any_program_is_evaluated(oracle: Oracle, program: Program) -> None:
    evaluation: Evaluation = oracle.query(program, epochs=1)
    assert (evaluation.status == "ok") == math.isfinite(evaluation.loss)


def test_bad_arguments_are_refused(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match="unknown task 'mnist'; known are pfn, toy"):
        Oracle("mnist")
    with pytest.raises(ValueError, match="unknown identity 'hash'; known are fingerprint, canonical, paper"):
        Oracle("toy", identity="hash")
    for bad in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="workers must be an integer >= 1, got"):
            Oracle("toy", workers=bad)
    with pytest.raises(TypeError, match=r"must be a Program, such as KNOWN_PROGRAMS.*, got str"):
        oracle.query("SGD")
    with pytest.raises(ValueError, match="epochs must be"):
        oracle.query(SGD, epochs=0)
    with pytest.raises(ValueError, match="seed must be"):
        oracle.query(SGD, seed=-1)


def test_a_canonical_form_finds_the_key_of_another_fingerprint(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where two machines round a fingerprint differently."""
    first = oracle.query(SGD, epochs=1)
    same = Program.parse("r12 = mul(r13, r30); r13 = add(r12, grad); r9 = mul(0.01, r13)")
    assert canonical_form(same) == canonical_form(SGD)
    elsewhere = ("fingerprint-1-toy-1:rounded-differently", "ok")
    monkeypatch.setattr("nosbench_env.oracles.oracle.identify", lambda *_: elsewhere)
    evaluation = oracle.query(same, epochs=1)
    assert (evaluation.key, evaluation.loss, evaluation.source) == (first.key, first.loss, "store")
    # A longer training is kept under the same key.
    longer = oracle.query(same, epochs=2)
    assert (longer.key, longer.source) == (first.key, "trained")
    other = oracle.query(ADAM, epochs=1)
    assert other.key.endswith(elsewhere[0])


@pytest.mark.parametrize("identity", ["fingerprint", "canonical", "paper"])
def test_identities_do_not_answer_for_each_other(tmp_path: Path, identity: str) -> None:
    for other in ("fingerprint", "canonical", "paper"):
        if other != identity:
            Oracle("toy", tmp_path / "store.sqlite", identity=other).query(SGD, epochs=1)
    evaluation = Oracle("toy", tmp_path / "store.sqlite", identity=identity).query(SGD, epochs=1)
    assert evaluation.source == "trained"
    assert evaluation.key.split("/")[-1].startswith(f"{identity}-1")


def test_identities_merge_as_far_as_they_say(tmp_path: Path) -> None:
    written_differently = Program.parse("r9 = exp(step); r10 = mul(0.001, grad)")
    computed_differently = Program.parse("r9 = mul(grad, 0.5); r9 = mul(r9, 0.001); r9 = add(r9, r9)")
    plain = Program.parse("r9 = mul(grad, 0.001)")
    for identity, distinct in (("canonical", 2), ("fingerprint", 1)):
        oracle = Oracle("toy", tmp_path / "store.sqlite", identity=identity, workers=1)
        evaluations = oracle.query_many([plain, written_differently, computed_differently], epochs=1)
        assert len({evaluation.key for evaluation in evaluations}) == distinct
        assert oracle.statistics.trained == distinct


def test_only_canonical_trains_what_diverges_on_the_probe(tmp_path: Path) -> None:
    program = Program.parse("r9 = log(grad)")
    for identity, source in (("fingerprint", "probe"), ("canonical", "trained"), ("paper", "probe")):
        evaluation = Oracle("toy", tmp_path / "store.sqlite", identity=identity).query(program, epochs=1)
        assert (evaluation.status, evaluation.source) == ("nan", source)


def test_shipped_results_answer_after_the_store_and_unless_they_are_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Oracle("toy", "sqlite://", shipped=False).query(SGD, epochs=1).key
    filled = ResultStore(tmp_path / "filled.sqlite")
    filled.add(key, Record((0.25,), None, {"program": SGD.to_json(), "seconds": 1.5}))
    export_results(filled, tmp_path / "shipped.jsonl.gz")
    monkeypatch.setattr("nosbench_env.results.shipped.RESULTS", tmp_path)
    oracle = Oracle("toy", tmp_path / "store.sqlite")
    evaluation = oracle.query(SGD, epochs=1)
    assert (evaluation.loss, evaluation.source, evaluation.hit, evaluation.seconds) == (0.25, "shipped", True, 1.5)
    assert oracle.statistics.stored == 1
    assert len(oracle.store) == 0
    assert pickle.loads(pickle.dumps(oracle)).query(SGD, epochs=1).source == "shipped"
    aside = Oracle("toy", oracle.store, shipped=False)
    trained = aside.query(SGD, epochs=1)
    assert trained.source == "trained"
    assert not pickle.loads(pickle.dumps(aside)).shipped
    # Results of the store come first.
    assert oracle.query(SGD, epochs=1).loss == trained.loss
