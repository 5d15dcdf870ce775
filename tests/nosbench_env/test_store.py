import math
import multiprocessing
import os
import pickle
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sql
from hypothesis import given
from hypothesis import strategies as st
from workers import read_after, write_many

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record

NAN = math.nan


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "folder" / "results.sqlite")


def test_a_record_comes_back_and_answers_for_fewer_epochs(store: ResultStore) -> None:
    store.add("a", Record((3.0, 2.0, 1.0), None, {"device": "cpu"}))
    assert store.get("a", 3) == Record((3.0, 2.0, 1.0), None, {"device": "cpu"})
    assert store.get("a", 1).epoch_means == (3.0,)
    assert store.get("a", 4) is None
    assert store.get("b", 1) is None
    assert len(store) == 1


def test_the_first_value_of_an_epoch_stays(store: ResultStore) -> None:
    store.add("a", Record((3.0, 2.0), None, {"run": 1}))
    store.add("a", Record((3.5, 2.5, 1.5), None, {"run": 2}))
    store.add("a", Record((9.0, 9.0, 9.0, 9.0), None, {"run": 3}))
    assert store.get("a", 2) == Record((3.0, 2.0), None, {"run": 1})
    assert store.get("a", 3) == Record((3.0, 2.0, 1.5), None, {"run": 2})
    assert store.get("a", 4) == Record((3.0, 2.0, 1.5, 9.0), None, {"run": 3})
    with sqlite3.connect(store.path) as connection:  # nothing is overwritten
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (3,)


def test_a_stopped_training_answers_for_any_length(store: ResultStore) -> None:
    store.add("a", Record((3.0, NAN), stopped_at=15))
    assert store.get("a", 1).epoch_means == (3.0,)
    assert [str(mean) for mean in store.get("a", 4).epoch_means] == ["3.0", "nan", "nan", "nan"]
    store.add("b", Record((3.0, 2.0), stopped_at=20))  # stopped by its very last update
    assert store.get("b", 2).epoch_means == (3.0, 2.0)
    assert math.isnan(store.get("b", 3).epoch_means[-1])


def test_a_record_of_the_last_epoch_answers_only_for_it(store: ResultStore) -> None:
    store.add("a", Record((1.0,), None, {"run": 1}, first_epoch=2))
    assert store.get("a", 3) is None
    assert store.get("a", 3, last_epoch_only=True) == Record((1.0,), None, {"run": 1}, first_epoch=2)
    for epochs in (1, 2, 4):
        assert store.get("a", epochs, last_epoch_only=True) is None


def test_epochs_of_several_records_make_a_whole_one_each_from_the_oldest(store: ResultStore) -> None:
    store.add("a", Record((1.0,), None, {"run": 1}, first_epoch=2))
    store.add("a", Record((3.0, 2.0), None, {"run": 2}))
    assert store.get("a", 2) == Record((3.0, 2.0), None, {"run": 2})
    for last_epoch_only in (False, True):  # all is known, so all is told
        assert store.get("a", 3, last_epoch_only) == Record((3.0, 2.0, 1.0), None, {"run": 1})
    store.add("a", Record((9.0, 9.0, 9.0, 9.0), None, {"run": 3}))
    assert store.get("a", 3) == Record((3.0, 2.0, 1.0), None, {"run": 1})
    assert store.get("a", 4) == Record((3.0, 2.0, 1.0, 9.0), None, {"run": 3})


def test_a_stopped_record_of_the_last_epoch_is_nan_later_and_unknown_before(store: ResultStore) -> None:
    store.add("a", Record((NAN,), stopped_at=26, first_epoch=4))
    assert store.get("a", 4, last_epoch_only=True) is None
    for epochs in (5, 6, 20):
        found = store.get("a", epochs, last_epoch_only=True)
        assert (str(found.epoch_means), found.stopped_at, found.first_epoch) == ("(nan,)", 26, epochs - 1)
        assert store.get("a", epochs) is None


EPOCHS = 5


