import contextlib
import math
import multiprocessing
import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workers import write_many

from nosbench_env import ResultStore, StoreError
from nosbench_env.store import Record

NAN = math.nan


def change(store: ResultStore, statement: str) -> None:
    """Changes the database without the store."""
    store._database.write(lambda connection, _: connection.exec_driver_sql(statement))
    store.close()


@pytest.fixture
def store(location: str) -> Iterator[ResultStore]:
    with contextlib.closing(ResultStore(location)) as store:
        yield store


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
    assert [stored.record.provenance["run"] for stored in store.records()] == [1, 2, 3]  # nothing is overwritten


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
        record = store.get("a", epochs, last_epoch_only=True)
        assert (str(record.epoch_means), record.stopped_at, record.first_epoch) == ("(nan,)", 26, epochs - 1)
        assert store.get("a", epochs) is None


EPOCHS = 5


@st.composite
def trainings(draw: st.DrawFn) -> Record:
    """Draws records of trainings that disagree about everything."""
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
    stored = store.get("a", len(means)).epoch_means
    assert [repr(mean) for mean in stored] == [repr(mean) for mean in means]
    store.close()


@pytest.mark.parametrize(
    ("location", "method"), [("sqlite", "spawn"), ("sqlite", "fork"), ("postgresql", "fork")], indirect=["location"]
)
def test_eight_processes_share_a_new_store(location: str, store: ResultStore, method: str) -> None:
    rounds = 15
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(8)
    workers = [context.Process(target=write_many, args=(location, worker, rounds, barrier)) for worker in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0] * 8
    assert len(store) == 8 * rounds + 1
    first = store.get("shared", 1)
    store.add("shared", Record((99.0,)))
    assert store.get("shared", 1) == first
    assert [stored.id for stored in store.records()] == list(range(1, 8 * rounds * 2 + 2))
    if store.path is not None:
        with sqlite3.connect(store.path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_damaged_record_is_named(store: ResultStore) -> None:
    store.add("a", Record((1.0,)))
    change(store, "UPDATE runs SET epoch_means = '[1.0, \"evil\"]'")
    with pytest.raises(StoreError, match=r"damaged at record 1: .*'evil'"):
        store.get("a", 1)


def test_records_come_in_order_of_ids_by_prefix_and_after_one(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nosbench_env.store.result_store._PAGE", 3)
    for number in range(10):
        store.add(f"{'ab'[number % 2]}-{number}", Record((float(number), NAN), 5, {"n": number}, number))
    records = list(store.records())
    assert [stored.id for stored in records] == list(range(1, 11))
    assert [stored.key for stored in store.records("b-")] == ["b-1", "b-3", "b-5", "b-7", "b-9"]
    assert [stored.key for stored in store.records("a", after=5)] == ["a-6", "a-8"]
    assert repr(records[3].record) == repr(Record((3.0, NAN), 5, {"n": 3}, 3))
    reading = store.records(after=8)
    assert next(reading).id == 9
    for number in range(5):
        store.add("late", Record((float(number),)))
    assert [stored.id for stored in reading] == [10, *range(11, 16)]


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
    assert len(list(store.records())) == 12


def test_delete_forgets_records_and_keeps_aliases(store: ResultStore) -> None:
    for number in range(5):
        store.add("key", Record((float(number),)), aliases=[f"alias-{number}"])
    assert store.delete([1, 2, 99]) == 2
    assert store.get("key", 1).epoch_means == (2.0,)
    assert store.resolve("alias-0") == "key"
    store.add("key", Record((9.0,)))
    assert [stored.id for stored in store.records()] == [3, 4, 5, 6]  # ids are not used again


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
    with pytest.raises(ValueError, match="key must be"):
        store.add(key, Record((1.0,)))
    with pytest.raises(ValueError, match="alias must be"):
        store.add("key", Record((1.0,)), aliases=[key])
    assert len(store) == 0


@pytest.mark.parametrize(
    "assignment",
    ["key = 'b'", "epoch_means = '[1.5]'", "stopped_at = 9", "first_epoch = 1", "provenance = '{\"seconds\": 1}'"],
)
def test_a_record_that_is_not_as_it_was_stored_is_damaged(store: ResultStore, assignment: str) -> None:
    store.add("a", Record((1.0,), 5, {"seconds": 2}))
    change(store, f"UPDATE runs SET {assignment}")
    with pytest.raises(StoreError, match=r"damaged at record 1: .*checksum"):
        list(store.records())


@pytest.mark.parametrize("assignment", ["key = 'b'", "alias = 'y'"])
def test_an_alias_that_is_not_as_it_was_stored_is_damaged(store: ResultStore, assignment: str) -> None:
    store.add_aliases({"x": "a"})
    change(store, f"UPDATE aliases SET {assignment}")
    with pytest.raises(StoreError, match="is damaged at the alias"):
        store.resolve("y" if "alias" in assignment else "x")
    with pytest.raises(StoreError, match="is damaged at the alias"):
        list(store.aliases())


def test_an_answer_is_given_from_memory_and_is_the_askers_own(location: str, store: ResultStore) -> None:
    store.add("a", Record((1.0, 2.0), None, {"program": ["x"]}), aliases=["name"])
    first, key = store.get("a", 2), store.resolve("name")
    first.provenance["program"].append("changed")
    with contextlib.closing(ResultStore(location)) as other:
        other.delete([1])
    assert store.get("a", 2) == Record((1.0, 2.0), None, {"program": ["x"]})  # as said in the manual
    assert store.resolve("name") == key == "a"
    assert store.get("a", 1) is None  # another question
    store.close()
    assert store.get("a", 2) is None


def test_what_memory_holds_is_bounded_and_is_forgotten_with_what_it_came_from(
    store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store._recent._size = 3
    for number in range(6):
        store.add(f"key-{number}", Record((float(number),)))
        assert store.get(f"key-{number}", 1) is not None
        assert store.get("key-0", 1) is not None
    assert list(store._recent._kept) == ["key-4", "key-5", "key-0"]
    store.delete([1])
    assert store.get("key-0", 1) is None
    assert store.get("key-9", 1) is None
    store.add("key-9", Record((9.0,)))
    assert store.get("key-9", 1) is not None  # what is not known is not kept


def test_a_last_epoch_from_memory_grows_to_a_whole_curve(store: ResultStore) -> None:
    store.add("a", Record((1.0,), first_epoch=2))
    assert store.get("a", 3, last_epoch_only=True).first_epoch == 2
    store.add_many([("a", Record((3.0, 2.0)))])
    assert store.get("a", 3, last_epoch_only=True).epoch_means == (3.0, 2.0, 1.0)


@pytest.mark.parametrize(
    "record",
    [
        Record(()),
        Record((1.0,), 0),
        Record((1.0,), 2**31),
        Record((1.0,), 1.5),
        Record((1.0,), None, {}, -1),
        Record((1.0,), None, {"seconds": "x"}),
        Record((1.0,), None, {"x": NAN}),
    ],
)
def test_a_record_that_could_not_be_read_is_not_stored(store: ResultStore, record: Record) -> None:
    with pytest.raises(ValueError, match=r"a store can't hold this record|JSON compliant"):
        store.add("a", record)
    with pytest.raises(ValueError):
        store.add_many([("good", Record((1.0,))), ("a", record)])
    assert len(store) == 0
