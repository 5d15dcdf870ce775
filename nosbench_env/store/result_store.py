"""`ResultStore`: results under string keys, shared by processes and machines; nothing is ever overwritten."""

from __future__ import annotations

import json
import math
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import sqlalchemy as sql

from nosbench_env.store import schema
from nosbench_env.store.database import Database
from nosbench_env.store.leases import TTL_S, Leases
from nosbench_env.store.schema import StoreError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

_PAGE = 1000  # rows read or written at a time
_REPAIR = "Move it away to start a new store, or name another with --store or NOSBENCH_STORE."
_RECENT = 10_000  # keys whose answers stay in memory

_runs_of_key = sql.select(schema.runs).where(schema.runs.c.key == sql.bindparam("key")).order_by(schema.runs.c.id)
_key_of_alias = sql.select(schema.aliases).where(schema.aliases.c.alias == sql.bindparam("alias"))
_insert_run = sql.insert(schema.runs).returning(schema.runs.c.id)
_insert_alias = sql.text(
    "INSERT INTO aliases (alias, key, checksum) VALUES (:alias, :key, :checksum) ON CONFLICT DO NOTHING"
)


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
    """Results of trainings in a database, which any number of processes may use at once.

    In a SQLite file they must run on one machine; on a PostgreSQL server, on any that reaches it.

    Args:
        location: A file, or a URL: `sqlite:///file`, or `postgresql://user:password@host/database` (needs the extra
            `postgres`; tables are made under the schema `nosbench`); `sqlite://` keeps everything in memory. None takes
            the environment variable `NOSBENCH_STORE`, or else `results.sqlite` in the user's cache folder.
        read_only: Whether never to write. Nothing is made then, no files beside a SQLite file either. Without the
            permission to write, a store is opened so in any case.

    It is made, or opened, at the first use. Copies and pickles of a store open the same one (a pickle holds the URL's
    password). SQLite loses data on network file systems, so a file there is refused unless it is only read, or the
    environment variable `NOSBENCH_ALLOW_NETWORK_STORE` is 1.

    Answers are kept in memory for the 10,000 keys asked about last. That is safe, since answers don't change; but what
    another process deletes may still be answered here until `close`.

    Raises:
        ValueError: If the location is not a file or a URL of SQLite or PostgreSQL.
        StoreError: At first use, if it can't be used: no permission, no store, damaged, of a newer version, no server.

    >>> store = ResultStore("sqlite://")
    >>> number = store.add("key", Record((1.5, 0.5)))
    >>> store.get("key", epochs=1).epoch_means
    (1.5,)
    >>> store.get("key", epochs=3) is None
    True
    """

    def __init__(self, location: str | Path | None = None, read_only: bool = False) -> None:
        self._database = Database(location, read_only)
        self._recent = _Recent(_RECENT)
        self._recent_aliases = _Recent(_RECENT)

    @property
    def url(self) -> sql.URL:
        """Where the store is; its `str` hides the password."""
        return self._database.url

    @property
    def path(self) -> Path | None:
        """The store's file; None if it is in memory or on a server."""
        return self._database.path

    @property
    def location(self) -> str:
        """Where the store is, for people: the file, or the URL without secrets."""
        return str(self.path or self._database.shown)

    @property
    def read_only(self) -> bool:
        """Whether the store can only be read, as asked or for lack of permission. Opens it."""
        return self._database.read_only

    def get(self, key: str, epochs: int, last_epoch_only: bool = False) -> Record | None:
        """The record of a training of `epochs` epochs, or None if the stored ones don't tell all of them.

        Each epoch's mean comes from the oldest training that holds it, so an answer, once given, never changes. A
        training whose parameters turned non-finite answers for all epochs after those it holds: NaN. `stopped_at` and
        `provenance` are those of the training that the last epoch comes from.

        Args:
            key: The key.
            epochs: Length of the training.
            last_epoch_only: Whether the last epoch is enough; if it is all that is known, the record holds no other.

        Raises:
            StoreError: If the store can't be read, or a record is damaged.
        """
        self._database.engine()  # says so if the file is not there any more
        answer = self._recent.get(key, (epochs, last_epoch_only))
        if answer is None:
            change = self._recent.changes
            rows = self._database.read(lambda connection: connection.execute(_runs_of_key, {"key": key}).all())
            found = answer_of([self._checked(row, key) for row in rows], epochs, last_epoch_only)
            if found is None:
                return None
            means, last, first_epoch = found
            answer = _Training(means, last.stopped_at, last.provenance, first_epoch)
            self._recent.keep(key, (epochs, last_epoch_only), answer, change)
        return Record(answer.epoch_means, answer.stopped_at, json.loads(answer.provenance), answer.first_epoch)

    def add(
        self,
        key: str,
        record: Record,
        aliases: Iterable[str] = (),
        step_losses: ArrayLike | None = None,
        leases: Leases | None = None,
    ) -> int:
        """Adds the record of a training. When this returns, the record is on disk.

        What an earlier record of the key answers, it goes on answering; the new one is kept beside it.

        Args:
            key: The key.
            record: The record.
            aliases: Further names of the key, for `resolve`. An alias that has a key keeps it.
            step_losses: The loss of each training step, kept in a table of their own.
            leases: What holds a lease of the key; it is released in the same transaction.

        Returns:
            The record's id.

        Raises:
            ValueError: If the key, the record, an alias, or the step losses can't be stored.
            StoreError: If the store can't be written.
        """
        row = _row(key, record)
        names = [_alias_row(alias, key) for alias in aliases]
        losses = None if step_losses is None else _losses_to_bytes(step_losses)

        def insert(connection: sql.Connection, again: bool) -> int:
            number = self._held(connection, row) if again else None
            if number is None:
                number = connection.execute(_insert_run, row).scalar_one()
                if losses is not None:
                    connection.execute(sql.insert(schema.step_losses).values(run_id=number, losses=losses))
            if names:
                connection.execute(_insert_alias, names)
            if leases is not None:
                leases.release_in(connection, key)
            return int(number)

        number = self._database.write(insert)
        self._recent.forget(key)
        return number

    def add_many(self, items: Iterable[tuple[str, Record]]) -> int:
        """Adds records, a thousand a transaction, but for those that the store holds exactly; returns how many.

        Held exactly means: with the same key, means, `stopped_at`, `first_epoch` and provenance. If this is cut short,
        the transactions before are on disk, and the same call goes on where it stopped.

        Raises:
            ValueError: If a key or a record can't be stored.
            StoreError: If the store can't be written.
        """
        added, items = 0, iter(items)
        while page := list(islice(items, _PAGE)):
            rows = {_identity(row): row for row in (_row(key, record) for key, record in page)}
            keys = sorted({row["key"] for row in rows.values()})

            def insert(
                connection: sql.Connection, _: bool, rows: dict[Any, dict[str, Any]] = rows, keys: list[str] = keys
            ) -> int:
                held = connection.execute(sql.select(schema.runs).where(schema.runs.c.key.in_(keys))).mappings()
                known = {_identity(row) for row in held}
                new = [row for identity, row in rows.items() if identity not in known]
                if new:
                    connection.execute(sql.insert(schema.runs), new)
                return len(new)

            added += self._database.write(insert)
            for key in keys:
                self._recent.forget(key)
        return added

    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """Names keys: `resolve(alias)` is the key from now on. An alias that has a key keeps it."""
        rows = [_alias_row(alias, key) for alias, key in aliases.items()]
        for start in range(0, len(rows), _PAGE):
            page = rows[start : start + _PAGE]
            self._database.write(lambda connection, _: connection.execute(_insert_alias, page))  # noqa: B023

    def resolve(self, alias: str) -> str | None:
        """The key that an alias stands for, or None."""
        self._database.engine()
        key: str | None = self._recent_aliases.get(alias, None)
        if key is None:
            change = self._recent_aliases.changes
            rows = self._database.read(lambda c: c.execute(_key_of_alias, {"alias": alias}).all())
            if len(rows) > 1 or any(row.alias != alias for row in rows):
                raise StoreError(f"the store {self.location} is damaged at the alias {alias!r}. {_REPAIR}")
            key = self._checked_alias(rows[0])[1] if rows else None
            if key is not None:
                self._recent_aliases.keep(alias, None, key, change)
        return key

    def aliases(self) -> Iterator[tuple[str, str]]:
        """All aliases with their keys, in order of the aliases."""
        names, after = schema.aliases, ""
        while True:
            query = sql.select(names).where(names.c.alias > after).order_by(names.c.alias).limit(_PAGE)
            page = self._database.read(lambda connection: connection.execute(query).all())  # noqa: B023
            if not page:
                return
            self._check_order([after, *(row.alias for row in page)])
            yield from map(self._checked_alias, page)
            after = page[-1].alias

    def runs(self, prefix: str = "", after: int = 0) -> Iterator[StoredRun]:
        """All records in order of their ids, read a thousand at a time; others may write meanwhile.

        Args:
            prefix: No more than those whose key starts with this.
            after: No more than those with a greater id.

        Raises:
            StoreError: If the store can't be read, or at a damaged record.
        """
        query = sql.select(schema.runs).where(schema.runs.c.id > sql.bindparam("after")).limit(_PAGE)
        query = query.order_by(schema.runs.c.id)
        if prefix:
            query = query.where(sql.func.substr(schema.runs.c.key, 1, len(prefix)) == prefix)
        while True:
            values = {"after": after}
            page = self._database.read(lambda connection: connection.execute(query, values).all())  # noqa: B023
            if not page:
                return
            self._check_order([after, *(row.id for row in page)])
            for row in page:
                found = self._checked(row)
                record = Record(found.epoch_means, found.stopped_at, json.loads(found.provenance), found.first_epoch)
                yield StoredRun(row.id, row.key, record)
            after = page[-1].id

    def step_losses(self, run_id: int) -> NDArray[np.float64] | None:
        """The loss of each step of a training, by the id of its record; None if they were not stored."""
        import numpy as np

        query = sql.select(schema.step_losses.c.losses).where(schema.step_losses.c.run_id == run_id)
        losses = self._database.read(lambda connection: connection.execute(query).scalar_one_or_none())
        if losses is None:
            return None
        if not isinstance(losses, bytes) or len(losses) % 8:
            raise StoreError(f"the store {self.location} is damaged at the step losses of record {run_id}. {_REPAIR}")
        return np.frombuffer(losses, dtype="<f8").astype(np.float64)

    def delete(self, ids: Iterable[int]) -> int:
        """Deletes records by their ids, with their step losses; returns how many there were. Aliases stay."""
        deleted, ids = 0, iter(ids)
        while page := list(islice(ids, _PAGE)):

            def delete(connection: sql.Connection, _: bool, page: list[int] = page) -> int:
                connection.execute(sql.delete(schema.step_losses).where(schema.step_losses.c.run_id.in_(page)))
                return connection.execute(sql.delete(schema.runs).where(schema.runs.c.id.in_(page))).rowcount

            deleted += self._database.write(delete)
            self._recent.forget()
        return deleted

    def leases(self, ttl: float = TTL_S) -> Leases:
        """Leases of keys, for a `with` block: the right to train, which nobody else has meanwhile. See `Leases`."""
        return Leases(self._database, ttl)

    def __len__(self) -> int:
        """The number of distinct keys."""
        query = sql.select(sql.func.count(sql.distinct(schema.runs.c.key)))
        return self._database.read(lambda connection: connection.execute(query).scalar_one())

    def close(self) -> None:
        """Closes the store; the next use opens it again. A store in memory is gone."""
        self._database.close()
        self._recent.forget()
        self._recent_aliases.forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"_database": self._database}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._database = copy(state["_database"])  # opened by itself
        self._recent, self._recent_aliases = _Recent(_RECENT), _Recent(_RECENT)

    def __repr__(self) -> str:
        return f"ResultStore({self._database.shown!r})"

    def _held(self, connection: sql.Connection, row: dict[str, Any]) -> int | None:
        """The id of a record that says exactly the same."""
        rows = connection.execute(_runs_of_key, {"key": row["key"]}).mappings()
        return next((held["id"] for held in rows if _identity(held) == _identity(row)), None)

    def _checked_alias(self, row: sql.Row[Any]) -> tuple[str, str]:
        if not (isinstance(row.alias, str) and isinstance(row.key, str)) or (
            row.checksum is not None and row.checksum != _alias_checksum(row.alias, row.key)
        ):
            raise StoreError(f"the store {self.location} is damaged at the alias {row.alias!r}. {_REPAIR}")
        return row.alias, row.key

    def _check_order(self, values: list[Any]) -> None:
        """In a damaged file, rows may come in any order, and for ever."""
        try:
            ordered = all(one < other for one, other in pairwise(values))
        except TypeError:
            ordered = False
        if not ordered:
            raise StoreError(f"the store {self.location} is damaged: its rows are out of order. {_REPAIR}")

    def _checked(self, row: sql.Row[Any], key: str | None = None) -> _Training:
        """The training in a row of the table; the database may be damaged, or made by anybody."""
        try:
            if not isinstance(row.key, str) or (key is not None and row.key != key):
                raise ValueError(f"expected the key {key!r}, got {row.key!r}")
            training = _parse(row._mapping)
            if row.checksum is not None and row.checksum != _checksum(row._mapping):
                raise ValueError("its checksum is another")
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"the store {self.location} is damaged at record {row.id}: {error}. {_REPAIR}") from error
        return training


