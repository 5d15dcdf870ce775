"""The tables of a store, and the steps that bring those of an older version up to date."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sql

SCHEMA_VERSION = 4
APPLICATION_ID = 0x4E4F5342  # "NOSB" in the header of the SQLite file: tells a store from anybody else's database


class StoreError(RuntimeError):
    """The store can't be opened, read or written. What it holds is untouched; the message says what to do."""


_metadata = sql.MetaData()
# By code points, as SQLite does it: the order of a language's words differs between servers.
_Name = sql.Text(collation="C").with_variant(sql.Text(), "sqlite")
_Id = sql.BigInteger().with_variant(sql.Integer(), "sqlite")  # SQLite numbers nothing but INTEGER keys

schema = sql.Table(
    "schema", _metadata, sql.Column("id", sql.Integer, primary_key=True), sql.Column("version", sql.Integer)
)
# One row a training, never changed. The oldest row that holds an epoch answers for it. What newer versions added stands
# last, where ALTER TABLE adds it.
runs = sql.Table(
    "runs",
    _metadata,
    sql.Column("id", _Id, primary_key=True, autoincrement=True),
    sql.Column("key", _Name, nullable=False, index=True),
    sql.Column("epoch_means", sql.Text, nullable=False),  # JSON; exact (repr) floats, non-finite ones as strings
    sql.Column("stopped_at", sql.Integer),
    sql.Column("provenance", sql.Text, nullable=False),  # JSON
    sql.Column("first_epoch", sql.Integer, nullable=False, server_default="0"),
    sql.Column("checksum", sql.BigInteger),  # of all that stands before; NULL in rows from before version 3
    sqlite_autoincrement=True,
)
# Further names of a key, such as the digest of a program's canonical text. The first key that an alias gets stays.
aliases = sql.Table(
    "aliases",
    _metadata,
    sql.Column("alias", _Name, primary_key=True),
    sql.Column("key", _Name, nullable=False),
    sql.Column("checksum", sql.BigInteger),  # of both; NULL in rows from before version 4
)
# Who trains what at the moment. No results: rows come and go.
leases = sql.Table(
    "leases",
    _metadata,
    sql.Column("key", _Name, primary_key=True),
    sql.Column("owner", sql.Text, nullable=False, index=True),
    sql.Column("expires_at", sql.Double, nullable=False),  # seconds since 1970
)
step_losses = sql.Table(
    "step_losses",
    _metadata,
    sql.Column("run_id", _Id, primary_key=True, autoincrement=False),
    sql.Column("losses", sql.LargeBinary, nullable=False),  # float64, little-endian
)


def create(connection: sql.Connection) -> None:
    """Makes the tables of the current version."""
    _metadata.create_all(connection, checkfirst=False)
    connection.execute(sql.insert(schema).values(id=1, version=SCHEMA_VERSION))


def migrate(connection: sql.Connection, version: int) -> None:
    """Brings the tables from an older version to the current one; the caller's transaction makes it all or nothing."""
    for step in range(version, SCHEMA_VERSION):
        _MIGRATIONS[step](connection)
    connection.execute(sql.update(schema).values(version=SCHEMA_VERSION))


def read_version(connection: sql.Connection, where: str) -> int:
    """The version of the tables; refuses what this code doesn't know.

    Raises:
        StoreError: If the version is newer than this code, or is no version.
    """
    found = connection.execute(sql.select(schema.c.version)).scalars().all()
    if len(found) != 1 or not isinstance(found[0], int) or found[0] < 1:
        raise StoreError(
            f"the store {where} is damaged: it does not say its version. Move it away to start a new store, or name "
            "another with --store or NOSBENCH_STORE."
        )
    if found[0] > SCHEMA_VERSION:
        raise StoreError(
            f"the store {where} has version {found[0]}, this nosbench_env reads up to {SCHEMA_VERSION}: "
            "upgrade nosbench_env, or name another store with --store or NOSBENCH_STORE"
        )
    return found[0]


def _to_version_2(connection: sql.Connection) -> None:
    """Records may begin at a later epoch than the first."""
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN first_epoch INTEGER DEFAULT '0' NOT NULL")


def _to_version_3(connection: sql.Connection) -> None:
    """Checksums of records, aliases, leases, step losses."""
    connection.exec_driver_sql("ALTER TABLE runs ADD COLUMN checksum BIGINT")
    connection.exec_driver_sql("CREATE TABLE aliases (alias TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (alias))")
    _metadata.create_all(connection, tables=[leases, step_losses], checkfirst=False)


def _to_version_4(connection: sql.Connection) -> None:
    """Checksums of aliases."""
    connection.exec_driver_sql("ALTER TABLE aliases ADD COLUMN checksum BIGINT")


# From which version each step leads to the next. Only SQLite has had the first two.
_MIGRATIONS: dict[int, Callable[[sql.Connection], None]] = {1: _to_version_2, 2: _to_version_3, 3: _to_version_4}
