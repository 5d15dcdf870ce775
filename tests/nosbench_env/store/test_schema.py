import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record
from nosbench_env.store.schema import APPLICATION_ID, SCHEMA_VERSION


@pytest.fixture
def store(location: str) -> Iterator[ResultStore]:
    with contextlib.closing(ResultStore(location)) as store:
        store.add("a", Record((1.0,)))
        yield store


def execute(store: ResultStore, *statements: str) -> None:
    for statement in statements:
        store._database.write(lambda connection, _: connection.exec_driver_sql(statement))  # noqa: B023
    store.close()


@pytest.mark.parametrize(("version", "remedy"), [(SCHEMA_VERSION + 1, "Upgrade"), (SCHEMA_VERSION - 1, "move it away")])
def test_another_version_is_refused_and_left_alone(
    location: str, store: ResultStore, version: int, remedy: str
) -> None:
    execute(store, f"UPDATE schema SET version = {version}")
    with (
        contextlib.closing(ResultStore(location)) as again,
        pytest.raises(StoreError, match=rf"version {version} .* version {SCHEMA_VERSION}\. .*{remedy}.* --store"),
    ):
        again.add("b", Record((2.0,)))
    if store.path is not None:
        with sqlite3.connect(store.path) as connection:
            assert connection.execute("SELECT version FROM schema").fetchall() == [(version,)]
            assert connection.execute("SELECT key FROM runs").fetchall() == [("a",)]


@pytest.mark.parametrize("damage", ["DELETE FROM schema", "UPDATE schema SET version = 0"])
def test_a_store_without_a_version_is_damaged(location: str, store: ResultStore, damage: str) -> None:
    execute(store, damage)
    with contextlib.closing(ResultStore(location)) as again, pytest.raises(StoreError, match="damaged"):
        again.get("a", 1)


def use(store: ResultStore) -> None:
    """Reads, writes, deletes and leases."""
    assert store.get("a", 2) == Record((1.5, 0.1), None, {"seconds": 2.0})
    number = store.add("b", Record((1.0,), first_epoch=3), aliases=["x"])
    assert store.get("b", 4, last_epoch_only=True) == Record((1.0,), first_epoch=3)
    assert store.resolve("x") == "b"
    assert store.delete([number]) == 1
    with store.leases() as leases:
        assert leases.take(["a"]) == {"a"}


@pytest.fixture
def stored_by_a_former_version(tmp_path: Path) -> Path:
    """A store with the former table of step losses and a record without checksum."""
    path = tmp_path / "former.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"""
            CREATE TABLE schema (id INTEGER NOT NULL, version INTEGER, PRIMARY KEY (id));
            CREATE TABLE runs (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL,
                epoch_means TEXT NOT NULL, stopped_at INTEGER, provenance TEXT NOT NULL,
                first_epoch INTEGER DEFAULT '0' NOT NULL, checksum BIGINT);
            CREATE INDEX ix_runs_key ON runs (key);
            CREATE TABLE aliases (alias TEXT NOT NULL, key TEXT NOT NULL, checksum BIGINT, PRIMARY KEY (alias));
            CREATE TABLE leases (key TEXT NOT NULL, owner TEXT NOT NULL, expires_at DOUBLE NOT NULL, PRIMARY KEY (key));
            CREATE INDEX ix_leases_owner ON leases (owner);
            CREATE TABLE step_losses (run_id INTEGER NOT NULL, losses BLOB NOT NULL, PRIMARY KEY (run_id));
            INSERT INTO schema VALUES (1, {SCHEMA_VERSION});
            INSERT INTO runs VALUES (3, 'a', '[1.5, 0.1]', NULL, '{{"seconds": 2.0}}', 0, NULL);
            PRAGMA application_id = {APPLICATION_ID};
        """)
    connection.close()
    return path


def test_a_store_with_the_former_table_of_step_losses_works(stored_by_a_former_version: Path) -> None:
    with contextlib.closing(ResultStore(stored_by_a_former_version)) as store:
        use(store)


def test_the_tables_are_those_of_a_former_version_but_for_step_losses(
    stored_by_a_former_version: Path, tmp_path: Path
) -> None:
    with contextlib.closing(ResultStore(tmp_path / "new.sqlite")) as store:
        store.add("a", Record((1.0,)))
    shapes = []
    for path in (stored_by_a_former_version, tmp_path / "new.sqlite"):
        with sqlite3.connect(path) as connection:
            names = connection.execute("SELECT type, name FROM sqlite_master WHERE name <> 'step_losses'").fetchall()
            tables = sorted(name for kind, name in names if kind == "table")
            columns = [connection.execute(f"PRAGMA table_info({name})").fetchall() for name in tables]
        # The names, types and "not null" of the columns; an index of SQLite's own belongs to `step_losses`.
        indexes = {name for kind, name in names if kind == "index" and not name.startswith("sqlite_")}
        shapes.append((tables, indexes, [[column[1:4] for column in table] for table in columns]))
    assert shapes[0] == shapes[1]
