"""Training under leases: each program is trained by one asker."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nosbench_env import KNOWN_PROGRAMS, Curve, Oracle, Program, ResultStore, StoreError, canonical_form
from nosbench_env.oracles import leased_training
from nosbench_env.store import Record
from nosbench_env.tasks.toy import ToyTask

ADAM, SGD, RMSPROP = KNOWN_PROGRAMS["Adam"], KNOWN_PROGRAMS["SGD"], KNOWN_PROGRAMS["RMSprop"]


@pytest.fixture
def store(location: str) -> Iterator[ResultStore]:
    with contextlib.closing(ResultStore(location)) as store:
        yield store


class SlowTask(ToyTask):
    """The toy task, which lists its trainings and waits before each."""

    def __init__(self, trained: list[str], seconds: float = 0.1) -> None:
        super().__init__("cpu")
        self.trained, self.seconds = trained, seconds

    def train_programs(self, programs, *arguments, **options):  # type: ignore[no-untyped-def]
        self.trained.extend(map(str, programs))
        time.sleep(self.seconds)
        return super().train_programs(programs, *arguments, **options)


@pytest.mark.parametrize("shared", [True, False])
def test_oracles_of_several_threads_train_each_program_once(location: str, shared: bool) -> None:
    trained: list[str] = []
    place = ResultStore(location)
    oracles = [Oracle(SlowTask(trained), place if shared else location) for _ in range(4)]
    asked = [SGD, ADAM, RMSPROP]
    barrier = threading.Barrier(4)

    def ask(number: int) -> list[str]:
        barrier.wait()
        evaluations = oracles[number].query_many(asked[number % 3 :] + asked[: number % 3], epochs=1)
        return sorted((str(evaluation.program), evaluation.loss) for evaluation in evaluations)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert sorted(trained) == sorted(map(str, asked))
    assert all(answer == answers[0] for answer in answers)
    assert sum(oracle.statistics.trained for oracle in oracles) == 3
    assert sum(oracle.statistics.stored for oracle in oracles) == 9
    for oracle in oracles:
        oracle.close()


def test_threads_on_a_store_in_memory_train_once() -> None:
    trained: list[str] = []
    oracle = Oracle(SlowTask(trained), "sqlite://")
    with ThreadPoolExecutor(4) as pool:
        losses = set(pool.map(lambda _: oracle.query(SGD, epochs=1).loss, range(4)))
    assert (len(trained), len(losses)) == (1, 1)
    oracle.close()


def test_an_oracle_trains_its_own_before_it_waits(location: str, store: ResultStore) -> None:
    trained: list[str] = []
    oracle = Oracle(SlowTask(trained, 0.0), location)
    key = Oracle(SlowTask([]), "sqlite://").query(SGD, epochs=1).key
    with store.leases() as leases, ThreadPoolExecutor(1) as pool:
        leases.take([key])
        asked = pool.submit(oracle.query_many, [SGD, ADAM], 1)
        while str(ADAM) not in trained:
            time.sleep(0.01)
        time.sleep(0.1)
        assert not asked.done()
        store.add(key, Record((0.25,)), leases=leases)
        sgd, adam = asked.result(timeout=20)
    assert (sgd.loss, sgd.source, adam.source) == (0.25, "store", "trained")
    assert trained == [str(ADAM)]
    oracle.close()


def test_a_lease_without_a_result_is_taken_over_and_one_with_too_few_epochs_too(
    location: str, store: ResultStore
) -> None:
    for record in (None, Record((0.25,))):
        trained: list[str] = []
        oracle = Oracle(SlowTask(trained, 0.0), location)
        key = Oracle(SlowTask([]), "sqlite://").query(SGD, epochs=1).key
        with ThreadPoolExecutor(1) as pool, store.leases() as leases:
            leases.take([key])
            asked = pool.submit(oracle.query, SGD, 3)
            time.sleep(0.1)
            assert not trained
            if record is None:
                leases.release([key])
            else:
                store.add(key, record, leases=leases)
            evaluation = asked.result(timeout=20)
        assert (evaluation.source, len(evaluation.curve), len(trained)) == ("trained", 3, 1)
        oracle.close()
        store.delete([stored.id for stored in store.records()])


def test_a_failed_training_leaves_no_lease(location: str, store: ResultStore) -> None:
    class Failing(ToyTask):
        def train_programs(self, *_arguments, **_options):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    failing = Oracle(Failing("cpu"), location)
    with pytest.raises(KeyboardInterrupt):
        failing.query_many([SGD, ADAM], epochs=1)
    count = "SELECT count(*) FROM leases"
    assert store._database.read(lambda connection: connection.exec_driver_sql(count).scalar_one()) == 0
    failing.close()


def test_a_callback_may_ask_for_what_its_own_call_is_about_to_train(location: str) -> None:
    oracle = Oracle(ToyTask("cpu"), location)
    inner: list[str] = []
    evaluations = oracle.query_many([SGD, ADAM], 1, on_trained=lambda *_: inner.append(oracle.query(ADAM, 1).source))
    assert inner == ["trained", "store"]
    assert evaluations[1].loss == oracle.query(ADAM, 1).loss
    oracle.close()


def test_a_store_that_can_only_be_read_says_so_before_training(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with contextlib.closing(Oracle(ToyTask("cpu"), path)) as oracle:
        oracle.query(SGD, epochs=2)
    trained: list[str] = []
    reader = Oracle(SlowTask(trained), ResultStore(path, read_only=True))
    assert reader.query(SGD, epochs=1).source == "store"
    with pytest.raises(StoreError, match=r"read-only and has no results for 1 of the programs at 1 epochs"):
        reader.query_many([SGD, ADAM], epochs=1)
    assert not trained


def test_each_result_is_stored_before_the_next_training_begins(oracle: Oracle) -> None:
    stored: list[int] = []

    def interrupt(program: Program, curve: object) -> None:
        stored.append(len(oracle.store))
        if len(stored) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        oracle.query_many([SGD, ADAM, RMSPROP], epochs=1, on_trained=interrupt)
    assert stored == [1, 2]
    assert oracle.query(ADAM, epochs=1).hit


def test_the_first_stored_result_wins_over_ones_own(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may store the same result while this one trains."""
    key = oracle.query(SGD, epochs=1, seed=5).key
    quicker = Record((0.125,), None, {"seconds": 1.0})
    monkeypatch.setattr(oracle, "store", ResultStore("sqlite://"))
    add = oracle.store.add

    def add_second(key: str, record: Record, *aliases: Any, **how: Any) -> None:
        add(key, quicker)
        add(key, record, *aliases, **how)

    monkeypatch.setattr(oracle.store, "add", add_second)
    evaluation = oracle.query(SGD, epochs=1, seed=5)
    assert (evaluation.key, evaluation.loss, evaluation.source) == (key, 0.125, "trained")
    assert oracle.query(SGD, epochs=1, seed=5).loss == 0.125


