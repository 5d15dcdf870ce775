"""A store in a SQLite file or in memory: how it is opened, to write or only to read, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError

from nosbench_env.store import schema
from nosbench_env.store.filesystems import network_file_system
from nosbench_env.store.schema import APPLICATION_ID, SCHEMA_VERSION, StoreError

LOCK_TIMEOUT_S = 60.0  # how long to wait for another process's write, which takes milliseconds
ALLOW_NETWORK = "NOSBENCH_ALLOW_NETWORK_STORE"  # set to 1, this variable lifts the refusal of network file systems
ELSEWHERE = "Name another file with --store or NOSBENCH_STORE."
REPAIR = "Move the file away to start a new store, or name another with --store or NOSBENCH_STORE."


def must_be_read_only(path: Path) -> bool:
    """Whether there is a file, but no permission to write it, or to make files beside it, as SQLite must."""
    return path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def open_in_memory() -> sql.Engine:
    """A new store in memory. A connection is a database here: there is one, and threads wait for it."""
    engine = sql.create_engine("sqlite://", poolclass=sql.QueuePool, pool_size=1, max_overflow=0, **_OPTIONS)
    sql.event.listen(engine, "connect", _set_up)
    _prepare(engine, "in memory")
    return engine


def open_file(path: Path) -> sql.Engine:
    """Opens the file for reading and writing; makes it if there is none, and brings one of an older version up to date.

    Raises:
        StoreError: If it is no store, of a newer version, or in a place that can't hold one.
    """
    _refuse_network(path)
    engine = sql.create_engine(
        sql.URL.create("sqlite", database=str(path)), poolclass=sql.QueuePool, pool_timeout=LOCK_TIMEOUT_S, **_OPTIONS
    )
    sql.event.listen(engine, "connect", _set_up)
    try:
        _check_or_make(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_or_make(engine: sql.Engine, path: Path) -> None:
    if path.exists():
        if not path.is_file():
            raise StoreError(f"can't open the store {path}: it is not a file. {ELSEWHERE}")
        if path.stat().st_size and _is_current(engine):
            return
    import filelock  # not needed to open most stores, and slow to load

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = f"{path}.lock"
        # Where it can't be made, this fails at once; filelock would try for as long as it may wait.
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644))
        # Switching a new file to write-ahead logging fails if another process does the same just then.
        with filelock.FileLock(lock, timeout=LOCK_TIMEOUT_S):
            _prepare(engine, str(path))
    except (OSError, filelock.Timeout) as error:
        raise StoreError(f"can't open the store {path}: {error}. {ELSEWHERE}") from error


def open_read_only(path: Path) -> sql.Engine:
    """Opens the file for reading; writes nothing, and makes no files beside it where nobody else writes.

    SQLite may read a file on its own ("immutable") as long as no writer keeps changes beside it. Whether that is so may
    change while it is open: see `state`.

    Raises:
        StoreError: If there is no store, or one of another version.
    """
    if not path.is_file():
        raise StoreError(f"can't open the store {path} for reading: there is no such file. {ELSEWHERE}")
    alone = not _has_log(path)
    if not alone:
        _refuse_network(path)
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}"
    engine = sql.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT_S, check_same_thread=False),
        poolclass=sql.QueuePool,
        pool_timeout=LOCK_TIMEOUT_S,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )
    sql.event.listen(engine, "connect", _set_careful)
    try:
        _check_to_read(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_to_read(engine: sql.Engine, path: Path) -> None:
    with engine.connect() as connection:
        if not _is_ours(connection, str(path)):
            raise StoreError(f"can't open the store {path} for reading: it is empty. {ELSEWHERE}")
        version = schema.read_version(connection, str(path))
    if version < SCHEMA_VERSION:
        raise StoreError(
            f"the store {path} has version {version} and can only be read here, but must be brought up to version "
            f"{SCHEMA_VERSION}: open it once with permission to write, or open a copy of it."
        )


def state(path: Path, read_only: bool) -> tuple[Any, ...] | None:
    """What must stay the same while a file is open; None if there is none.

    The first element tells which file it is. The others tell whether a reader on its own may go on with what it knows.
    """
    try:
        status = os.stat(path)
    except OSError:
        return None
    file = (status.st_dev, status.st_ino)
    if not read_only:
        return (file,)
    return (file, True) if _has_log(path) else (file, False, status.st_size, status.st_mtime_ns)


def advice(error: str) -> str:
    """What to do about an error of SQLite's."""
    if "full" in error:
        return "The disk is full; results stored before are safe. Free some space and run the same command again."
    if any(sign in error for sign in ("not a database", "malformed", "no such table", "no such column", "decode")):
        return f"The file is damaged or no SQLite database. {REPAIR}"
    if "disk I/O" in error:
        return (
            "A disk quota may be used up: then free some space and run the same command again. "
            f"Or its files were deleted or moved while in use: then {REPAIR[0].lower()}{REPAIR[1:]}"
        )
    if "locked" in error:
        return "Another process kept it locked for a minute; run the same command again when that is done."
    return f"Check its permissions, and those of the files with -wal and -shm beside it. {ELSEWHERE}"


_OPTIONS: dict[str, Any] = {
    "isolation_level": "AUTOCOMMIT",
    "connect_args": {"timeout": LOCK_TIMEOUT_S, "check_same_thread": False},
    "hide_parameters": True,
}


def _set_up(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut; it costs milliseconds
    _set_careful(connection, record)


def _set_careful(connection: Any, _: Any) -> None:
    """The file may be damaged, or made by anybody."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def _has_log(path: Path) -> bool:
    """Whether a writer keeps changes beside the file."""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        return False


def _refuse_network(path: Path) -> None:
    if os.environ.get(ALLOW_NETWORK) == "1":
        return
    if (kind := network_file_system(path)) is not None:
        raise StoreError(
            f"can't use the store {path}: it is on a network file system ({kind}), where SQLite can lose results. "
            "Name a file on a local disk, or a PostgreSQL server, with --store or NOSBENCH_STORE; a store that nobody "
            f"writes may be read there: ResultStore(..., read_only=True). {ALLOW_NETWORK}=1 lifts this check."
        )


def _is_ours(connection: sql.Connection, where: str) -> bool:
    """Whether the database is a store; False if it is empty.

    Raises:
        StoreError: If it is somebody else's.
    """
    if connection.exec_driver_sql("PRAGMA application_id").scalar_one() == APPLICATION_ID:
        return True
    if connection.exec_driver_sql("SELECT name FROM sqlite_master LIMIT 1").all():
        raise StoreError(f"{where} is a database, but not a NOSBench store. {ELSEWHERE}")
    return False


def _is_current(engine: sql.Engine) -> bool:
    """Whether the file is a store that needs nothing done to it."""
    try:
        with engine.connect() as connection:
            application = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            return application == APPLICATION_ID and connection.execute(
                sql.select(schema.schema.c.version)
            ).scalars().all() == [SCHEMA_VERSION]
    except (DBAPIError, sqlite3.Error, UnicodeDecodeError):  # damaged, or locked: said later, if it lasts
        return False


def _prepare(engine: sql.Engine, where: str) -> None:
    """Checks that the file is a store of ours; makes it one if it is empty, and brings an older one up to date."""
    with engine.connect() as connection:
        if not _is_ours(connection, where):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # readers and a writer don't block each other
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # all or nothing: a kill in between leaves an empty file
            schema.create(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql("COMMIT")
        version = schema.read_version(connection, where)
        if version < SCHEMA_VERSION:
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # all or nothing here too
            schema.migrate(connection, version)
            connection.exec_driver_sql("COMMIT")
