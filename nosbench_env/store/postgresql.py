"""A store on a PostgreSQL server, in tables under the schema "nosbench": how it is opened, and what its errors mean."""

from __future__ import annotations

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, OperationalError

from nosbench_env.store import schema
from nosbench_env.store.schema import APPLICATION_ID, SCHEMA_VERSION, StoreError

SCHEMA = "nosbench"
TIMEOUT_S = 60  # for a statement, locks included
ELSEWHERE = "Name another store with --store or NOSBENCH_STORE."
_MAKING, _WRITING = 1, 2  # what processes do one at a time
# Records get visible in the order of their ids: an answer given from one is not overruled by an older one later.
BEGIN = f"BEGIN; SELECT pg_advisory_xact_lock({APPLICATION_ID}, {_WRITING})"


def open_server(url: sql.URL, read_only: bool) -> tuple[sql.Engine, bool]:
    """Connects to the server, and makes the tables if there are none.

    Returns:
        The engine, and whether nothing can be written: as asked, or for lack of the right to.

    Raises:
        StoreError: If the driver is not installed, or the tables can't be made or are of a newer version.
    """
    where = shown(url)
    settings = {
        "search_path": SCHEMA,
        "statement_timeout": f"{TIMEOUT_S}s",
        "idle_in_transaction_session_timeout": f"{TIMEOUT_S}s",  # a writer that was stopped must not stop all others
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
        return engine, _check_or_prepare(engine, where, read_only)
    except BaseException:
        engine.dispose()
        raise


def shown(url: sql.URL) -> str:
    """The URL without secrets."""
    query = {name: "***" if "password" in name else value for name, value in url.query.items()}
    return str(url.set(drivername="postgresql", query=query))


def is_gone(error: Exception) -> bool:
    """Whether the connection is lost, so that a new one may help."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or (
        isinstance(error, OperationalError) and (state is None or state[:4] == "57P0" or state[:2] == "08")
    )


def advice(error: Exception) -> str:
    """What to do about an error of the server's."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if state in ("57014", "55P03", "25P03"):
        return (
            f"The server took more than {TIMEOUT_S} seconds; results stored before are safe. Another program may hold "
            "a lock (see pg_stat_activity): run the same command again when that is done."
        )
    if state in ("42501", "25006"):
        return (
            "The role lacks a right. To use an existing store, it needs USAGE on the schema nosbench and SELECT, "
            "INSERT, UPDATE, DELETE on its tables and sequences; to make one, CREATE on the database."
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


def _check_or_prepare(engine: sql.Engine, where: str, read_only: bool) -> bool:
    """Makes the tables if there are none; returns whether nothing can be written."""
    with engine.connect() as connection:
        made = _exists(connection)
        if read_only and not made:
            raise StoreError(f"can't open the store {where} for reading: there is none yet. {ELSEWHERE}")
        # A standby, or a role that may only read.
        forbidden = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar_one() or (
            made
            and not connection.exec_driver_sql(
                f"SELECT has_table_privilege('{SCHEMA}.runs', 'INSERT') AND "
                f"has_table_privilege('{SCHEMA}.leases', 'INSERT')"
            ).scalar_one()
        )
        if made and schema.read_version(connection, where) == SCHEMA_VERSION:
            return bool(read_only or forbidden)
        if read_only or forbidden:
            raise StoreError(
                f"the store {where} must be made or brought up to version {SCHEMA_VERSION}, and can only be read here: "
                "open it once as a role that may write."
            )
        _prepare(connection, where)
    return False


def _exists(connection: sql.Connection) -> bool:
    # Not by to_regclass(), which may remember what was before the lock.
    query = "SELECT 1 FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid WHERE relname = 'schema'"
    return bool(connection.exec_driver_sql(f"{query} AND nspname = '{SCHEMA}'").all())


def _prepare(connection: sql.Connection, where: str) -> None:
    """Makes the tables, or brings older ones up to date: one process at a time, all or nothing."""
    connection.exec_driver_sql("BEGIN")
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPLICATION_ID}, {_MAKING})")
    if not _exists(connection):
        if not connection.exec_driver_sql(f"SELECT 1 FROM pg_namespace WHERE nspname = '{SCHEMA}'").all():
            connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")  # asks for the right to, even if it exists
        schema.create(connection)
    elif (version := schema.read_version(connection, where)) < SCHEMA_VERSION:
        schema.migrate(connection, version)
    connection.exec_driver_sql("COMMIT")
