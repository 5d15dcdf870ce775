"""`Database`: opening, reading and writing of a store's database."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from nosbench_env.store import postgresql, sqlite
from nosbench_env.store.schema import StoreError

Result = TypeVar("Result")

# SQLAlchemy does not wrap all of SQLite's errors, nor decoding errors in messages about damaged files.
_FAILURES = (DBAPIError, sqlite3.Error, UnicodeDecodeError)

_RETRIES_S = (0.1, 1.0, 4.0)  # pauses before further attempts after a lost connection to a server
_opening = threading.RLock()  # one thread opens a store, the others wait


def _renew_lock() -> None:
    global _opening
    _opening = threading.RLock()


# A forked child has none of its parent's threads, so none of them will ever release the lock there.
os.register_at_fork(after_in_child=_renew_lock)


class Database:
    """A SQLite file, SQLite in memory, or a PostgreSQL server.

    It is opened at its first use, once per process.

    Args:
        location: As for `ResultStore`.
        read_only: As for `ResultStore`.
    """

    def __init__(self, location: str | Path | None, read_only: bool) -> None:
        self.url = _store_url(location)
        self.asked_read_only = read_only
        self._engine: sql.Engine | None = None
        self._process = 0
        self._state: tuple[Any, ...] | None = None  # of the file
        self._read_only = False
        if read_only and self.is_sqlite and self.path is None:
            raise ValueError("a store in memory is always new and empty, so it can't be opened with read_only")

    @property
    def is_sqlite(self) -> bool:
        """True for SQLite, False for PostgreSQL."""
        return self.url.drivername == "sqlite"

    @property
    def path(self) -> Path | None:
        """The file of the database, if it is in one."""
        return Path(self.url.database) if self.is_sqlite and self.url.database else None

    @property
    def shown(self) -> str:
        """The location as a URL, without secrets."""
        return str(self.url) if self.is_sqlite else postgresql.shown(self.url)

    @property
    def read_only(self) -> bool:
        """True if the database was opened read-only. Opens it."""
        self.engine()
        return self._read_only

    def read(self, work: Callable[[sql.Connection], Result]) -> Result:
        """Calls `work` with a connection outside of transactions.

        Each statement is its own transaction. `work` is called again if the connection is lost, or if another process
        began to write the file meanwhile.
        """
        while True:
            result = self._tried(lambda connection, _: work(connection))
            if not self._read_only or self.path is None or self._state == sqlite.state(self.path, True):
                return result

    def write(self, work: Callable[[sql.Connection, bool], Result]) -> Result:
        """Calls `work` in a transaction, stored completely or not at all.

        Args:
            work: Called with a connection and False; or with True after the connection was lost. If it was lost at the
                commit, the first transaction may be on disk.

        Raises:
            StoreError: If the store is read-only or can't be written.
        """
        if self.read_only:
            raise StoreError(
                f"the store {self.shown} is read-only: "
                + ("it was opened with read_only. " if self.asked_read_only else "write permission is missing. ")
                + "Name a writable store with --store or NOSBENCH_STORE."
            )

        def transaction(connection: sql.Connection, again: bool) -> Result:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE" if self.is_sqlite else postgresql.BEGIN)
                result = work(connection, again)
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(Exception):  # the first error matters
                    connection.connection.rollback()
                raise
            return result

        return self._tried(transaction)

    def clock(self) -> str:
        """Returns SQL for the seconds since 1970, by the server's clock."""
        return repr(time.time()) if self.is_sqlite else "extract(epoch FROM clock_timestamp())"

    def close(self) -> None:
        """Closes the database until its next use; one in memory is lost."""
        with _opening:
            if self._engine is not None:
                # A forked child must not close its parent's connections.
                self._engine.dispose(close=self._process == os.getpid())
                self._engine = None

    def engine(self) -> sql.Engine:
        """Returns the engine, opening the database if necessary."""
        with _opening:
            state = sqlite.state(self.path, self._read_only) if self.path is not None else None
            if self._engine is not None and self._process == os.getpid():
                if state == self._state:
                    return self._engine
                if state is None or self._state is None or state[0] != self._state[0]:
                    # Continuing could mix two stores: SQLite's files beside this one belong to the previous store.
                    raise StoreError(
                        f"the store {self.path} was deleted or replaced while in use. Stop all programs that use it, "
                        "move its remaining files (also those with -wal and -shm) aside, and run the same command again"
                    )
            self.close()
            try:
                self._open()
            except _FAILURES as error:
                raise self._error(error) from error
            self._process = os.getpid()
            assert self._engine is not None
            return self._engine

    def _open(self) -> None:
        if not self.is_sqlite:
            self._engine, self._read_only = self._connected_to_server()
        elif self.path is None:
            self._engine = sqlite.open_in_memory()
        elif self.asked_read_only or sqlite.must_be_read_only(self.path):
            self._read_only = True
            self._state = sqlite.state(self.path, True)
            self._engine = sqlite.open_read_only(self.path)
        else:
            self._read_only = False
            self._engine = sqlite.open_file(self.path)
            self._state = sqlite.state(self.path, False)

    def _connected_to_server(self) -> tuple[sql.Engine, bool]:
        for delay in _RETRIES_S:
            try:
                return postgresql.open_server(self.url, self.asked_read_only)
            except DBAPIError as error:
                if not postgresql.is_gone(error):
                    raise
                time.sleep(delay)
        return postgresql.open_server(self.url, self.asked_read_only)

    def _tried(self, work: Callable[[sql.Connection, bool], Result]) -> Result:
        """Calls `work` again if the connection to a server was lost."""
        for number in range(len(_RETRIES_S) + 1):
            try:
                with self.engine().connect() as connection:
                    return work(connection, number > 0)
            except _FAILURES as error:
                if self.is_sqlite and self._is_outdated():
                    continue
                if self.is_sqlite or number == len(_RETRIES_S) or not postgresql.is_gone(error):
                    raise self._error(error) from error
                time.sleep(_RETRIES_S[number])
            except PoolTimeoutError as error:
                raise StoreError(f"can't use the store {self.shown}: too many threads use it at once") from error
        raise StoreError(f"can't use the store {self.shown}: another process keeps changing it. Try again later.")

    def _is_outdated(self) -> bool:
        """True if a read-only file changed since it was opened."""
        return self.path is not None and self._read_only and self._state != sqlite.state(self.path, True)

    def _error(self, error: Exception) -> StoreError:
        cause = " ".join(str(getattr(error, "orig", error)).split()).rstrip(".?")
        advice = sqlite.advice(cause) if self.is_sqlite else postgresql.advice(error)
        return StoreError(f"can't use the store {self.shown}: {cause}. {advice}")