@st.composite
def trainings(draw: st.DrawFn) -> Record:
    """What trainings that disagree about everything may have left."""
    first_epoch, length = draw(st.integers(0, EPOCHS - 1)), draw(st.integers(1, EPOCHS))
    means = tuple(draw(st.floats(0, 1)) for _ in range(length))
    return Record(means, draw(st.sampled_from([None, 7])), {"run": draw(st.integers())}, first_epoch)


@given(st.lists(trainings(), min_size=1, max_size=6))
def test_an_answer_once_given_stays(records: list[Record]) -> None:
    store = ResultStore("sqlite://")
    losses: dict[int, str] = {}
    curves: dict[int, str] = {}
    for record in records:
        store.add("a", record)
        for epochs in range(1, EPOCHS + 2):
            last, whole = store.get("a", epochs, last_epoch_only=True), store.get("a", epochs)
            if last is not None:
                assert losses.setdefault(epochs, repr(last.epoch_means[-1])) == repr(last.epoch_means[-1])
                assert last.first_epoch in (0, epochs - 1)
                assert len(last.epoch_means) == epochs - last.first_epoch
            if whole is not None:
                assert repr(whole) == repr(last)
                assert curves.setdefault(epochs, repr(whole)) == repr(whole)
            assert (epochs in losses, epochs in curves) == (last is not None, whole is not None)
    store.close()


@given(st.lists(st.floats(), min_size=1, max_size=30))
def test_floats_are_exact(means: list[float]) -> None:
    store = ResultStore("sqlite://")
    store.add("a", Record(tuple(means)))
    found = store.get("a", len(means)).epoch_means
    assert [repr(mean) for mean in found] == [repr(mean) for mean in means]
    store.close()


