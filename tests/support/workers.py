"""Functions that tests run in other processes; spawned processes can import them from here."""

from pathlib import Path
from typing import Any

# The functions import for themselves, so that each process loads only the modules it needs.


def write_many(path: str, worker: int, rounds: int, barrier: Any) -> None:
    """Writes and reads records of its own, and one key that all workers write."""
    from nosbench_env.store import Record, ResultStore

    barrier.wait()
    store = ResultStore(path)
    for round_number in range(rounds):
        store.add(f"own-{worker}-{round_number}", Record((float(worker), float(round_number))))
        store.add("shared", Record((float(worker),)))
        assert store.get(f"own-{worker}-{round_number}", 2) is not None
        assert store.get("shared", 1) is not None


def random_search(path: Path, seed: int, queries: int) -> None:
    """A short random search on the toy task."""
    from nosbench_env import Oracle
    from nosbench_env.agents import Budget, RandomSearch, search

    search(RandomSearch(seed=seed), Oracle("toy", path, "cpu"), Budget(queries=queries), epochs=1)


def train_two(path: Path) -> None:
    """Trains with two programs, in worker processes."""
    from nosbench_env import KNOWN_PROGRAMS, Oracle

    oracle = Oracle("toy", path, "cpu", workers=2)
    oracle.query_many([KNOWN_PROGRAMS["SGD"], KNOWN_PROGRAMS["Adam"]], epochs=1)
    assert oracle._pool is not None
    assert len(oracle._pool._alive) == 2
    oracle.close()
