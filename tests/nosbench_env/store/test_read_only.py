"""Read-only stores, for any reason, and places where SQLite must not write."""

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record, filesystems
from nosbench_env.store.schema import SCHEMA_VERSION


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can read, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    path.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def path(folder: Path) -> Path:
    """A closed store with one record."""
    store = ResultStore(folder / "s.sqlite")
    store.add("a", Record((1.0,)), aliases=["x"])
    store.close()
    Path(f"{store.path}.lock").unlink()
    return store.path


def read_all(store: ResultStore) -> None:
    assert store.get("a", 1) == Record((1.0,))
    assert store.resolve("x") == "a"
    assert [stored.key for stored in store.records()] == ["a"]
    assert len(store) == 1
    assert store.read_only


def check_refuses_writes(store: ResultStore, why: str) -> None:
    for write in (
        lambda: store.add("b", Record((1.0,))),
        lambda: store.add_many([("b", Record((1.0,)))]),
        lambda: store.add_aliases({"b": "a"}),
        lambda: store.delete([1]),
        lambda: store.leases().take(["b"]),
    ):
        with pytest.raises(StoreError, match=rf"is read-only: .*{why}.* --store or NOSBENCH_STORE"):
            write()


def test_a_store_opened_to_read_answers_and_makes_nothing(path: Path) -> None:
    store = ResultStore(path, read_only=True)
    before = path.read_bytes()
    read_all(store)
    read_all(pickle.loads(pickle.dumps(store)))
    check_refuses_writes(store, "opened with read_only")
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_without_permission_to_write_is_opened_to_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    access, forbidden = os.access, {"file": path, "folder": path.parent}[what]
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != forbidden and access(place, mode))
    store = ResultStore(path)
    read_all(store)
    check_refuses_writes(store, "write permission is missing")
    assert list(path.parent.iterdir()) == [path]


AS_ANOTHER_USER = """
import os, sys
from nosbench_env.store import Record, ResultStore, StoreError
store = ResultStore(sys.argv[1])
os.setgid(65534)
os.setuid(65534)
for _ in range(int(sys.argv[2])):
    input()
    print(store.get("a", 1), store.get("b", 1), store.read_only, flush=True)
try:
    store.add("c", Record((1.0,)))
except StoreError as error:
    print(error, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be another user")
def test_another_user_reads_beside_a_writer_that_comes_and_goes(path: Path) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", AS_ANOTHER_USER, str(path), "4"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )

    def seen() -> str:
        reader.stdin.write("\n")
        reader.stdin.flush()
        return reader.stdout.readline()

    assert " None True" in seen()
    assert list(path.parent.iterdir()) == [path]
    writer = ResultStore(path)
    writer.add("b", Record((2.0,)))  # stands beside the file now
    assert "(2.0,)" in seen()
    writer.close()  # stands in the file now
    assert "(2.0,)" in seen()
    with ResultStore(path)._database.engine().connect() as connection:
        connection.exec_driver_sql("UPDATE runs SET checksum = NULL, epoch_means = '[3.0]' WHERE key = 'a'")
        assert "(1.0,)" in seen()  # an answer stays
        assert "write permission is missing" in reader.stdout.read()
    reader.stdin.close()
    reader.stdout.close()
    assert reader.wait(30) == 0


def test_a_reader_sees_what_writers_add_meanwhile(path: Path) -> None:
    reader = ResultStore(path, read_only=True)
    for number in range(3):
        assert reader.get(f"key-{number}", 1) is None
        writer = ResultStore(path)
        writer.add(f"key-{number}", Record((float(number),)))
        assert reader.get(f"key-{number}", 1) is not None
        writer.close()
        time.sleep(0.02)  # the grain of a file's time
        assert reader.get(f"key-{number}", 1) is not None
    assert len(reader) == 4


def test_a_store_to_read_must_exist_and_be_a_store_of_this_version(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the file does not exist"):
        ResultStore(tmp_path / "none.sqlite", read_only=True).get("a", 1)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(StoreError, match="it is empty"):
        ResultStore(tmp_path / "empty.sqlite", read_only=True).get("a", 1)
    older = SCHEMA_VERSION - 1
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE schema SET version = {older}")
    connection.close()
    with pytest.raises(StoreError, match=f"version {older} .* {SCHEMA_VERSION}"):
        ResultStore(path, read_only=True).get("a", 1)
    with pytest.raises(ValueError, match="read_only"):
        ResultStore("sqlite://", read_only=True)


def test_a_place_where_no_file_can_be_made_is_refused_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filelock.FileLock", lambda *_, **__: pytest.fail("waits for a lock"))
    with pytest.raises(StoreError, match="--store or NOSBENCH_STORE"):
        ResultStore("/proc/nope").get("a", 1)


def test_a_store_on_a_network_file_system_is_refused_unless_only_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"40 22 0:50 / {os.path.realpath(path.parent)} rw - nfs server:/x rw\n")
    monkeypatch.setattr(filesystems, "_MOUNTS", mounts)
    new = path.with_name("new.sqlite")
    for place in (path, new):
        with pytest.raises(StoreError, match=r"network file system \(nfs\), .* PostgreSQL server"):
            ResultStore(place).get("a", 1)
    assert list(path.parent.iterdir()) == [path]
    read_all(ResultStore(path, read_only=True))
    monkeypatch.setenv("NOSBENCH_ALLOW_NETWORK_STORE", "1")
    ResultStore(new).add("a", Record((1.0,)))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NOSBENCH_ALLOW_NETWORK_STORE")
        with pytest.raises(StoreError, match="network file system"):  # a writer on another machine may be at work
            ResultStore(new, read_only=True).get("a", 1)
