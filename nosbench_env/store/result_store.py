"""`ResultStore`: records under string keys, shared by processes and machines."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from nosbench_env.store import schema
from nosbench_env.store.database import Database
from nosbench_env.store.leases import TTL_S, Leases
from nosbench_env.store.record import (
    Record,
    StoredRecord,
    alias_checksum,
    alias_row,
    answer_of,
    checksum,
    contents,
    record_of,
    row_of,
)
from nosbench_env.store.schema import StoreError

_PAGE = 1000  # rows read or written at a time
_REPAIR = "Move it away to start a new store, or name another with --store or NOSBENCH_STORE."
_RECENT = 10_000  # keys whose answers stay in memory

_records_of_key = (
    sql.select(schema.records).where(schema.records.c.key == sql.bindparam("key")).order_by(schema.records.c.id)
)
_key_of_alias = sql.select(schema.aliases).where(schema.aliases.c.alias == sql.bindparam("alias"))
_insert_record = sql.insert(schema.records).returning(schema.records.c.id)
_insert_alias = sql.text(
    "INSERT INTO aliases (alias, key, checksum) VALUES (:alias, :key, :checksum) ON CONFLICT DO NOTHING"
)


class ResultStore:
    """A database of training results, shared by any number of processes.

    A SQLite file serves the processes of one machine, a PostgreSQL server those of many. A result is never overwritten.

    Args:
        location: A file, or a URL: `sqlite:///file`, or `postgresql://user:password@host/database` (needs the extra
            `postgres`; creates its tables in the schema `nosbench`); `sqlite://` keeps everything in memory. None is
            the environment variable `NOSBENCH_STORE`, or else `results.sqlite` in the user's cache folder.
        read_only: True to write nothing, and to create nothing, no files beside a SQLite file either. A store without
            write permission is always opened so.

    The store is created or opened at its first use. Copies and pickles of a store open the same one; a pickle holds the
    URL's password. SQLite loses data on network file systems, so a file there is rejected unless it is read-only or the
    environment variable `NOSBENCH_ALLOW_NETWORK_STORE` is 1.

    Answers for the 10,000 latest keys are cached in memory. Answers never change, but a record deleted by another
    process may still be answered here until `close`.

    Raises:
        ValueError: If the location is not a file or a URL of SQLite or PostgreSQL.
        StoreError: If the store can't be used, at its first use: no permission, no store, damaged, of another version,
            no server.

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
        """The store's location as a URL; its `str` hides the password."""
        return self._database.url

    @property
    def path(self) -> Path | None:
        """The store's file; None in memory or on a server."""
        return self._database.path

    @property
    def location(self) -> str:
        """The store's file, or its URL without secrets, for messages."""
        return str(self.path or self._database.shown)

    @property
    def read_only(self) -> bool:
        """True if the store can't be written. Opens the store."""
        return self._database.read_only

    def get(self, key: str, epochs: int, last_epoch_only: bool = False) -> Record | None:
        """Returns the record of `epochs` epochs, or None if unknown.

        Each epoch's mean comes from the oldest training that holds it, so an answer never changes. A training whose
        parameters turned non-finite is NaN in all epochs after those it holds. `stopped_at` and `provenance` come from
        the training that holds the last epoch.

        Args:
            key: The key.
            epochs: Length of the training.
            last_epoch_only: True if the last epoch suffices; the record holds no other one if no other is known.

        Raises:
            StoreError: If the store can't be read, or a record is damaged.
        """
        self._database.engine()  # raises an error if the file was deleted or replaced
        question = epochs, last_epoch_only
        kept: tuple[Record, str] | None = self._recent.get(key, question)
        if kept is None:
            changes = self._recent.changes
            rows = self._database.read(lambda connection: connection.execute(_records_of_key, {"key": key}).all())
            record = answer_of([self._checked(row, key) for row in rows], epochs, last_epoch_only)
            if record is None:
                return None
            # The provenance is kept as text, so that no caller can change it.
            kept = replace(record, provenance={}), json.dumps(record.provenance)
            self._recent.keep(key, question, kept, changes)
        record, provenance = kept
        return replace(record, provenance=json.loads(provenance))

    def add(self, key: str, record: Record, aliases: Iterable[str] = (), leases: Leases | None = None) -> int:
        """Adds the record of a training.

        The record is on disk when this returns. The answers of earlier records of the key do not change; the new record
        is kept beside them.

        Args:
            key: The key.
            record: The record.
            aliases: Further names of the key, for `resolve`. An alias that has a key keeps it.
            leases: The holder of a lease of the key; the lease is released in the same transaction.

        Returns:
            The record's id.

        Raises:
            ValueError: If the key, the record or an alias can't be stored.
            StoreError: If the store can't be written.
        """
        row = row_of(key, record)
        names = [alias_row(alias, key) for alias in aliases]

        def insert(connection: sql.Connection, again: bool) -> int:
            number = self._held(connection, row) if again else None
            if number is None:
                number = connection.execute(_insert_record, row).scalar_one()
            if names:
                connection.execute(_insert_alias, names)
            if leases is not None:
                leases.release_in(connection, key)
            return int(number)

        number = self._database.write(insert)
        self._recent.forget(key)
        return number

    def add_many(self, items: Iterable[tuple[str, Record]]) -> int:
        """Adds the records that the store lacks; returns their number.

        The store holds a record if one under its key has the same means, `stopped_at`, `first_epoch` and provenance. A
        transaction has a thousand records. After an interruption the finished transactions are on disk, and the same
        call continues from there.

        Raises:
            ValueError: If a key or a record can't be stored.
            StoreError: If the store can't be written.
        """
        added, items = 0, iter(items)
        while page := list(islice(items, _PAGE)):
            rows = {contents(row): row for row in (row_of(key, record) for key, record in page)}
            keys = sorted({row["key"] for row in rows.values()})

            def insert(
                connection: sql.Connection, _: bool, rows: dict[Any, dict[str, Any]] = rows, keys: list[str] = keys
            ) -> int:
                held = connection.execute(sql.select(schema.records).where(schema.records.c.key.in_(keys))).mappings()
                known = {contents(row) for row in held}
                new = [row for content, row in rows.items() if content not in known]
                if new:
                    connection.execute(sql.insert(schema.records), new)
                return len(new)

            added += self._database.write(insert)
            for key in keys:
                self._recent.forget(key)
        return added

    def add_aliases(self, aliases: Mapping[str, str]) -> None:
        """Adds names of keys; an alias that has a key keeps it."""
        rows = [alias_row(alias, key) for alias, key in aliases.items()]
        for start in range(0, len(rows), _PAGE):
            page = rows[start : start + _PAGE]
            self._database.write(lambda connection, _: connection.execute(_insert_alias, page))  # noqa: B023

    def resolve(self, alias: str) -> str | None:
        """Returns the key of an alias, or None."""
        self._database.engine()
        key: str | None = self._recent_aliases.get(alias, None)
        if key is None:
            changes = self._recent_aliases.changes
            rows = self._database.read(lambda c: c.execute(_key_of_alias, {"alias": alias}).all())
            if len(rows) > 1 or any(row.alias != alias for row in rows):
                raise StoreError(f"the store {self.location} is damaged at the alias {alias!r}. {_REPAIR}")
            key = self._checked_alias(rows[0])[1] if rows else None
            if key is not None:
                self._recent_aliases.keep(alias, None, key, changes)
        return key

    def aliases(self) -> Iterator[tuple[str, str]]:
        """Yields all aliases with their keys, sorted."""
        names, after = schema.aliases, ""
        while True:
            query = sql.select(names).where(names.c.alias > after).order_by(names.c.alias).limit(_PAGE)
            page = self._database.read(lambda connection: connection.execute(query).all())  # noqa: B023
            if not page:
                return
            self._check_order([after, *(row.alias for row in page)])
            yield from map(self._checked_alias, page)
            after = page[-1].alias

    def records(self, prefix: str = "", after: int = 0) -> Iterator[StoredRecord]:
        """Yields all records in order of their ids.

        A thousand are read at a time; others may write meanwhile.

        Args:
            prefix: The start of the keys of the records.
            after: The id after which the records begin.

        Raises:
            StoreError: If the store can't be read, or at a damaged record.
        """
        query = sql.select(schema.records).where(schema.records.c.id > sql.bindparam("after")).limit(_PAGE)
        query = query.order_by(schema.records.c.id)
        if prefix:
            query = query.where(sql.func.substr(schema.records.c.key, 1, len(prefix)) == prefix)
        while True:
            values = {"after": after}
            page = self._database.read(lambda connection: connection.execute(query, values).all())  # noqa: B023
            if not page:
                return
            self._check_order([after, *(row.id for row in page)])
            for row in page:
                yield StoredRecord(row.id, row.key, self._checked(row))
            after = page[-1].id

    def delete(self, ids: Iterable[int]) -> int:
        """Deletes records, but no aliases; returns the number deleted."""
        deleted, ids = 0, iter(ids)
        while page := list(islice(ids, _PAGE)):

            def delete(connection: sql.Connection, _: bool, page: list[int] = page) -> int:
                return connection.execute(sql.delete(schema.records).where(schema.records.c.id.in_(page))).rowcount

            deleted += self._database.write(delete)
            self._recent.forget()
        return deleted

    def leases(self, ttl: float = TTL_S) -> Leases:
        """Returns leases of keys, to be used in a `with` block."""
        return Leases(self._database, ttl)

    def __len__(self) -> int:
        """Returns the number of distinct keys."""
        query = sql.select(sql.func.count(sql.distinct(schema.records.c.key)))
        return self._database.read(lambda connection: connection.execute(query).scalar_one())

    def close(self) -> None:
        """Closes the store until its next use; one in memory is lost."""
        self._database.close()
        self._recent.forget()
        self._recent_aliases.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        location = self.path or self.url.render_as_string(hide_password=False)
        return ResultStore, (location, self._database.asked_read_only)

    def __repr__(self) -> str:
        return f"ResultStore({self._database.shown!r})"

    def _held(self, connection: sql.Connection, row: dict[str, Any]) -> int | None:
        """Returns the id of an exactly equal record."""
        rows = connection.execute(_records_of_key, {"key": row["key"]}).mappings()
        return next((held["id"] for held in rows if contents(held) == contents(row)), None)

    def _checked_alias(self, row: sql.Row[Any]) -> tuple[str, str]:
        if not (isinstance(row.alias, str) and isinstance(row.key, str)) or (
            row.checksum is not None and row.checksum != alias_checksum(row.alias, row.key)
        ):
            raise StoreError(f"the store {self.location} is damaged at the alias {row.alias!r}. {_REPAIR}")
        return row.alias, row.key

    def _check_order(self, values: list[Any]) -> None:
        """Raises a StoreError unless the values increase.

        A damaged file may yield rows in any order, endlessly.
        """
        try:
            ordered = all(one < other for one, other in pairwise(values))
        except TypeError:
            ordered = False
        if not ordered:
            raise StoreError(f"the store {self.location} is damaged: its rows are out of order. {_REPAIR}")

    def _checked(self, row: sql.Row[Any], key: str | None = None) -> Record:
        """Parses and checks a row, which may be damaged or malicious."""
        try:
            if not isinstance(row.key, str) or (key is not None and row.key != key):
                raise ValueError(f"expected the key {key!r}, got {row.key!r}")
            record = record_of(row._mapping)
            if row.checksum is not None and row.checksum != checksum(row._mapping):
                raise ValueError("its checksum is wrong")
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"the store {self.location} is damaged at record {row.id}: {error}. {_REPAIR}") from error
        return record


class _Recent:
    """A thread-safe cache of the answers for the latest keys."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._start()

    def _start(self) -> None:
        self.changes = 0  # grows with every change that outdates an answer
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, dict[Any, Any]] = OrderedDict()

    def get(self, key: str, question: Any) -> Any:
        """Returns the answer, or None."""
        if self._process != os.getpid():  # a forked child can't know who held the lock
            self._start()
        with self._lock:
            answers = self._kept.get(key)
            if answers is None:
                return None
            self._kept.move_to_end(key)
            return answers.get(question)

    def keep(self, key: str, question: Any, answer: Any, changes: int) -> None:
        """Keeps an answer that is still valid.

        It is not if `self.changes` differs from `changes`, its value before the answer was read.
        """
        with self._lock:
            if changes == self.changes:
                self._kept.setdefault(key, {})[question] = answer
                if len(self._kept) > self._size:
                    self._kept.popitem(last=False)

    def forget(self, key: str | None = None) -> None:
        """Forgets the answers of a key, or all."""
        if self._process != os.getpid():
            self._start()
        with self._lock:
            self.changes += 1
            if key is None:
                self._kept.clear()
            else:
                self._kept.pop(key, None)
