"""`ResultStore`: results on disk, shared by processes, under string keys; nothing is ever overwritten."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import filelock
import platformdirs
import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError, DBAPIError

SCHEMA_VERSION = 3  # 2: runs has first_epoch; 3: aliases, leases, step_losses
APPLICATION_ID = 0x4E4F5342  # "NOSB" in the header of the SQLite file: tells a store from anybody else's database
_PAGE = 1000  # rows read or written at a time
_LOCK_TIMEOUT_S = 60.0  # how long to wait for another process's write, which takes milliseconds

_opening = threading.RLock()  # one thread opens a store, the others wait for it


def _renew_lock() -> None:
    global _opening
    _opening = threading.RLock()


# A forked child has none of its parent's threads, so none of them will ever release the lock there.
os.register_at_fork(after_in_child=_renew_lock)

_metadata = sql.MetaData()
_schema = sql.Table(
    "schema", _metadata, sql.Column("id", sql.Integer, primary_key=True), sql.Column("version", sql.Integer)
)
# One row a training, never changed or deleted. The oldest row that holds an epoch answers for it.
_runs = sql.Table(
    "runs",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("key", sql.Text, nullable=False, index=True),
    sql.Column("epoch_means", sql.Text, nullable=False),  # JSON; exact (repr) floats, non-finite ones as strings
    sql.Column("stopped_at", sql.Integer),
    sql.Column("provenance", sql.Text, nullable=False),  # JSON
    sql.Column("first_epoch", sql.Integer, nullable=False, server_default="0"),  # last, where ALTER TABLE adds it
    sqlite_autoincrement=True,
)
# Further names of a key, such as the digest of a program's canonical text. The first key an alias gets stays.
_aliases = sql.Table(
    "aliases", _metadata, sql.Column("alias", sql.Text, primary_key=True), sql.Column("key", sql.Text, nullable=False)
)
# Who trains what at the moment. Not results: rows come and go.
_leases = sql.Table(
    "leases",
    _metadata,
    sql.Column("key", sql.Text, primary_key=True),
    sql.Column("owner", sql.Text, nullable=False),
    sql.Column("expires_at", sql.Double, nullable=False),  # seconds since 1970
)
_step_losses = sql.Table(
    "step_losses",
    _metadata,
    sql.Column("run_id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("losses", sql.LargeBinary, nullable=False),  # float64, little-endian
)
_runs_of_key = sql.select(_runs).where(_runs.c.key == sql.bindparam("key")).order_by(_runs.c.id)


class StoreError(RuntimeError):
    """The store can't be opened, read or written. What it holds is untouched; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Record:
    """The result of a training.

    Attributes:
        epoch_means: The mean loss of each epoch from `first_epoch` on.
        stopped_at: After how many updates a parameter was non-finite, or None; see `Curve`.
        provenance: JSON data: the program as asked, device, versions, seconds, date.
        first_epoch: The epoch of `epoch_means[0]`; not 0 if no more than the last epochs are known.
    """

    epoch_means: tuple[float, ...]
    stopped_at: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    first_epoch: int = 0


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A record as it stands in a store.

    Attributes:
        id: Its number in that store; later records have greater ones.
        key: Its key.
        record: The record.
    """

    id: int
    key: str
    record: Record


class ResultStore:
    """Results of trainings in a SQLite database, which any number of processes on one machine may use at once.

    Args:
        location: A file, or a URL `sqlite:///file`; `sqlite://` keeps everything in memory. None takes the environment
            variable `NOSBENCH_STORE`, or else `results.sqlite` in the user's cache folder.

    The file is made, or opened, at the first use. Copies and pickles of a store open the same file.

    Raises:
        ValueError: If the location is not a file or a SQLite URL.
        StoreError: At first use, if the file can't be used: no permission, no store, damaged, of a newer version.

    >>> store = ResultStore("sqlite://")
    >>> store.add("key", Record((1.5, 0.5)))
    >>> store.get("key", epochs=1).epoch_means
    (1.5,)
    >>> store.get("key", epochs=3) is None
    True
    """

    def __init__(self, location: str | Path | None = None) -> None:
        self.url = _store_url(location)
        self._opened: sql.Engine | None = None
        self._opened_by: tuple[int, tuple[int, int] | None] = (0, None)  # process and file

    @property
    def path(self) -> Path | None:
        """The store's file; None if it is in memory."""
        return Path(self.url.database) if self.url.database else None

    def get(self, key: str, epochs: int, last_epoch_only: bool = False) -> Record | None:
        """The record of a training of `epochs` epochs, or None if the stored ones don't tell all of them.

        Each epoch's mean comes from the oldest training that holds it, so an answer, once given, never changes. A
        training whose parameters turned non-finite answers for all epochs after those it holds: NaN. `stopped_at` and
        `provenance` are those of the training that the last epoch comes from.

        Args:
            key: The key.
            epochs: Length of the training.
            last_epoch_only: Whether the last epoch is enough; if it is all that is known, the record holds no other.
        """
        with self._connected() as connection:
            rows = connection.execute(_runs_of_key, {"key": key}).all()
        means: dict[int, float] = {}
        last: Record | None = None  # the oldest that holds the last epoch
        for record in (self._record(row) for row in rows):
            held = dict(enumerate(record.epoch_means, start=record.first_epoch))
            if record.stopped_at is not None:
                held |= dict.fromkeys(range(record.first_epoch + len(record.epoch_means), epochs), math.nan)
            means = held | means
            if last is None and epochs - 1 in held:
                last = record
            if last is not None and all(epoch in means for epoch in range(epochs)):
                return Record(tuple(means[epoch] for epoch in range(epochs)), last.stopped_at, last.provenance)
        if last is None or not last_epoch_only:
            return None
        return Record((means[epochs - 1],), last.stopped_at, last.provenance, first_epoch=epochs - 1)

    def add(self, key: str, record: Record, aliases: Iterable[str] = ()) -> None:
        """Adds the record of a training. When this returns, the record is on disk.

        What an earlier record of the key answers, it goes on answering; the new one is kept beside it.

        Args:
            key: The key.
            record: The record.
            aliases: Further names of the key, for `resolve`. An alias that has a key keeps it.
        """
        values = _row(key, record)
        with self._transaction() as connection:
            connection.execute(sql.insert(_runs).values(values))
            self._insert_aliases(connection, ((alias, key) for alias in aliases))

    def add_many(self, items: Iterable[tuple[str, Record]]) -> int:
        """Adds records, a thousand a transaction, but for those that the store holds exactly; returns how many.

        Held exactly means: with the same key, means, `stopped_at`, `first_epoch` and provenance. If this is cut short,
        the transactions before are on disk, and the same call goes on where it stopped.
        """
        added, items = 0, iter(items)
        while page := list(islice(items, _PAGE)):
            rows = {_identity(row): row for row in (_row(key, record) for key, record in page)}
            keys = sorted({row["key"] for row in rows.values()})
            with self._transaction() as connection:
                for held in connection.execute(sql.select(_runs).where(_runs.c.key.in_(keys))).mappings():
                    rows.pop(_identity(held), None)
                if rows:
                    connection.execute(sql.insert(_runs), list(rows.values()))
            added += len(rows)
        return added

    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """Names keys: `resolve(alias)` is the key from now on. An alias that has a key keeps it."""
        with self._transaction() as connection:
            self._insert_aliases(connection, aliases.items())

    def resolve(self, alias: str) -> str | None:
        """The key that an alias stands for, or None."""
        with self._connected() as connection:
            return connection.execute(sql.select(_aliases.c.key).where(_aliases.c.alias == alias)).scalar_one_or_none()

    def aliases(self) -> Iterator[tuple[str, str]]:
        """All aliases with their keys, in order of the aliases."""
        after = ""
        while True:
            query = sql.select(_aliases).where(_aliases.c.alias > after).order_by(_aliases.c.alias).limit(_PAGE)
            with self._connected() as connection:
                page = connection.execute(query).all()
            if not page:
                return
            yield from ((row.alias, row.key) for row in page)
            after = page[-1].alias

    def runs(self, prefix: str = "", after: int = 0) -> Iterator[StoredRun]:
        """All records in order of their ids, read a thousand at a time; others may write meanwhile.

        Args:
            prefix: No more than those whose key starts with this.
            after: No more than those with a greater id.

        Raises:
            StoreError: At a damaged record.
        """
        query = sql.select(_runs).where(_runs.c.id > sql.bindparam("after")).order_by(_runs.c.id).limit(_PAGE)
        if prefix:
            query = query.where(sql.func.substr(_runs.c.key, 1, len(prefix)) == prefix)
        while True:
            with self._connected() as connection:
                page = connection.execute(query, {"after": after}).all()
            if not page:
                return
            yield from (StoredRun(row.id, row.key, self._record(row)) for row in page)
            after = page[-1].id

    def delete(self, ids: Iterable[int]) -> int:
        """Deletes records by their ids, with their step losses; returns how many there were. Aliases stay."""
        deleted, ids = 0, iter(ids)
        while page := list(islice(ids, _PAGE)):
            with self._transaction() as connection:
                connection.execute(sql.delete(_step_losses).where(_step_losses.c.run_id.in_(page)))
                deleted += connection.execute(sql.delete(_runs).where(_runs.c.id.in_(page))).rowcount
        return deleted

    def __len__(self) -> int:
        """The number of distinct keys."""
        with self._connected() as connection:
            return connection.execute(sql.select(sql.func.count(sql.distinct(_runs.c.key)))).scalar_one()

    def close(self) -> None:
        """Closes the file; the next use opens it again. A store in memory is gone."""
        if self._opened is not None:
            # A forked child must not close its parent's connections.
            self._opened.dispose(close=self._opened_by[0] == os.getpid())
            self._opened = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_opened": None, "_opened_by": (0, None)}

    def __repr__(self) -> str:
        return f"ResultStore({str(self.url)!r})"

    def _record(self, row: sql.Row[Any]) -> Record:
        try:
            means = tuple(_decode_float(mean) for mean in json.loads(row.epoch_means))
            provenance = json.loads(row.provenance)
            seconds = provenance.get("seconds", 0.0) if isinstance(provenance, dict) else None
            if not means or not isinstance(seconds, (int, float)):
                raise ValueError("expected epoch means and a provenance")
            if row.stopped_at is not None and not (isinstance(row.stopped_at, int) and row.stopped_at >= 1):
                raise ValueError(f"expected a number of updates, got {row.stopped_at!r}")
            if not (isinstance(row.first_epoch, int) and row.first_epoch >= 0):
                raise ValueError(f"expected the number of an epoch, got {row.first_epoch!r}")
            return Record(means, row.stopped_at, provenance, row.first_epoch)
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"the store {self.url} is damaged at record {row.id}: {error}. {_REPAIR}") from error

    @contextmanager
    def _connected(self) -> Iterator[sql.Connection]:
        """A connection in autocommit mode: each statement is a transaction of its own, whole or not there."""
        try:
            with self._engine().connect() as connection:
                yield connection
        except DBAPIError as error:
            raise StoreError(f"can't use the store {self.url}: {error.orig}. {_advice(str(error.orig))}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sql.Connection]:
        """A connection in a transaction that writes: all of it is on disk in the end, or nothing."""
        with self._connected() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.connection.rollback()
                raise

    @staticmethod
    def _insert_aliases(connection: sql.Connection, aliases: Iterable[tuple[str, str]]) -> None:
        if rows := [{"alias": _check_text("alias", alias), "key": _check_text("key", key)} for alias, key in aliases]:
            connection.execute(
                sql.text("INSERT INTO aliases (alias, key) VALUES (:alias, :key) ON CONFLICT DO NOTHING"), rows
            )

    def _engine(self) -> sql.Engine:
        with _opening:
            process, file = self._opened_by
            if self._opened is not None and process == os.getpid():
                if self._file() != file:
                    # Going on could mix two stores: what SQLite keeps beside a file belongs to the one before.
                    raise StoreError(
                        f"the store {self.path} was deleted or replaced while in use. Stop all programs that use it, "
                        "move what is left of it aside (with -wal and -shm), and run the same command again"
                    )
                return self._opened
            self.close()
            self._opened = self._open()
            self._opened_by = os.getpid(), self._file()
            return self._opened

    def _file(self) -> tuple[int, int] | None:
        """Which file the path leads to; None if there is none."""
        try:
            status = os.stat(self.url.database) if self.url.database else None
        except OSError:
            return None
        return status and (status.st_dev, status.st_ino)

    def _open(self) -> sql.Engine:
        engine = sql.create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": _LOCK_TIMEOUT_S, "check_same_thread": False},
            poolclass=sql.QueuePool,
            # In memory, a connection is a database: there is one, and threads wait for it.
            **({"pool_size": 1, "max_overflow": 0} if self.path is None else {}),
            hide_parameters=True,
        )
        sql.event.listen(engine, "connect", _set_durable)
        if self.path is None:
            self._prepare(engine)
            return engine
        if self.path.exists() and not self.path.is_file():
            raise StoreError(f"can't open the store {self.path}: it is not a file. {_ELSEWHERE}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Switching a new file to write-ahead logging fails if another process does the same just then.
            with filelock.FileLock(f"{self.path}.lock", timeout=_LOCK_TIMEOUT_S):
                self._prepare(engine)
        except (OSError, filelock.Timeout) as error:
            raise StoreError(f"can't open the store {self.path}: {error}. {_ELSEWHERE}") from error
        return engine

    def _prepare(self, engine: sql.Engine) -> None:
        """Checks that the file is a store of ours; makes it one if it is new, and brings an older one up to date."""
        with engine.connect() as connection:
            application_id = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
            if application_id != APPLICATION_ID:
                if sql.inspect(connection).get_table_names():
                    raise StoreError(f"{self.path} is a database, but not a NOSBench store. {_ELSEWHERE}")
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")  # readers and a writer don't block each other
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # all or nothing: a kill in between leaves an empty file
                _metadata.create_all(connection)
                connection.execute(sql.insert(_schema).values(id=1, version=SCHEMA_VERSION))
                connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.exec_driver_sql("COMMIT")
            version = connection.execute(sql.select(_schema.c.version)).scalar_one_or_none()
            if version in _MIGRATIONS:
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # all or nothing here too
                while version in _MIGRATIONS:
                    _MIGRATIONS[version](connection)
                    version += 1
                connection.execute(sql.update(_schema).values(version=version))
                connection.exec_driver_sql("COMMIT")
        if not isinstance(version, int):
            raise StoreError(f"the store {self.path} is damaged: it does not say its version. {_REPAIR}")
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.path} has version {version}, this nosbench_env reads up to {SCHEMA_VERSION}: "
                f"upgrade nosbench_env, or name another store with --store or NOSBENCH_STORE"
            )


