"""Stores on a PostgreSQL server: opening, and remedies for errors."""

from __future__ import annotations

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, OperationalError

from nosbench_env.store import schema
from nosbench_env.store.schema import APPLICATION_ID, StoreError

SCHEMA = "nosbench"  # holds the tables
TIMEOUT_S = 60  # of a statement, locks included
ELSEWHERE = "Name another store with --store or NOSBENCH_STORE."
_CREATING, _WRITING = 1, 2  # locks, each held by one process at a time
# One writer at a time, so that records become visible in the order of their ids. Otherwise an older record could appear
# after an answer was given from a newer one.
BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({APPLICATION_ID}, {_WRITING})"


def open_server(url: sql.URL, read_only: bool) -> tuple[sql.Engine, bool]:
    """Connects to the server; creates the tables if necessary.

    Returns:
        The engine, and True if it is read-only: as asked, or because the right to write is missing.

    Raises:
        StoreError: If the driver is not installed, or the tables can't be created or have another version.
    """
    where = shown(url)
    settings = {
        "search_path": SCHEMA,
        "statement_timeout": f"{TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{TIMEOUT_S}s",  # a suspended writer must not block all others
        "default_transaction_read_only": "on" if read_only else None,
    }
    own = [f"-c {name}={value}" for name, value in settings.items() if value is not None]
    asked = url.query.get("options", ())
    options = " ".join([*own, *((asked,) if isinstance(asked, str) else asked)])
    try:
        engine = sql.create_engine(
            url.set(drivername="postgresql+psycopg").difference_update_query(["options"]),
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "options": options},
            pool_timeout=TIMEOUT_S,
            hide_parameters=True,
        )
    except ImportError as error:
        raise StoreError(
            f"the store {where} needs a driver that is not installed: pip install 'nosbench_env[postgres]'"
        ) from error
    try:
        return engine, _prepare(engine, where, read_only)
    except BaseException:
        engine.dispose()
        raise


def shown(url: sql.URL) -> str:
    """Returns a URL without secrets."""
    query = {name: "***" if "password" in name else value for name, value in url.query.items()}
    return str(url.set(drivername="postgresql", query=query))


def is_gone(error: Exception) -> bool:
    """Returns True for a lost connection, where a new one may help."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (
        isinstance(error, OperationalError) and (state is None or state[:4] == "57P0" or state[:2] == "08")
    )


def advice(error: Exception) -> str:
    """Returns the remedy for an error of the server."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if state in ("57014", "55P03", "25P03"):
        return (
            f"The server took more than {TIMEOUT_S} seconds; results stored before are safe. Another program may hold "
            "a lock (see pg_stat_activity): run the same command again when that program is done."
        )
    if state in ("42501", "25006"):
        return (
            "The role lacks a right. To use an existing store, it needs USAGE on the schema nosbench and SELECT, "
            "INSERT, UPDATE, DELETE on its tables and sequences; to create one, CREATE on the database."
        )
    if state in ("53100", "53200"):
        return "The server's disk or memory is full; results stored before are safe. Run the same command again later."
    if state in ("42P01", "42703"):
        return f"Its tables are damaged: restore them from a backup, or drop the schema nosbench. {ELSEWHERE}"
    if is_gone(error):
        return (
            "Check that the server runs and can be reached, and the URL's host, port, user and password; results "
            "stored before are safe. Then run the same command again."
        )
    return ELSEWHERE


def _prepare(engine: sql.Engine, where: str, read_only: bool) -> bool:
    """Creates or checks the tables; returns True if they are read-only."""
    with engine.connect() as connection:
        standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one()
        if not _exists(connection):
            if read_only or standby:
                raise StoreError(f"can't open the store {where} for reading: it does not exist yet. {ELSEWHERE}")
            _create(connection)
        schema.check_version(connection, where)
        rights = " AND ".join(f"has_table_privilege('{SCHEMA}.{table}', 'INSERT')" for table in ("runs", "leases"))
        may_write = connection.exec_driver_sql(f"SELECT {rights}").scalar_one()
    return read_only or standby or not may_write


def _exists(connection: sql.Connection) -> bool:
    # Not by to_regclass(), which may return an answer from before the lock.
    query = "SELECT 1 FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid WHERE relname = 'schema'"
    return bool(connection.exec_driver_sql(f"{query} AND nspname = '{SCHEMA}'").all())


def _create(connection: sql.Connection) -> None:
    """Creates the tables in one transaction, one process at a time."""
    connection.exec_driver_sql("BEGIN")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPLICATION_ID}, {_CREATING})")
    if not _exists(connection):
        if not connection.exec_driver_sql(f"SELECT 1 FROM pg_namespace WHERE nspname = '{SCHEMA}'").all():
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")  # requires the right to, even if the schema exists
        schema.create(connection)
    connection.exec_driver_sql("COMMIT")
