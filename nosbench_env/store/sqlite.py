"""SQLite stores, in files or memory: opening and error remedies."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError

from nosbench_env.store import schema
from nosbench_env.store.filesystems import network_file_system
from nosbench_env.store.schema import APPLICATION_ID, StoreError

LOCK_TIMEOUT_S = 60.0  # the wait for another process's write, which takes milliseconds
_CONNECT: dict[str, Any] = {"timeout": LOCK_TIMEOUT_S, "check_same_thread": False}
_LONGEST = 2**27  # bytes of a value; SQLite would allocate any size that a damaged file claims
ALLOW_NETWORK = "NOSBENCH_ALLOW_NETWORK_STORE"  # the environment variable that allows network file systems if 1
ELSEWHERE = "Name another file with --store or NOSBENCH_STORE."
REPAIR = "Move the file away to start a new store, or name another with --store or NOSBENCH_STORE."


def must_be_read_only(path: Path) -> bool:
    """Returns True for a file without write permission.

    The folder must be writable too, since SQLite creates files in it.
    """
    return path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def open_in_memory() -> sql.Engine:
    """Creates a store in memory.

    It has one connection; threads wait for each other.
    """
    check = partial(_prepare, where="in memory")
    return _checked("sqlite://", _set_up, check, connect_args=_CONNECT, pool_size=1, max_overflow=0)


def open_file(path: Path) -> sql.Engine:
    """Opens a store for reading and writing, or creates it.

    Raises:
        StoreError: If the file is not a store, has another version, or its place can't hold a store.
    """
    _refuse_network(path)
    url = sql.URL.create("sqlite", database=str(path))
    check = partial(_check_or_make, path=path)
    return _checked(url, _set_up, check, connect_args=_CONNECT, pool_timeout=LOCK_TIMEOUT_S)


def _check_or_make(engine: sql.Engine, path: Path) -> None:
    if path.exists():
        if not path.is_file():
            raise StoreError(f"can't open the store {path}: it is not a file. {ELSEWHERE}")
        if path.stat().st_size and _is_store(engine, str(path)):
            return
    import filelock  # slow to load, and not needed to open an existing store

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = f"{path}.lock"
        # This fails at once if the file can't be created; filelock would retry until its timeout.
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT, 0o644))
        # Two processes can't switch a new file to write-ahead logging at the same moment.
        with filelock.FileLock(lock, timeout=LOCK_TIMEOUT_S):
            _prepare(engine, str(path))
    except (OSError, filelock.Timeout) as error:
        raise StoreError(f"can't open the store {path}: {error}. {ELSEWHERE}") from error


def open_read_only(path: Path) -> sql.Engine:
    """Opens a store for reading only.

    No files are created beside it unless another process writes. SQLite can read the file alone ("immutable") while no
    writer keeps changes beside it. That can change while the store is open; see `state`.

    Raises:
        StoreError: If the file does not exist or is not a store of this version.
    """
    if not path.is_file():
        raise StoreError(f"can't open the store {path} for reading: the file does not exist. {ELSEWHERE}")
    alone = not _has_log(path)
    if not alone:
        _refuse_network(path)
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if alone else ''}"
    connect = partial(sqlite3.connect, uri, uri=True, **_CONNECT)
    check = partial(_check_to_read, path=path)
    return _checked("sqlite://", _set_careful, check, creator=connect, pool_timeout=LOCK_TIMEOUT_S)


def _checked(url: sql.URL | str, set_up: Any, check: Callable[[sql.Engine], None], **options: Any) -> sql.Engine:
    """Returns an engine that has passed a check."""
    options |= {"poolclass": sql.QueuePool, "isolation_level": "AUTOCOMMIT", "hide_parameters": True}
    engine = sql.create_engine(url, **options)
    sql.event.listen(engine, "connect", set_up)
    try:
        check(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_to_read(engine: sql.Engine, path: Path) -> None:
    with engine.connect() as connection:
        if not _is_ours(connection, str(path)):
            raise StoreError(f"can't open the store {path} for reading: it is empty. {ELSEWHERE}")
        schema.check_version(connection, str(path))


def state(path: Path, read_only: bool) -> tuple[Any, ...] | None:
    """Returns a file's state, or None if it is missing.

    The state must not change while the file is open. The first element identifies the file. If another one changes, an
    immutable reader must open the file again.
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
    """Returns the remedy for an error of SQLite."""
    if "full" in error:
        return "The disk is full; results stored before are safe. Free some space and run the same command again."
    if any(sign in error for sign in ("not a database", "malformed", "no such table", "no such column", "decode")):
        return f"The file is damaged or not a SQLite database. {REPAIR}"
    if "disk I/O" in error:
        return (
            "If a disk quota is used up, free some space and run the same command again. If its files were deleted or "
            f"moved while in use, {REPAIR[0].lower()}{REPAIR[1:]}"
        )
    if "locked" in error:
        return "Another process kept it locked for a minute; run the same command again when that process is done."
    return f"Check its permissions, and those of the files with -wal and -shm beside it. {ELSEWHERE}"


def _set_up(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut and takes milliseconds
    _set_careful(connection, record)


def _set_careful(connection: Any, _: Any) -> None:
    """Sets limits for a file that may be damaged or malicious."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")


def _has_log(path: Path) -> bool:
    """Returns True if a writer keeps changes beside the file."""
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
            "Name a file on a local disk, or a PostgreSQL server, with --store or NOSBENCH_STORE. A store that nobody "
            f"writes can be read there: ResultStore(..., read_only=True). {ALLOW_NETWORK}=1 disables this check."
        )


def _is_ours(connection: sql.Connection, where: str) -> bool:
    """Returns True for a store, False for an empty database.

    Raises:
        StoreError: If it is another database.
    """
    # In this order: another process may create the store meanwhile, and commits tables and id together.
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master LIMIT 1").all()
    if connection.exec_driver_sql("PRAGMA application_id").scalar_one() == APPLICATION_ID:
        return True
    if tables:
        raise StoreError(f"{where} is a database, but not a NOSBench store. {ELSEWHERE}")
    return False


def _is_store(engine: sql.Engine, where: str) -> bool:
    """Returns True for a store of this version, False if unreadable."""
    try:
        with engine.connect() as connection:
            if not _is_ours(connection, where):
                return False
            schema.check_version(connection, where)
    except (DBAPIError, sqlite3.Error, UnicodeDecodeError):  # damaged or locked
        return False
    return True


def _prepare(engine: sql.Engine, where: str) -> None:
    """Creates the tables in an empty database; checks their version."""
    with engine.connect() as connection:
        if not _is_ours(connection, where):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # readers and a writer don't block each other
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # a kill before the commit leaves an empty file
            schema.create(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql("COMMIT")
        schema.check_version(connection, where)