def _to_version_2(connection: sql.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN first_epoch INTEGER DEFAULT '0' NOT NULL")


def _to_version_3(connection: sql.Connection) -> None:
    _metadata.create_all(connection, tables=[_aliases, _leases, _step_losses])


# How to get from a version to the next.
_MIGRATIONS: dict[int, Callable[[sql.Connection], None]] = {1: _to_version_2, 2: _to_version_3}

_ELSEWHERE = "Name another file with --store or NOSBENCH_STORE."
_REPAIR = "Move the file away to start a new store, or name another with --store or NOSBENCH_STORE."


def _advice(error: str) -> str:
    if "full" in error:
        return "The disk is full; results stored before are safe. Free some space and run the same command again."
    if any(sign in error for sign in ("not a database", "malformed", "no such table", "no such column")):
        return f"The file is damaged or no SQLite database. {_REPAIR}"
    if "disk I/O" in error:
        return (
            "A disk quota may be used up: then free some space and run the same command again. "
            f"Or its files were deleted or moved while in use: then {_REPAIR[0].lower()}{_REPAIR[1:]}"
        )
    if "locked" in error:
        return "Another process kept it locked for a minute; run the same command again when that is done."
    return f"Check its permissions. {_ELSEWHERE}"


def _store_url(location: str | Path | None) -> sql.URL:
    if location is None:
        location = os.environ.get("NOSBENCH_STORE") or platformdirs.user_cache_path("nosbench_env") / "results.sqlite"
    if not isinstance(location, (str, Path)):
        raise ValueError(f"store must be a file or a URL sqlite:///file, got {location!r}")
    file = str(location)
    if "://" in file:
        try:
            url = sql.make_url(file)
        except ArgumentError:
            raise ValueError(f"store must be a file or a URL sqlite:///file, got {location!r}") from None
        if url.drivername != "sqlite" or url.host or url.query:
            raise ValueError(f"store must be a file or a URL sqlite:///file, got one of {url.drivername!r}")
        file = url.database or ":memory:"
    if file == ":memory:":
        return sql.URL.create("sqlite")
    if not file:
        raise ValueError("store must be a file or a URL sqlite:///file, got ''")
    return sql.URL.create("sqlite", database=str(Path(file).expanduser().absolute()))


def _set_durable(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = FULL")  # a commit survives a power cut; it costs milliseconds


def _row(key: str, record: Record) -> dict[str, Any]:
    """The record as a row of the table."""
    return {
        "key": _check_text("key", key),
        "epoch_means": json.dumps([_encode_float(float(mean)) for mean in record.epoch_means]),
        "stopped_at": record.stopped_at,
        "provenance": json.dumps(dict(record.provenance), allow_nan=False),
        "first_epoch": record.first_epoch,
    }


def _identity(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """What two rows that say exactly the same share."""
    try:
        provenance = json.dumps(json.loads(row["provenance"]), sort_keys=True)
    except (ValueError, TypeError, RecursionError):  # damaged
        provenance = row["provenance"]
    return row["key"], row["epoch_means"], row["stopped_at"], row["first_epoch"], provenance


def _check_text(name: str, value: str) -> str:
    """What every database can hold as text."""
    if not isinstance(value, str) or not value or "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(
            f"{name} must be a text, not empty, without zero characters and halves of others, got {value!r}"
        )
    return value


def _encode_float(value: float) -> float | str:
    return value if math.isfinite(value) else repr(value)


def _decode_float(value: Any) -> float:
    if value in ("nan", "inf", "-inf") or (isinstance(value, float) and math.isfinite(value)):
        return float(value)
    raise ValueError(f"expected a number, got {value!r}")
