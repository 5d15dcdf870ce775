"""Stores on a PostgreSQL server: passwords, lost connections, roles, order of records."""

import contextlib
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier

import pytest
import sqlalchemy as sql
from postgres import Server

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record, database, postgresql

SECRET = "hunter2"


@pytest.fixture
def url(postgres: Server) -> Iterator[str]:
    with postgres.database() as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[ResultStore]:
    with contextlib.closing(ResultStore(url)) as store:
        yield store


def execute(url: str, *statements: str) -> None:
    engine = sql.create_engine(sql.make_url(url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.mark.parametrize("place", [f"me:{SECRET}@localhost:1/db", f"localhost:1/db?password={SECRET}"])
def test_passwords_are_not_shown(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_RETRIES_S", ())
    store = ResultStore(f"postgresql://{place}")
    with pytest.raises(StoreError, match="Check that the server runs and can be reached") as caught:
        store.get("a", 1)
    for text in (str(caught.value), repr(store), store.location):
        assert "localhost:1/db" in text
        assert SECRET not in text
    for bad in (f"postgresql://me:{SECRET}@host", f"postgresql://me:{SECRET}@host:port/db"):
        with pytest.raises(ValueError, match="store must be") as refused:
            ResultStore(bad)
        assert SECRET not in str(refused.value)


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'nosbench_env\[postgres\]'"):
        ResultStore("postgresql://host/db").get("a", 1)


def test_other_tables_in_the_database_do_not_matter(url: str) -> None:
    execute(url, "CREATE TABLE runs (precious TEXT)", "CREATE TABLE schema (precious TEXT)")
    with contextlib.closing(ResultStore(url)) as store:
        store.add("a", Record((1.0,)))
        assert store.get("a", 1) == Record((1.0,))


def test_a_server_that_restarts_costs_no_result(postgres: Server, store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    with store.leases() as leases:
        leases.take(["b"])
        postgres.stop()
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "b", Record((2.0,)), leases=leases)
            time.sleep(0.3)
            postgres.start()
            adding.result(timeout=20)
    assert store.get("a", 1) == Record((1.0,))
    assert [(stored.key, stored.record) for stored in store.records()] == [("a", Record((1.0,))), ("b", Record((2.0,)))]


def test_a_connection_lost_at_the_commit_does_not_store_twice(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    engine, lost = store._database.engine(), []

    def lose(connection: sql.Connection, _: object, statement: str, *__: object) -> None:
        if statement == "COMMIT" and not lost:
            lost.append(True)
            connection.connection.dbapi_connection.close()
            connection.exec_driver_sql("SELECT 1")

    sql.event.listen(engine, "after_cursor_execute", lose)
    store.add("b", Record((2.0,)))
    assert lost
    assert [stored.key for stored in store.records()] == ["a", "b"]


def test_a_statement_that_waits_too_long_ends_with_advice(
    url: str, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("a", Record((1.0,)))
    store.close()
    monkeypatch.setattr(postgresql, "TIMEOUT_S", 1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.closing(ResultStore(url)) as other:
            other._database.write(lambda *_: (held.set(), done.wait(10)))

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(postgresql, "TIMEOUT_S", 30)
        holding = pool.submit(hold)
        held.wait(10)
        monkeypatch.setattr(postgresql, "TIMEOUT_S", 1)
        assert store.get("a", 1) is not None  # readers need not wait
        with pytest.raises(StoreError, match="took more than 1 seconds; results stored before are safe"):
            store.add("b", Record((1.0,)))
        done.set()
        holding.result()
    store.add("b", Record((1.0,)))


def test_a_role_that_may_only_read_reads(url: str, store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    role = f"reader_of_{sql.make_url(url).database}"
    execute(
        url,
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA nosbench TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA nosbench TO {role}",
    )
    with contextlib.closing(ResultStore(url.replace("test@", f"{role}@"))) as reader:
        assert reader.read_only
        assert reader.get("a", 1) == Record((1.0,))
        with pytest.raises(StoreError, match="is read-only: write permission is missing"):
            reader.add("b", Record((1.0,)))


def test_read_only_makes_nothing(url: str, store: ResultStore) -> None:
    with (
        contextlib.closing(ResultStore(url, read_only=True)) as reader,
        pytest.raises(StoreError, match="for reading: it does not exist yet"),
    ):
        reader.get("a", 1)
    store.add("a", Record((1.0,)))
    with contextlib.closing(ResultStore(url, read_only=True)) as reader:
        assert reader.get("a", 1) == Record((1.0,))
        with pytest.raises(StoreError, match="opened with read_only"):
            reader.add("a", Record((1.0,)))


def test_records_get_visible_in_the_order_of_their_ids(url: str, store: ResultStore) -> None:
    """A reader of a record must not see an older one of the key later."""
    first = threading.Event()

    def slow(connection: sql.Connection, _: bool) -> None:
        connection.exec_driver_sql("INSERT INTO runs (key, epoch_means, provenance) VALUES ('a', '[1.0]', '{}')")
        first.set()
        time.sleep(0.5)

    with contextlib.closing(ResultStore(url)) as other, ThreadPoolExecutor(1) as pool:
        done = pool.submit(other._database.write, slow)
        first.wait(10)
        store.add("a", Record((2.0,)))
        assert store.get("a", 1) == Record((1.0,))
        done.result()


def open_after(url: str, barrier: Barrier) -> None:
    barrier.wait()
    with contextlib.closing(ResultStore(url)) as store:
        store.get("a", 1)


def test_processes_that_open_a_new_store_at_once_make_it_once(url: str) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    workers = [context.Process(target=open_after, args=(url, barrier)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0] * 8