def _store_url(location: str | Path | None) -> sql.URL:
    expected = "store must be a file or a URL, sqlite:///file or postgresql://user@host/database, got"
    if location is None:
        location = os.environ.get("NOSBENCH_STORE") or platformdirs.user_cache_path("nosbench_env") / "results.sqlite"
    if not isinstance(location, (str, Path)):
        raise ValueError(f"{expected} {location!r}")
    file = str(location)
    if "://" in file:
        try:
            url = sql.make_url(file)
        except (ArgumentError, ValueError):  # the text may hold a password
            raise ValueError(f"{expected} a malformed URL") from None
        if url.drivername in ("postgresql", "postgresql+psycopg"):
            if not url.database:
                raise ValueError(f"{expected} a URL without a database: {postgresql.shown(url)}")
            return url.set(drivername="postgresql")
        if url.drivername != "sqlite":
            raise ValueError(f"{expected} a URL of {url.drivername!r}")
        if url.host or url.query:
            raise ValueError(f"{expected} a URL of SQLite with a host or options")
        file = url.database or ":memory:"
    if file == ":memory:":
        return sql.URL.create("sqlite")
    if not file or "\0" in file:
        raise ValueError(f"{expected} {file!r}")
    return sql.URL.create("sqlite", database=str(Path(file).expanduser().absolute()))
