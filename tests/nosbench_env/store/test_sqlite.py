"""Stores in SQLite files: how they are made, updated, damaged, refused."""

import math
import multiprocessing
import os
import signal
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sql
from workers import read_after

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record

NAN = math.nan


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "folder" / "results.sqlite")


def test_a_corrupt_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.sqlite"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"damaged or no SQLite database\. Move the file away .* NOSBENCH_STORE"):
        ResultStore(path).get("a", 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("epoch_means", "[]"),
        ("epoch_means", "{}"),
        ("epoch_means", "[true]"),
        ("epoch_means", "[NaN]"),
        ("epoch_means", "[1]"),
        ("epoch_means", "[" * 100_000),
        ("stopped_at", "abc"),
        ("stopped_at", "-5"),
        ("stopped_at", "1.5"),
        ("first_epoch", "abc"),
        ("first_epoch", "-1"),
        ("first_epoch", "0.5"),
        ("provenance", "[]"),
        ("provenance", '{"seconds": "x"}'),
        ("provenance", "garbage"),
    ],
)
def test_hostile_records_are_refused(store: ResultStore, column: str, value: str) -> None:
    store.add("a", Record((1.0,)))
    with sqlite3.connect(store.path) as connection:
        connection.execute(f"UPDATE runs SET {column} = ?", (value,))
    with pytest.raises(StoreError, match="damaged at record 1"):
        store.get("a", 1)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_deleted_or_replaced_in_use_is_said_and_not_touched(
    store: ResultStore, tmp_path: Path, how: str
) -> None:
    store.add("a", Record((1.0,)))
    other = ResultStore(tmp_path / "other.sqlite")
    other.add("other", Record((5.0,)))
    other.close()
    before = other.path.read_bytes()
    if how == "deleted":
        store.path.unlink()
    else:
        other.path.replace(store.path)
    for _ in range(2):
        with pytest.raises(StoreError, match="was deleted or replaced while in use"):
            store.add("b", Record((2.0,)))
    assert not store.path.exists() if how == "deleted" else store.path.read_bytes() == before


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (data TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is a database, but not a NOSBench store"):
        ResultStore(path).add("a", Record((1.0,)))
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE schema SET version = 5")
    with pytest.raises(StoreError, match="has version 5, this nosbench_env reads up to 4: upgrade nosbench_env"):
        ResultStore(store.path).get("a", 1)


@pytest.mark.parametrize("statement", ["PRAGMA journal_mode", "CREATE", "INSERT", "PRAGMA application_id =", "COMMIT"])
def test_a_kill_while_the_file_is_made_leaves_one_that_is_completed(store: ResultStore, statement: str) -> None:
    child = os.fork()
    if child == 0:

        def kill(_connection: object, _cursor: object, text: str, *_: object) -> None:
            if text.strip().startswith(statement):
                os.kill(os.getpid(), signal.SIGKILL)

        sql.event.listen(sql.Engine, "after_cursor_execute" if statement != "COMMIT" else "before_cursor_execute", kill)
        store.add("child", Record((1.0,)))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    store.add("a", Record((1.0,)))
    assert store.get("a", 1) is not None
    assert len(store) == 1


@pytest.fixture(params=[1, 2, 3])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store as an earlier version made it, with a result and one that stopped."""
    path = tmp_path / f"version_{request.param}.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE schema (id INTEGER NOT NULL, version INTEGER, PRIMARY KEY (id))")
        connection.execute(
            "CREATE TABLE runs (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, "
            "epoch_means TEXT NOT NULL, stopped_at INTEGER, provenance TEXT NOT NULL)"
        )
        connection.execute("CREATE INDEX ix_runs_key ON runs (key)")
        connection.execute("INSERT INTO schema VALUES (1, 1)")
        connection.execute("INSERT INTO runs VALUES (3, 'a', '[1.5, 0.1]', NULL, '{\"seconds\": 2.0}')")
        connection.execute("INSERT INTO runs VALUES (7, 'b', '[1.5, \"nan\"]', 17, '{}')")
        if request.param >= 2:
            connection.execute("ALTER TABLE runs ADD COLUMN first_epoch INTEGER DEFAULT '0' NOT NULL")
        if request.param == 3:
            connection.execute("ALTER TABLE runs ADD COLUMN checksum BIGINT")
            connection.execute("CREATE TABLE aliases (alias TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (alias))")
            connection.execute(
                "CREATE TABLE leases (key TEXT NOT NULL, owner TEXT NOT NULL, expires_at DOUBLE NOT NULL, "
                "PRIMARY KEY (key))"
            )
            connection.execute("CREATE INDEX ix_leases_owner ON leases (owner)")
            connection.execute(
                "CREATE TABLE step_losses (run_id INTEGER NOT NULL, losses BLOB NOT NULL, PRIMARY KEY (run_id))"
            )
            connection.execute("INSERT INTO aliases VALUES ('y', 'b')")
        connection.execute(f"UPDATE schema SET version = {request.param}")
        connection.execute("PRAGMA application_id = 0x4E4F5342")
    connection.close()
    return path


def check_migrated(path: Path) -> None:
    store = ResultStore(path)
    assert store.get("a", 2) == Record((1.5, 0.1), None, {"seconds": 2.0})
    assert repr(store.get("b", 3)) == repr(Record((1.5, NAN, NAN), 17))
    assert len(store) == 2
    store.add("c", Record((1.0,), first_epoch=3))
    assert store.get("c", 4, last_epoch_only=True) == Record((1.0,), first_epoch=3)
    store.add_aliases({"x": "a"})
    assert store.resolve("x") == "a"
    assert store.resolve("y") == ("b" if "version_3" in path.name else None)
    with store.leases() as leases:
        assert leases.take(["a"]) == {"a"}
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema").fetchall() == [(4,)]
        assert connection.execute("SELECT id, first_epoch FROM runs").fetchall() == [(3, 0), (7, 0), (8, 3)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_older_store_is_brought_up_to_date_and_keeps_its_results(older: Path) -> None:
    check_migrated(older)


def test_an_older_store_gets_the_tables_that_a_new_one_has(older: Path, store: ResultStore) -> None:
    ResultStore(older).get("a", 1)
    store.get("a", 1)
    shapes = []
    for path in (older, store.path):
        with sqlite3.connect(path) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            indexes = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY name").fetchall()
            columns = [connection.execute(f"PRAGMA table_info({name})").fetchall() for (name,) in tables]
        # names, types, not null
        shapes.append((tables, indexes, [[column[1:4] for column in table] for table in columns]))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "ALTER", "UPDATE schema", "COMMIT"])
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_kill_during_the_update_of_an_older_store_loses_nothing(older: Path, statement: str, moment: str) -> None:
    child = os.fork()
    if child == 0:

        def kill(_connection: object, _cursor: object, text: str, *_: object) -> None:
            if text.strip().startswith(statement):
                os.kill(os.getpid(), signal.SIGKILL)

        sql.event.listen(sql.Engine, moment, kill)
        ResultStore(older).get("a", 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    check_migrated(older)


def test_processes_that_open_an_older_store_at_once_update_it_once(older: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(6)
    workers = [context.Process(target=read_after, args=(older, "a", barrier)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0] * 6
    check_migrated(older)


@pytest.mark.parametrize("damage", ["DELETE FROM schema", "DROP TABLE schema", "DROP TABLE runs"])
def test_missing_tables_and_rows_are_damage(store: ResultStore, damage: str) -> None:
    store.add("a", Record((1.0,)))
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute(damage)
    with pytest.raises(StoreError, match="damaged"):
        store.get("a", 1)


@pytest.mark.parametrize("where", ["folder", "under a file", "forbidden"])
def test_a_place_that_cannot_hold_a_store_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    path = {
        "folder": tmp_path,
        "under a file": tmp_path / "file" / "results.sqlite",
        "forbidden": Path("/proc/nosbench/results.sqlite"),  # nobody may write there, root included
    }[where]
    with pytest.raises(StoreError, match="NOSBENCH_STORE"):
        ResultStore(path).get("a", 1)


def test_a_full_disk_is_said_and_loses_nothing(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    engine = store._database.engine()  # SQLite's own limit on the file's size gives its error for a full disk
    engine.dispose()
    sql.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 5"))
    with pytest.raises(StoreError, match=r"disk is full; results stored before are safe\. Free some space"):
        for _ in range(1000):
            store.add("b", Record((1.0,) * 100))
    assert store.get("a", 1) == Record((1.0,))
    store.close()
    store.add("c", Record((2.0,)))
    assert store.get("c", 1) == Record((2.0,))
