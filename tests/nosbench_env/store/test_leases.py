"""Leases: one asker trains a key, and what it leaves behind, however it ends, is passed on."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nosbench_env import KNOWN_PROGRAMS, Oracle, ResultStore, StoreError
from nosbench_env.store import Record
from nosbench_env.tasks.toy import ToyTask

ADAM, SGD, RMSPROP = KNOWN_PROGRAMS["Adam"], KNOWN_PROGRAMS["SGD"], KNOWN_PROGRAMS["RMSprop"]


@pytest.fixture
def store(location: str) -> Iterator[ResultStore]:
    with contextlib.closing(ResultStore(location)) as store:
        yield store


def elsewhere(location: str, keys: list[str]) -> set[str]:
    """Which of the keys another thread with a store of its own gets leases of; it gives them back."""

    def take() -> set[str]:
        with contextlib.closing(ResultStore(location)) as store, store.leases() as leases:
            return leases.take(keys)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take).result()


def test_a_key_has_one_holder_until_it_is_released(location: str, store: ResultStore) -> None:
    with store.leases() as leases:
        assert leases.take(["a", "b", "c"]) == {"a", "b", "c"}
        assert leases.take(["a", "d"]) == {"a", "d"}  # one's own stay one's own
        assert elsewhere(location, ["a", "b", "e"]) == {"e"}
        leases.release(["b", "not held"])
        assert elsewhere(location, ["a", "b"]) == {"b"}
    assert elsewhere(location, ["a", "b", "c", "d"]) == {"a", "b", "c", "d"}


def test_the_record_and_the_end_of_its_lease_come_together(location: str, store: ResultStore) -> None:
    with store.leases() as leases:
        leases.take(["a", "b"])
        store.add("a", Record((1.0,)), leases=leases)
        assert elsewhere(location, ["a", "b"]) == {"a"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_exception_releases(location: str, store: ResultStore, error: type[BaseException]) -> None:
    with pytest.raises(error), store.leases() as leases:
        leases.take(["a"])
        raise error
    assert elsewhere(location, ["a"]) == {"a"}


def test_a_lease_is_renewed_while_it_is_held_and_ends_when_its_owner_is_killed(
    location: str, store: ResultStore
) -> None:
    store.get("a", 1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with store.leases(ttl=1.0) as leases:
            leases.take(["a"])
            os.write(write, b"!")
            time.sleep(60)
    os.read(read, 1)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        assert elsewhere(location, ["a"]) == set()
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed = time.monotonic()
    while elsewhere(location, ["a"]) == set():
        assert time.monotonic() - killed < 1.0 + 2.0  # some room for a slow machine
        time.sleep(0.05)


def test_a_forked_child_leaves_its_parents_leases_alone(location: str, store: ResultStore) -> None:
    with store.leases() as leases:
        leases.take(["a"])
        child = os.fork()
        if child == 0:
            leases.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert elsewhere(location, ["a"]) == set()


def test_a_lease_from_a_clock_that_was_wrong_does_not_count(location: str, store: ResultStore) -> None:
    for expires_at in (time.time() + 1e6, time.time() - 1):
        store._database.write(
            lambda connection, _: connection.exec_driver_sql(
                f"INSERT INTO leases VALUES ('a', 'somebody', {expires_at})"  # noqa: B023
            )
        )
        assert elsewhere(location, ["a"]) == {"a"}


@pytest.mark.parametrize("ttl", [0, -1, 3601, float("nan")])
def test_ttl_is_checked(store: ResultStore, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be above 0 and at most 3600 seconds, got"):
        store.leases(ttl)


def test_many_keys_are_taken_at_once(location: str, store: ResultStore) -> None:
    keys = [f"key-{number}" for number in range(2500)]
    with store.leases() as leases:
        assert leases.take(keys) == set(keys)
        assert elsewhere(location, [*keys, "other"]) == {"other"}


def test_threads_that_take_at_once_share_out_the_keys(store: ResultStore) -> None:
    keys = [f"key-{number}" for number in range(20)]
    barrier, done = threading.Barrier(6), threading.Barrier(6)

    def take(number: int) -> set[str]:
        with store.leases() as leases:
            barrier.wait()
            taken = leases.take(keys if number % 2 else reversed(keys))
            done.wait()
            return taken

    with ThreadPoolExecutor(6) as pool:
        taken = list(pool.map(take, range(6)))
    assert sorted(key for keys in taken for key in keys) == sorted(keys)


# The oracle


class SlowTask(ToyTask):
    """The toy task, counting its trainings and as slow as told."""

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
        found = oracles[number].query_many(asked[number % 3 :] + asked[: number % 3], epochs=1)
        return sorted((str(evaluation.program), evaluation.loss) for evaluation in found)

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
            found = asked.result(timeout=20)
        assert (found.source, len(found.curve), len(trained)) == ("trained", 3, 1)
        oracle.close()
        store.delete([run.id for run in store.runs()])


def test_a_failed_training_leaves_no_lease(location: str, store: ResultStore) -> None:
    class Failing(ToyTask):
        def train_programs(self, *_arguments, **_options):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    failing = Oracle(Failing("cpu"), location)
    with pytest.raises(KeyboardInterrupt):
        failing.query_many([SGD, ADAM], epochs=1)
    began = time.monotonic()
    oracle = Oracle(ToyTask("cpu"), location)
    assert oracle.query(SGD, epochs=1).source == "trained"
    assert time.monotonic() - began < 20
    failing.close()
    oracle.close()


def test_a_callback_may_ask_for_what_its_own_call_is_about_to_train(location: str) -> None:
    oracle = Oracle(ToyTask("cpu"), location)
    inner: list[str] = []
    found = oracle.query_many([SGD, ADAM], 1, on_trained=lambda *_: inner.append(oracle.query(ADAM, 1).source))
    assert inner == ["trained", "store"]
    assert found[1].loss == oracle.query(ADAM, 1).loss
    oracle.close()


def test_a_store_that_can_only_be_read_says_so_before_training(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with contextlib.closing(Oracle(ToyTask("cpu"), path)) as oracle:
        oracle.query(SGD, epochs=2)
    trained: list[str] = []
    reader = Oracle(SlowTask(trained), ResultStore(path, read_only=True))
    assert reader.query(SGD, epochs=1).source == "store"
    with pytest.raises(StoreError, match=r"can only be read, and does not know 1 of the programs for 1 epochs"):
        reader.query_many([SGD, ADAM], epochs=1)
    assert not trained
