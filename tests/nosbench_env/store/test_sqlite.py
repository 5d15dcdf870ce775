"""Stores in SQLite files: created, damaged, refused."""

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sql

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record, schema


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "folder" / "results.sqlite")


def test_a_corrupt_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.sqlite"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"damaged or not a SQLite database\. Move the file away .* NOSBENCH_STORE"):
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


def test_a_store_that_another_process_creates_meanwhile_is_one(tmp_path: Path) -> None:
    """Its tables and its mark come with one commit, here between the two looks of the opener."""
    model, path = ResultStore(tmp_path / "model.sqlite"), tmp_path / "new.sqlite"
    len(model)
    with contextlib.closing(sqlite3.connect(tmp_path / "model.sqlite")) as made:
        names = "sql IS NOT NULL AND name NOT LIKE 'sqlite%'"
        tables = [row[0] for row in made.execute(f"SELECT sql FROM sqlite_master WHERE {names}")]
        version = made.execute("SELECT version FROM schema").fetchone()
    committed = []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as creator:
        creator.execute("PRAGMA journal_mode = WAL")
        creator.execute("BEGIN IMMEDIATE")
        for table in tables:
            creator.execute(table)
        creator.execute(f"INSERT INTO schema VALUES (1, {version[0]})")
        creator.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")

        def commit(connection: object, cursor: object, statement: str, *_: object) -> None:
            if ("sqlite_master" in statement or "application_id" in statement) and not committed:
                committed.append(statement)
                creator.execute("COMMIT")

        sql.event.listen(sql.Engine, "after_cursor_execute", commit)
        try:
            assert len(ResultStore(path)) == 0
        finally:
            sql.event.remove(sql.Engine, "after_cursor_execute", commit)
    assert committed