def test_results_are_stored_from_a_bare_checkout_too(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("nosbench_env.versions.version", not_installed)
    assert oracle.query(SGD, epochs=1).provenance["nosbench_env"] == "unknown"


def test_provenance_says_where_a_result_comes_from(oracle: Oracle) -> None:
    made = oracle.query(SGD, epochs=1).provenance
    assert set(made) == {"program", "canonical", "device", "nosbench_env", "torch", "python", "seconds", "date"}
    assert made["canonical"] == str(canonical_form(SGD))
    assert made["device"].startswith("cpu")
    assert made["seconds"] > 0


def test_seconds_are_those_of_the_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(leased_training, "time", SimpleNamespace(perf_counter=lambda: clock))

    class TimedTask(ToyTask):
        """Takes 2 seconds for each program, on the clock above, and does not measure them."""

        def train_programs(self, programs, epochs=None, seed=0, *, on_curve, **options):  # type: ignore[no-untyped-def]
            def later(index: int, curve: Curve) -> None:
                nonlocal clock
                clock += 2.0
                on_curve(index, replace(curve, seconds=None))

            return super().train_programs(programs, epochs, seed, on_curve=later, **options)

    def on_trained(*_: object) -> None:
        nonlocal clock
        clock += 50.0

    asked = [SGD, ADAM, RMSPROP]
    evaluations = Oracle(TimedTask("cpu"), "sqlite://").query_many(asked, epochs=1, on_trained=on_trained)
    assert [evaluation.seconds for evaluation in evaluations] == [2.0] * 3