_M = TypeVar("_M", bound="_Means")


class _Means(Protocol):
    """What a record and a `_Training` have in common."""

    @property
    def epoch_means(self) -> tuple[float, ...]: ...
    @property
    def stopped_at(self) -> int | None: ...
    @property
    def first_epoch(self) -> int: ...


def answer_of(trainings: Iterable[_M], epochs: int, last_epoch_only: bool) -> tuple[tuple[float, ...], _M, int] | None:
    """What trainings of one key, the oldest first, say together; see `ResultStore.get`.

    Returns:
        The means, the training that the last of them comes from, and the epoch of the first; None if they don't tell.
    """
    means: dict[int, float] = {}
    last: _M | None = None  # the oldest that holds the last epoch
    for training in trainings:
        held = dict(enumerate(training.epoch_means, start=training.first_epoch))
        if training.stopped_at is not None:
            held |= dict.fromkeys(range(training.first_epoch + len(training.epoch_means), epochs), math.nan)
        means = held | means
        if last is None and epochs - 1 in held:
            last = training
        if last is not None and all(epoch in means for epoch in range(epochs)):
            return tuple(means[epoch] for epoch in range(epochs)), last, 0
    if last is None or not last_epoch_only:
        return None
    return (means[epochs - 1],), last, epochs - 1