def test_location_is_the_argument_or_the_variable_or_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOSBENCH_STORE", str(tmp_path / "variable.sqlite"))
    assert ResultStore().path == tmp_path / "variable.sqlite"
    assert ResultStore(f"sqlite:///{tmp_path}/url.sqlite").path == tmp_path / "url.sqlite"
    assert ResultStore(tmp_path / "path.sqlite").path == tmp_path / "path.sqlite"
    monkeypatch.delenv("NOSBENCH_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ResultStore().path.name == "results.sqlite"
    assert ResultStore("sqlite://").path is None


def test_relative_locations_are_bound_to_the_folder_of_their_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = [ResultStore("results.sqlite"), ResultStore("sqlite:///results.sqlite")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for number, store in enumerate(stores):
        store.add(str(number), Record((1.0,)))
        assert store.path == tmp_path / "results.sqlite"
    assert len(stores[0]) == 2


@pytest.mark.parametrize(
    "location",
    ["postgresql://host", "mysql://host", "sqlite:/:/x://", "sqlite+aiosqlite:///x", "sqlite:///x?mode=ro", "", 5],
)
def test_other_databases_are_refused(location: str) -> None:
    with pytest.raises(
        ValueError, match="store must be a file or a URL, sqlite:///file or postgresql://user@host/database, got"
    ):
        ResultStore(location)


def test_pickles_and_later_openings_see_the_same_file(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    copied = pickle.loads(pickle.dumps(store))
    copied.add("b", Record((2.0,)))
    store.close()
    assert store.get("b", 1).epoch_means == (2.0,)
    assert ResultStore(store.path).get("a", 1).epoch_means == (1.0,)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_eight_processes_share_a_new_store(tmp_path: Path, method: str) -> None:
    path, rounds = tmp_path / "shared.sqlite", 15
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(8)
    workers = [context.Process(target=write_many, args=(path, worker, rounds, barrier)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0] * 8
    store = ResultStore(path)
    assert len(store) == 8 * rounds + 1
    first = store.get("shared", 1)
    store.add("shared", Record((99.0,)))
    assert store.get("shared", 1) == first
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (8 * rounds * 2 + 1,)


def test_an_open_store_survives_a_fork(store: ResultStore) -> None:
    store.add("parent", Record((1.0,)))
    child = os.fork()
    if child == 0:
        try:
            store.add("child", Record((2.0,)))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get("child", 1).epoch_means == (2.0,)
    assert store.get("parent", 1).epoch_means == (1.0,)


def test_a_corrupt_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "corrupt.sqlite"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"damaged or no SQLite database\. Move the file away .* NOSBENCH_STORE"):
        ResultStore(path).get("a", 1)
    assert path.read_bytes() == before


def test_a_damaged_record_is_named(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE runs SET epoch_means = '[1.0, \"evil\"]'")
    with pytest.raises(StoreError, match="damaged at record 1: expected a number, got 'evil'"):
        store.get("a", 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("epoch_means", "[]"),
        ("epoch_means", "{}"),
        ("epoch_means", "[true]"),
        ("epoch_means", "[NaN]"),
        ("epoch_means", "[1]"),
        ("epoch_means", "[" * 100_000),
        ("stopped_at", "abc"),
        ("stopped_at", "-5"),
        ("stopped_at", "1.5"),
        ("first_epoch", "abc"),
        ("first_epoch", "-1"),
        ("first_epoch", "0.5"),
        ("provenance", "[]"),
        ("provenance", '{"seconds": "x"}'),
        ("provenance", "garbage"),
    ],
)
def test_hostile_records_are_refused(store: ResultStore, column: str, value: str) -> None:
    store.add("a", Record((1.0,)))
    with sqlite3.connect(store.path) as connection:
        connection.execute(f"UPDATE runs SET {column} = ?", (value,))
    with pytest.raises(StoreError, match="damaged at record 1"):
        store.get("a", 1)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_deleted_or_replaced_in_use_is_said_and_not_touched(
    store: ResultStore, tmp_path: Path, how: str
) -> None:
    store.add("a", Record((1.0,)))
    other = ResultStore(tmp_path / "other.sqlite")
    other.add("other", Record((5.0,)))
    other.close()
    before = other.path.read_bytes()
    if how == "deleted":
        store.path.unlink()
    else:
        other.path.replace(store.path)
    for _ in range(2):
        with pytest.raises(StoreError, match="was deleted or replaced while in use"):
            store.add("b", Record((2.0,)))
    assert not store.path.exists() if how == "deleted" else store.path.read_bytes() == before


@pytest.mark.parametrize("location", ["sqlite://", "file"])
def test_threads_that_open_a_store_at_once_share_it(tmp_path: Path, location: str) -> None:
    for repetition in range(5):
        store = ResultStore(tmp_path / f"{repetition}.sqlite" if location == "file" else location)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.add(str(number), Record((1.0,))), range(16)))  # noqa: B023
        assert len(store) == 16
        store.close()


def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE precious (data TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is a database, but not a NOSBench store"):
        ResultStore(path).add("a", Record((1.0,)))
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE schema SET version = 4")
    with pytest.raises(StoreError, match="has version 4, this nosbench_env reads up to 3: upgrade nosbench_env"):
        ResultStore(store.path).get("a", 1)


@pytest.mark.parametrize("statement", ["PRAGMA journal_mode", "CREATE", "INSERT", "PRAGMA application_id =", "COMMIT"])
def test_a_kill_while_the_file_is_made_leaves_one_that_is_completed(store: ResultStore, statement: str) -> None:
    child = os.fork()
    if child == 0:

        def kill(_connection: object, _cursor: object, text: str, *_: object) -> None:
            if text.strip().startswith(statement):
                os.kill(os.getpid(), signal.SIGKILL)

        sql.event.listen(sql.Engine, "after_cursor_execute" if statement != "COMMIT" else "before_cursor_execute", kill)
        store.add("child", Record((1.0,)))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    store.add("a", Record((1.0,)))
    assert store.get("a", 1) is not None
    assert len(store) == 1


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A store as the first version made it, with a result and one that stopped."""
    path = tmp_path / "version_1.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE schema (id INTEGER NOT NULL, version INTEGER, PRIMARY KEY (id))")
        connection.execute(
            "CREATE TABLE runs (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, "
            "epoch_means TEXT NOT NULL, stopped_at INTEGER, provenance TEXT NOT NULL)"
        )
        connection.execute("CREATE INDEX ix_runs_key ON runs (key)")
        connection.execute("INSERT INTO schema VALUES (1, 1)")
        connection.execute("INSERT INTO runs VALUES (3, 'a', '[1.5, 0.1]', NULL, '{\"seconds\": 2.0}')")
        connection.execute("INSERT INTO runs VALUES (7, 'b', '[1.5, \"nan\"]', 17, '{}')")
        connection.execute("PRAGMA application_id = 0x4E4F5342")
    connection.close()
    return path


def check_migrated(path: Path) -> None:
    store = ResultStore(path)
    assert store.get("a", 2) == Record((1.5, 0.1), None, {"seconds": 2.0})
    assert repr(store.get("b", 3)) == repr(Record((1.5, NAN, NAN), 17))
    assert len(store) == 2
    store.add("c", Record((1.0,), first_epoch=3))
    assert store.get("c", 4, last_epoch_only=True) == Record((1.0,), first_epoch=3)
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version FROM schema").fetchall() == [(3,)]
        assert connection.execute("SELECT id, first_epoch FROM runs").fetchall() == [(3, 0), (7, 0), (8, 3)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_of_version_1_is_brought_up_to_date_and_keeps_its_results(version_1: Path) -> None:
    check_migrated(version_1)


def test_an_older_store_gets_the_tables_that_a_new_one_has(version_1: Path, store: ResultStore) -> None:
    ResultStore(version_1).get("a", 1)
    store.get("a", 1)
    shapes = []
    for path in (version_1, store.path):
        with sqlite3.connect(path) as connection:
            shapes.append(connection.execute("PRAGMA table_info(runs)").fetchall())
    assert [column[1:4] for column in shapes[0]] == [column[1:4] for column in shapes[1]]  # names, types, not null


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "ALTER", "UPDATE schema", "COMMIT"])
@pytest.mark.parametrize("moment", ["before_cursor_execute", "after_cursor_execute"])
def test_a_kill_during_the_update_of_an_older_store_loses_nothing(version_1: Path, statement: str, moment: str) -> None:
    child = os.fork()
    if child == 0:

        def kill(_connection: object, _cursor: object, text: str, *_: object) -> None:
            if text.strip().startswith(statement):
                os.kill(os.getpid(), signal.SIGKILL)

        sql.event.listen(sql.Engine, moment, kill)
        ResultStore(version_1).get("a", 1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    check_migrated(version_1)


def test_processes_that_open_an_older_store_at_once_update_it_once(version_1: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(6)
    workers = [context.Process(target=read_after, args=(version_1, "a", barrier)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0] * 6
    check_migrated(version_1)


@pytest.mark.parametrize("damage", ["DELETE FROM schema", "DROP TABLE schema", "DROP TABLE runs"])
def test_missing_tables_and_rows_are_damage(store: ResultStore, damage: str) -> None:
    store.add("a", Record((1.0,)))
    store.close()
    with sqlite3.connect(store.path) as connection:
        connection.execute(damage)
    with pytest.raises(StoreError, match="damaged"):
        store.get("a", 1)


def test_a_store_in_memory_serves_all_threads_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for location in ("sqlite://", "sqlite:///:memory:", ":memory:"):
        store = ResultStore(location)
        store.add("a", Record((1.0,)))
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: store.get("a", 1).epoch_means, range(8))) == [(1.0,)] * 8  # noqa: B023
        store.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["folder", "under a file", "forbidden"])
def test_a_place_that_cannot_hold_a_store_is_refused(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    path = {
        "folder": tmp_path,
        "under a file": tmp_path / "file" / "results.sqlite",
        "forbidden": Path("/proc/nosbench/results.sqlite"),  # nobody may write there, root included
    }[where]
    with pytest.raises(StoreError, match="NOSBENCH_STORE"):
        ResultStore(path).get("a", 1)


def test_a_full_disk_is_said_and_loses_nothing(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    engine = store._database.engine()  # SQLite's own limit on the file's size gives its error for a full disk
    engine.dispose()
    sql.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 5"))
    with pytest.raises(StoreError, match=r"disk is full; results stored before are safe\. Free some space"):
        for _ in range(1000):
            store.add("b", Record((1.0,) * 100))
    assert store.get("a", 1) == Record((1.0,))
    store.close()
    store.add("c", Record((2.0,)))
    assert store.get("c", 1) == Record((2.0,))


def test_runs_come_in_order_of_ids_by_prefix_and_after_one(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nosbench_env.store.result_store._PAGE", 3)
    for number in range(10):
        store.add(f"{'ab'[number % 2]}-{number}", Record((float(number), NAN), 5, {"n": number}, number))
    runs = list(store.runs())
    assert [run.id for run in runs] == list(range(1, 11))
    assert [run.key for run in store.runs("b-")] == ["b-1", "b-3", "b-5", "b-7", "b-9"]
    assert [run.key for run in store.runs("a", after=5)] == ["a-6", "a-8"]
    assert repr(runs[3].record) == repr(Record((3.0, NAN), 5, {"n": 3}, 3))
    reading = store.runs(after=8)
    assert next(reading).id == 9
    for number in range(5):
        store.add("late", Record((float(number),)))
    assert [run.id for run in reading] == [10, *range(11, 16)]


def test_add_many_skips_what_is_held_exactly(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nosbench_env.store.result_store._PAGE", 3)
    items = [(f"k{number}", Record((0.1 * number, NAN), None, {"a": 1, "b": number})) for number in range(8)]
    store.add(*items[2])
    assert store.add_many([*items, items[5]]) == 7
    assert store.add_many(iter(items)) == 0
    other = [
        ("k1", Record((0.1, NAN), None, {"b": 1, "a": 1})),  # the same in another order
        ("k1", Record((0.1, NAN), 7, {"a": 1, "b": 1})),
        ("k1", Record((0.1, NAN), None, {"a": 1, "b": 2})),
        ("k1", Record((0.1, NAN), None, {"a": 1, "b": 1}, 1)),
        ("k1", Record((0.1, 2.0), None, {"a": 1, "b": 1})),
    ]
    assert store.add_many(other) == 4
    assert len(list(store.runs())) == 12


def test_delete_forgets_records_and_keeps_aliases(store: ResultStore) -> None:
    for number in range(5):
        store.add("key", Record((float(number),)), aliases=[f"alias-{number}"])
    assert store.delete([1, 2, 99]) == 2
    assert store.get("key", 1).epoch_means == (2.0,)
    assert store.resolve("alias-0") == "key"
    store.add("key", Record((9.0,)))
    assert [run.id for run in store.runs()] == [3, 4, 5, 6]  # ids are not used again


def test_an_alias_keeps_its_first_key(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nosbench_env.store.result_store._PAGE", 2)
    assert store.resolve("x") is None
    store.add("first", Record((1.0,)), aliases=("x", "y"))
    store.add("second", Record((1.0,)), aliases=["y", "z"])
    store.add_aliases({"z": "third", "w": "third"})
    assert dict(store.aliases()) == {"x": "first", "y": "first", "z": "second", "w": "third"}
    assert store.resolve("y") == "first"


@pytest.mark.parametrize("key", ["", "a\0b", "a\ud800", 5, None])
def test_keys_that_no_database_holds_are_refused(store: ResultStore, key: str) -> None:
    with pytest.raises(ValueError, match="key must be a text"):
        store.add(key, Record((1.0,)))
    with pytest.raises(ValueError, match="alias must be a text"):
        store.add("key", Record((1.0,)), aliases=[key])
    assert len(store) == 0
