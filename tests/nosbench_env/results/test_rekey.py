from pathlib import Path

import pytest
from results import full_provenance, key, record

from nosbench_env import Oracle, Program, ResultStore
from nosbench_env.identity.identify import identify
from nosbench_env.language.status import Status
from nosbench_env.results.rekey import Identify, Rekeying, rekey
from nosbench_env.tasks.task import probe_of


def made(value: str, **others: object) -> dict[str, object]:
    """A provenance whose program has the value `value` under the identities below."""
    return full_provenance(program=[["mul", [1, 6], 9]] * int(value), **others)


def by_length(identity: str) -> Identify:
    """An identity of programs with the same length; from three instructions on they diverge."""

    def identify(program: Program, task: str) -> tuple[str, Status] | None:
        if task != "toy":
            return None
        return (f"{identity}-1:{len(program)}", "ok") if len(program) < 3 else (f"{identity}-1:nan", "nan")

    return identify


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "store.sqlite")
    store.add(key("1"), record(3.0, 2.0, **made("1")))
    store.add(key("2", seed=5), record(1.0, **made("2")))
    store.add(key("3"), record(9.0, **made("3")))
    store.add(key("4"), record(7.0))
    store.add("another form", record(7.0))
    store.add(key("1", task="mine-1"), record(7.0, **made("1")))
    return store


def test_results_are_found_under_their_new_keys(store: ResultStore) -> None:
    report = rekey(store, by_length("new"))
    assert report == Rekeying(records=6, current=0, added=2, there=0, diverged=1, unknown=3, pruned=0)
    copied = store.get(key("1", identity="new-1"), 2)
    assert copied.epoch_means == (3.0, 2.0)
    assert copied.provenance == made("1") | {"rekeyed_from": key("1")}
    assert store.get(key("2", seed=5, identity="new-1"), 1).epoch_means == (1.0,)
    assert store.get(key("1"), 2).epoch_means == (3.0, 2.0)


def test_a_second_time_nothing_is_added(store: ResultStore) -> None:
    rekey(store, by_length("new"))
    before = len(list(store.records()))
    report = rekey(store, by_length("new"))
    assert (report.added, report.there, report.current) == (0, 2, 2)
    assert len(list(store.records())) == before


def test_there_and_back_is_nothing_new(store: ResultStore) -> None:
    rekey(store, by_length("new"))
    report = rekey(store, by_length("newer"))
    assert (report.added, report.there) == (2, 2)  # the old ones and those of "new" are the same trainings
    assert store.get(key("1", identity="newer-1"), 1).provenance["rekeyed_from"] == key("1")
    report = rekey(store, by_length("paper"))
    assert report.added == 0


def test_old_results_go_only_if_they_have_a_new_key(store: ResultStore) -> None:
    assert rekey(store, by_length("new"), prune=True).pruned == 2
    left = [stored.key for stored in store.records()]
    assert sorted(left) == sorted(
        [
            key("1", identity="new-1"),
            key("2", seed=5, identity="new-1"),
            key("3"),
            key("4"),
            "another form",
            key("1", task="mine-1"),
        ]
    )
    assert rekey(store, by_length("new"), prune=True).pruned == 0


def test_what_is_under_a_new_key_already_stays_the_answer(store: ResultStore) -> None:
    store.add(key("1", identity="new-1"), record(0.5))
    rekey(store, by_length("new"))
    assert store.get(key("1", identity="new-1"), 2).epoch_means == (0.5, 2.0)


def test_the_oracle_hits_what_was_rekeyed(oracle: Oracle) -> None:
    sgd = Program.parse("r9 = mul(grad, 0.01)")
    trained = oracle.query(sgd, 2)
    store = ResultStore("sqlite://")
    store.add(key("0x1p-2"), oracle.store.get(trained.key, 2))
    assert rekey(store, lambda program, task: identify(program, "fingerprint", probe_of(oracle.task))).added == 1
    again = Oracle("toy", store, "cpu", workers=1).query(sgd, 2)
    assert again.hit
    assert again.curve == trained.curve
