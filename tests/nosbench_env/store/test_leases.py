"""Leases of keys: one holder at a time, however the holder ends."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nosbench_env import ResultStore
from nosbench_env.store import Record


@pytest.fixture
def store(location: str) -> Iterator[ResultStore]:
    with contextlib.closing(ResultStore(location)) as store:
        yield store


def elsewhere(location: str, keys: list[str]) -> set[str]:
    """Takes and releases leases in another thread; returns their keys."""

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
    ttl = 2.0

    def remaining() -> float:
        query = f"SELECT expires_at, {store._database.clock()} FROM leases WHERE key = 'a'"
        expires_at, now = store._database.read(lambda connection: connection.exec_driver_sql(query).one())
        return float(expires_at) - float(now)

    store.get("a", 1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with store.leases(ttl) as leases:
            leases.take(["a"])
            os.write(write, b"!")
            time.sleep(60)
            os._exit(0)
    os.read(read, 1)
    renewals, left = 0, remaining()
    while renewals < 5:  # more than one `ttl`, since a lease is renewed four times in it
        time.sleep(0.02)
        before, left = left, remaining()
        renewals += left > before
        assert elsewhere(location, ["a"]) == set()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert remaining() <= ttl
    for _ in range(1000):
        if elsewhere(location, ["a"]) == {"a"}:
            return
        time.sleep(0.05)
    pytest.fail("the lease of a dead owner never ended")


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


def test_ctrl_c_while_the_renewing_thread_starts_returns_the_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    store = ResultStore(tmp_path / "results.sqlite")
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt), store.leases() as leases:
            leases.take(["a"])
    with store.leases() as leases:
        assert leases.take(["a"]) == {"a"}