class _Training(NamedTuple):
    """A record with its provenance as JSON, so that nobody changes what is kept."""

    epoch_means: tuple[float, ...]
    stopped_at: int | None
    provenance: str
    first_epoch: int


class _Recent:
    """The answers about the keys that were asked about last; any thread may use it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._start()

    def _start(self) -> None:
        self.changes = 0  # grows when something may be answered otherwise from now on
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, dict[Any, Any]] = OrderedDict()

    def get(self, key: str, question: Any) -> Any:
        """The answer, or None."""
        if self._process != os.getpid():  # a forked child can't know who held the lock
            self._start()
        with self._lock:
            answers = self._kept.get(key)
            if answers is None:
                return None
            self._kept.move_to_end(key)
            return answers.get(question)

    def keep(self, key: str, question: Any, answer: Any, changes: int) -> None:
        """Keeps an answer, unless something changed since `changes` was read, before the answer was."""
        with self._lock:
            if changes == self.changes:
                self._kept.setdefault(key, {})[question] = answer
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)

    def forget(self, key: str | None = None) -> None:
        """Forgets the answers about a key, or all."""
        if self._process != os.getpid():
            self._start()
        with self._lock:
            self.changes += 1
            if key is None:
                self._kept.clear()
            else:
                self._kept.pop(key, None)


def _row(key: str, record: Record) -> dict[str, Any]:
    """The record as a row of the table."""
    row = {
        "key": _check_text("key", key),
        "epoch_means": json.dumps([_encode_float(float(mean)) for mean in record.epoch_means]),
        "stopped_at": record.stopped_at,
        "provenance": json.dumps(dict(record.provenance), allow_nan=False),
        "first_epoch": record.first_epoch,
    }
    try:
        _parse(row)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"a store can't hold this record: {error}") from error
    return row | {"checksum": _checksum(row)}


def _parse(row: Mapping[Any, Any]) -> _Training:
    """The training in a row, which may be anything.

    Raises:
        ValueError: If it is none; or TypeError, or RecursionError.
    """
    means = tuple(_decode_float(mean) for mean in json.loads(row["epoch_means"]))
    provenance = json.loads(row["provenance"])
    seconds = provenance.get("seconds", 0.0) if isinstance(provenance, dict) else None
    if not means or not isinstance(seconds, (int, float)):
        raise ValueError("expected epoch means and a provenance")
    stopped_at, first_epoch = row["stopped_at"], row["first_epoch"]
    if stopped_at is not None and not (isinstance(stopped_at, int) and 1 <= stopped_at < 2**31):
        raise ValueError(f"expected a number of updates, got {stopped_at!r}")
    if not (isinstance(first_epoch, int) and 0 <= first_epoch < 2**31):
        raise ValueError(f"expected the number of an epoch, got {first_epoch!r}")
    return _Training(means, stopped_at, row["provenance"], first_epoch)


def _alias_row(alias: str, key: str) -> dict[str, Any]:
    row = {"alias": _check_text("alias", alias), "key": _check_text("key", key)}
    return row | {"checksum": _alias_checksum(alias, key)}


def _alias_checksum(alias: str, key: str) -> int:
    return zlib.crc32(f"{alias}\n{key}".encode())


def _checksum(row: Mapping[Any, Any]) -> int:
    """Of all that a row says."""
    fields = (row["key"], row["epoch_means"], row["stopped_at"], row["provenance"], row["first_epoch"])
    return zlib.crc32("\n".join(map(str, fields)).encode())


def _identity(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """What two rows that say exactly the same share."""
    try:
        provenance = json.dumps(json.loads(row["provenance"]), sort_keys=True)
    except (ValueError, TypeError, RecursionError):  # damaged
        provenance = row["provenance"]
    return row["key"], row["epoch_means"], row["stopped_at"], row["first_epoch"], provenance


def _losses_to_bytes(losses: ArrayLike) -> bytes:
    import numpy as np

    array = np.asarray(losses, dtype="<f8")
    if array.ndim != 1:
        raise ValueError(f"step_losses must be one loss a step, got an array of shape {array.shape}")
    return array.tobytes()


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
