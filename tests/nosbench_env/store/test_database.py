"""Locations of a store, shared by processes and threads."""

import contextlib
import os
import pickle
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


def test_location_is_the_argument_or_the_variable_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOSBENCH_STORE", str(tmp_path / "variable.sqlite"))
    assert ResultStore().path == tmp_path / "variable.sqlite"
    assert ResultStore(f"sqlite:///{tmp_path}/url.sqlite").path == tmp_path / "url.sqlite"
    assert ResultStore(tmp_path / "path.sqlite").path == tmp_path / "path.sqlite"
    monkeypatch.delenv("NOSBENCH_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ResultStore().path.name == "results.sqlite"
    assert ResultStore("sqlite://").path is None


def test_relative_locations_are_bound_to_the_folder_of_their_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = [ResultStore("results.sqlite"), ResultStore("sqlite:///results.sqlite")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for number, store in enumerate(stores):
        store.add(str(number), Record((1.0,)))
        assert store.path == tmp_path / "results.sqlite"
    assert len(stores[0]) == 2


@pytest.mark.parametrize(
    "location",
    ["postgresql://host", "mysql://host", "sqlite:/:/x://", "sqlite+aiosqlite:///x", "sqlite:///x?mode=ro", "", 5],
)
def test_other_databases_are_refused(location: str) -> None:
    with pytest.raises(
        ValueError, match="store must be a file or a URL, sqlite:///file or postgresql://user@host/database, got"
    ):
        ResultStore(location)


def test_pickles_and_later_openings_see_the_same_store(location: str, store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    copied = pickle.loads(pickle.dumps(store))
    copied.add("b", Record((2.0,)))
    store.close()
    assert store.get("b", 1).epoch_means == (2.0,)
    with contextlib.closing(ResultStore(location)) as again:
        assert again.get("a", 1).epoch_means == (1.0,)
    copied.close()


def test_an_open_store_survives_a_fork(store: ResultStore) -> None:
    store.add("parent", Record((1.0,)))
    child = os.fork()
    if child == 0:
        try:
            store.add("child", Record((2.0,)))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get("child", 1).epoch_means == (2.0,)
    assert store.get("parent", 1).epoch_means == (1.0,)


@pytest.mark.parametrize("where", ["sqlite://", "file"])
def test_threads_that_open_a_store_at_once_share_it(tmp_path: Path, where: str) -> None:
    for repetition in range(5):
        store = ResultStore(tmp_path / f"{repetition}.sqlite" if where == "file" else where)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.add(str(number), Record((1.0,))), range(16)))  # noqa: B023
        assert len(store) == 16
        store.close()


@pytest.mark.parametrize("location", ["postgresql"], indirect=True)
def test_threads_that_open_a_store_on_a_server_at_once_share_it(store: ResultStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.add(str(number), Record((1.0,))), range(16)))
    assert len(store) == 16


def test_a_store_in_memory_serves_all_threads_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for location in ("sqlite://", "sqlite:///:memory:", ":memory:"):
        store = ResultStore(location)
        store.add("a", Record((1.0,)))
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: store.get("a", 1).epoch_means, range(8))) == [(1.0,)] * 8  # noqa: B023
        store.close()
    assert not list(tmp_path.iterdir())
