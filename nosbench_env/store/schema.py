"""The tables of a store and their version."""

from __future__ import annotations

import sqlalchemy as sql

SCHEMA_VERSION = 4
APPLICATION_ID = 0x4E4F5342  # "NOSB" in the header of a SQLite file, which distinguishes a store from other databases


class StoreError(RuntimeError):
    """An error in opening, reading or writing a store.

    The contents of the store are unchanged; the message names the remedy.
    """


_metadata = sql.MetaData()
# Sorted by code points, as in SQLite: the sort order of a language differs between servers.
_Name = sql.Text(collation="C").with_variant(sql.Text(), "sqlite")
_Id = sql.BigInteger().with_variant(sql.Integer(), "sqlite")  # SQLite assigns numbers to INTEGER keys only

schema = sql.Table(
    "schema", _metadata, sql.Column("id", sql.Integer, primary_key=True), sql.Column("version", sql.Integer)
)
# One row per training, never changed. The oldest row that holds an epoch answers for it.
records = sql.Table(
    "runs",  # the name in existing stores
    _metadata,
    sql.Column("id", _Id, primary_key=True, autoincrement=True),
    sql.Column("key", _Name, nullable=False, index=True),
    sql.Column("epoch_means", sql.Text, nullable=False),  # JSON; exact (repr) floats, non-finite ones as strings
    sql.Column("stopped_at", sql.Integer),
    sql.Column("provenance", sql.Text, nullable=False),  # JSON
    sql.Column("first_epoch", sql.Integer, nullable=False, server_default="0"),
    sql.Column("checksum", sql.BigInteger),  # of the columns above but id; NULL in the oldest rows
    sqlite_autoincrement=True,
)
# Further names of a key, such as the digest of a program's canonical text. The first key of an alias stays.
aliases = sql.Table(
    "aliases",
    _metadata,
    sql.Column("alias", _Name, primary_key=True),
    sql.Column("key", _Name, nullable=False),
    sql.Column("checksum", sql.BigInteger),  # of both columns; NULL in the oldest rows
)
# The trainings in progress. These rows come and go.
leases = sql.Table(
    "leases",
    _metadata,
    sql.Column("key", _Name, primary_key=True),
    sql.Column("owner", sql.Text, nullable=False, index=True),
    sql.Column("expires_at", sql.Double, nullable=False),  # seconds since 1970
)


def create(connection: sql.Connection) -> None:
    """Creates the tables."""
    _metadata.create_all(connection, checkfirst=False)
    connection.execute(sql.insert(schema).values(id=1, version=SCHEMA_VERSION))


def check_version(connection: sql.Connection, where: str) -> None:
    """Raises a StoreError for tables of another version."""
    stated = connection.execute(sql.select(schema.c.version)).scalars().all()
    if stated == [SCHEMA_VERSION]:
        return
    if len(stated) != 1 or not isinstance(stated[0], int) or stated[0] < 1:
        raise StoreError(
            f"the store {where} is damaged: it does not state its version. Move it away to start a new store, or name "
            "another with --store or NOSBENCH_STORE."
        )
    remedy = (
        "Upgrade nosbench_env,"
        if stated[0] > SCHEMA_VERSION
        else "It was made by a development version of nosbench_env; move it away to start a new store,"
    )
    raise StoreError(
        f"the store {where} has version {stated[0]} of the tables, but this nosbench_env needs version "
        f"{SCHEMA_VERSION}. {remedy} or name another store with --store or NOSBENCH_STORE."
    )
