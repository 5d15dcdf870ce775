"""`Leases`: exclusive rights to train programs."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

import sqlalchemy as sql

from nosbench_env.store import schema
from nosbench_env.store.database import Database
from nosbench_env.store.schema import StoreError

TTL_S = 60.0
_LONGEST_S = 3600.0  # a lease that ends later than this was written by a wrong clock and does not count
_PAGE = 1000  # keys per query


class _Thread(threading.local):
    """The leases of a thread, from the outermost to the innermost."""

    def __init__(self) -> None:
        self.held: list[Leases] = []


_this_thread = _Thread()


class Leases:
    """Exclusive leases of keys, held for a `with` block.

    A thread renews them four times per `ttl`, so they last while this process runs and reaches the store. If the
    process dies, others can take them `ttl` seconds later. PostgreSQL uses the server's clock, SQLite the machine's.

    Args:
        database: The store's database.
        ttl: The time until an unrenewed lease ends, in seconds, at most an hour.

    >>> from nosbench_env import ResultStore
    >>> store = ResultStore("sqlite://")
    >>> with store.leases() as mine, store.leases() as others:
    ...     mine.take(["a", "b"]) == {"a", "b"}
    True
    """

    def __init__(self, database: Database, ttl: float = TTL_S) -> None:
        if not 0 < ttl <= _LONGEST_S:
            raise ValueError(f"ttl must be above 0 and at most {_LONGEST_S:.0f} seconds, got {ttl!r}")
        self.ttl = ttl
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._database = database
        self._process = os.getpid()
        self._held: set[str] = set()
        self._ended = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def busy(self, keys: Iterable[str]) -> set[str]:
        """Returns the keys that others hold, other than this thread."""
        now = self._database.clock()
        query = sql.text(
            f"SELECT key FROM leases WHERE key IN :keys AND owner <> :owner AND expires_at >= {now} "
            f"AND expires_at <= {now} + {_LONGEST_S}"
        ).bindparams(sql.bindparam("keys", expanding=True))
        asked, held = list(keys), set[str]()
        for start in range(0, len(asked), _PAGE):
            values = {"keys": asked[start : start + _PAGE], "owner": self.owner}
            held |= set(self._database.read(lambda connection: connection.execute(query, values).scalars().all()))  # noqa: B023
        return held - self._of_this_thread()

    def take(self, keys: Iterable[str]) -> set[str]:
        """Takes all leases that nobody else holds; returns their keys.

        Leases that this thread already holds by an enclosing block count as taken: waiting for them would never end.
        """
        asked = set(keys)
        outer = asked & self._of_this_thread()
        free = sorted(asked - outer - self.busy(asked))
        if not free:
            return outer

        def take(connection: sql.Connection, _: bool) -> set[str]:
            now = self._database.clock()
            statement = sql.text(
                f"INSERT INTO leases (key, owner, expires_at) VALUES (:key, :owner, {now} + :ttl) "
                "ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at "
                f"WHERE leases.expires_at < {now} OR leases.expires_at > {now} + {_LONGEST_S}"
            )
            connection.execute(statement, [{"key": key, "owner": self.owner, "ttl": self.ttl} for key in free])
            own = sql.select(schema.leases.c.key).where(schema.leases.c.owner == self.owner)
            return set(connection.execute(own).scalars().all())

        self._beat()  # first, so that an interrupt leaves no lease without renewal and release
        self._held = self._database.write(take)
        return outer | (self._held & asked)

    def release(self, keys: Iterable[str]) -> None:
        """Releases leases, so that others can take them."""
        released = sorted(self._held & set(keys))
        if released:

            def release(connection: sql.Connection, _: bool) -> None:
                for key in released:
                    self.release_in(connection, key)

            self._database.write(release)

    def release_in(self, connection: sql.Connection, key: str) -> None:
        """Releases a lease within the caller's transaction."""
        statement = sql.text("DELETE FROM leases WHERE key = :key AND owner = :owner")
        connection.execute(statement, {"key": key, "owner": self.owner})
        self._held.discard(key)

    def __enter__(self) -> Leases:
        _this_thread.held.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self in _this_thread.held:
            _this_thread.held.remove(self)
        self._ended.set()
        if self._process != os.getpid() or self._heartbeat is None:  # a forked child leaves them to its parent
            return
        with suppress(StoreError):  # they end without this too
            self._database.write(
                lambda connection, _: connection.execute(
                    sql.text("DELETE FROM leases WHERE owner = :owner"), {"owner": self.owner}
                )
            )
        self._held = set()
        if self._heartbeat.is_alive():  # an interrupt may have kept it from starting
            self._heartbeat.join(timeout=1.0)

    def _of_this_thread(self) -> set[str]:
        """Returns the keys held by enclosing blocks for the same store."""
        return {
            key
            for leases in _this_thread.held
            if leases is not self and leases._database.url == self._database.url
            for key in leases._held
        }

    def _beat(self) -> None:
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._renew, name="nosbench leases", daemon=True)
            self._heartbeat.start()

    def _renew(self) -> None:
        while not self._ended.wait(self.ttl / 4):
            if not self._held:
                continue
            statement = sql.text(f"UPDATE leases SET expires_at = {self._database.clock()} + :ttl WHERE owner = :owner")
            with suppress(StoreError):  # the next beat may succeed
                self._database.write(
                    lambda connection, _: connection.execute(statement, {"ttl": self.ttl, "owner": self.owner})  # noqa: B023
                )
