import gzip
import io
import json
import os
import sys
from pathlib import Path

import pytest
from results import full_provenance, key, record

from nosbench_env import KNOWN_PROGRAMS, Oracle, ResultStore
from nosbench_env.results import verify as verification


@pytest.fixture
def nosbench(nosbench):
    """Runs `nosbench store ...`, on the store `results.sqlite` of its folder, and looks at the exit code."""

    def run(*arguments: str, code: int = 0):
        found = nosbench("store", *arguments)
        assert found.code == code, found
        return found

    return run


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """The default store, with the results of two trainings on the toy task and two made up."""
    store = ResultStore(tmp_path / "results.sqlite")
    oracle = Oracle("toy", store, "cpu", workers=1)
    for name in ("SGD", "Adam"):
        oracle.query(KNOWN_PROGRAMS[name], 2)
    store.add(key("a", task="pfn-1"), record(1.0, **full_provenance(device="GPU\x1b[2J")))
    store.add(key("a", task="pfn-1"), record(1.5, **full_provenance()))
    return store


def test_help_teaches(nosbench) -> None:
    assert all(
        name in nosbench("--help").out for name in ("info", "export", "import", "merge", "verify", "prune", "rekey")
    )
    for command, words in (
        ("info", ["nosbench store info --store results.sqlite"]),
        ("export", ["nosbench store export results.jsonl.gz", "units", "--overwrite"]),
        ("import", ["before the first result is added", "nosbench store verify"]),
        ("merge", ["nosbench store merge laptop.sqlite cluster.sqlite", "unchanged"]),
        ("verify", ["--sample", "--seed", "--tolerance", "exit code is 2"]),
        ("prune", ["--identity", "--task-version", "--nosbench-version", "--yes", "Deletion is final"]),
        ("rekey", ["--to", "--prune", "without training"]),
    ):
        text = " ".join(nosbench(command, "--help").out.split())
        assert all(word in text for word in words), (command, text)


def test_info_tells_what_there_is(nosbench, store: ResultStore) -> None:
    text = nosbench("info").out
    assert str(store.path) in text
    assert "4 under 3 keys" in text
    assert "GPU\\x1b[2J (1)" in text  # the terminal does not obey a store
    assert "1 (by up to 0.5), 1 beyond the noise of 0.15" in text
    assert "pfn 1 0 float32 paper-1 2 1" in " ".join(text.split())
    data = json.loads(nosbench("info", "--json").out)
    assert (data["records"], data["keys"], data["schema_version"] >= 3) == (4, 3, True)
    assert data["bytes"] >= store.path.stat().st_size
    assert data["groups"][0] == {
        "task": "pfn",
        "task_version": 1,
        "seed": 0,
        "arithmetic": "float32",
        "identity": "paper-1",
        "records": 2,
        "keys": 1,
    }


def test_results_travel_by_file(nosbench, store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = nosbench("export", "x.jsonl.gz")
    assert "3 results written to x.jsonl.gz" in run.out
    assert "left out   1 result; the first: record 3 under" in run.err
    run = nosbench("import", "x.jsonl.gz", "--store", "other.sqlite")
    assert "3 results read\nadded      3\nskipped    0" in run.out
    assert json.loads(nosbench("import", "x.jsonl.gz", "--json").out)["duplicates"] == 3
    plain = gzip.decompress(Path("x.jsonl.gz").read_bytes())
    run = nosbench("export", "-", "--store", "other.sqlite")
    assert run.out.encode() == plain
    assert "3 results written" in run.err
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(plain))))
    assert "added      3" in nosbench("import", "-", "--store", "third.sqlite").out


def test_stores_are_merged(nosbench, store: ResultStore) -> None:
    other = ResultStore("other.sqlite")
    other.add(key("a", task="pfn-1"), record(1.25))
    run = nosbench("merge", "other.sqlite")
    assert "added      1" in run.out
    assert "disagree   1 (by up to 0.25); they are kept" in run.out
    assert store.get(key("a", task="pfn-1"), 1).epoch_means == (1.0,)


def test_verify_tells_right_from_wrong(nosbench, store: ResultStore) -> None:
    run = nosbench("verify", "--task", "toy", "--device", "cpu")
    assert "2 of 2 results compared, 2 agree, 0 do not; 0 not verifiable" in run.out
    assert run.out.count("same") == 2
    first = next(store.records(prefix="toy-1"))
    store.add(first.key, record(9.0, 9.0, **first.record.provenance))
    store.add(key(), record(1.0))
    run = nosbench("verify", "--task", "toy", "--device", "cpu", code=2)
    assert "BEYOND" in run.out
    assert "3 of 4 results compared, 2 agree, 1 do not; 1 not verifiable" in run.out
    assert "is not verifiable: its provenance does not name the program" in run.out
    data = json.loads(nosbench("verify", "--task", "toy", "--device", "cpu", "--json", code=2).out)
    assert [found["right"] for found in data["compared"]] == [True, False, True] or len(data["compared"]) == 3
    assert len(data["not_verifiable"]) == 1
    assert "4 of 4" not in nosbench("verify", "--sample", "1", "--task", "toy", "--tolerance", "100").out


def test_prune_deletes_what_it_announced(nosbench, store: ResultStore) -> None:
    run = nosbench("prune", "--task", "pfn")
    assert run.out.startswith("2 results would be deleted:")
    assert "Add --yes to delete." in run.out
    assert len(list(store.records())) == 4
    assert nosbench("prune", "--identity", "paper").out.startswith("2 results would be deleted:")
    assert "version of --identity paper" in nosbench("prune", "--identity", "paper", "--yes", code=2).err
    assert len(list(store.records())) == 4
    run = nosbench("prune", "--task", "pfn", "--yes")
    assert run.out.startswith("Deleted 2 results:")
    assert len(list(store.records())) == 2
    data = json.loads(nosbench("prune", "--task", "pfn", "--task-version", "1", "--json").out)
    assert (data["deleted"], data["chosen"], data["remaining"][0]["records"]) == (0, [], 2)


def test_rekey_brings_old_results_under_new_keys(nosbench, store: ResultStore) -> None:
    run = next(store.records(prefix="toy-1"))
    store.delete([run.id])
    store.add(key("old"), run.record)
    text = nosbench("rekey", "--to", "fingerprint").out
    assert "4 results in the store; 1 under keys of this identity already\nadded     3 under new keys" in text
    assert store.get(run.key, 2).provenance["rekeyed_from"] == key("old")
    data = json.loads(nosbench("rekey", "--to", "fingerprint", "--prune", "--json").out)
    assert (data["added"], data["there"], data["pruned"], data["current"]) == (0, 3, 3, 4)
    for identity in ("paper", "canonical", "fingerprint"):
        assert json.loads(nosbench("rekey", "--to", identity, "--json").out)["unknown"] == 0
    # A key names the identity of the program trained, under every identity.
    assert nosbench("verify", "--task", "toy", "--sample", "100").out.count("same") == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "--store", "none.sqlite"], "none.sqlite; name one with --store or NOSBENCH_STORE"),
        (["export", "x", "--store", "none.sqlite"], "there is no store"),
        (["merge", "none.sqlite"], "there is no store"),
        (["verify", "--store", "none.sqlite"], "there is no store"),
        (["prune", "--task", "toy", "--store", "none.sqlite"], "there is no store"),
        (["rekey", "--to", "paper", "--store", "none.sqlite"], "there is no store"),
        (["info", "--store", "text"], "not a SQLite database"),
        (["export", "text"], "text exists; --overwrite replaces it"),
        (["export", "."], "can't write .: it is a folder"),
        (["export", "none/x"], "does not exist"),
        (["export", "-", "--json"], "leave it out, or name a file"),
        (["import", "none.jsonl"], "can't read none.jsonl: No such file"),
        (["import", "text"], "text, line 1: expected the header of a file of results"),
        (["import", "results.sqlite"], "results.sqlite, line 1: "),
        (["merge", "results.sqlite"], "can't be merged with itself"),
        (["verify", "--sample", "0"], "the sample must have 1 result or more, got 0"),
        (["verify", "--tolerance", "-1"], "the tolerance must be a number from 0 on"),
        (["verify", "--device", "tpu", "--task", "toy"], "unknown device 'tpu'"),
        (["prune"], "nothing is selected"),
        (["prune", "--task-version", "1"], "--task-version needs --task"),
        (["rekey", "--to", "magic"], "unknown identity 'magic'; known are fingerprint"),
        (["rekey"], "Missing option '--to'"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_wrong_use_gives_one_message(nosbench, store: ResultStore, arguments: list[str], message: str) -> None:
    Path("text").write_text("some text\n" * 200)
    before = sorted(os.listdir())
    run = nosbench(*arguments, code=2)
    assert message in " ".join(run.err.split())
    assert [name for name in sorted(os.listdir()) if name not in before and not name.endswith(".lock")] == []


def test_an_interrupted_verification_tells_what_was_done(
    nosbench, store: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = verification._compare

    def compare_once(*arguments: object) -> object:
        monkeypatch.setattr(verification, "_compare", interrupt)
        return compare(*arguments)

    def interrupt(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "_compare", compare_once)
    run = nosbench("verify", "--task", "toy", "--device", "cpu", code=130)
    assert "1 of 2 results compared, 1 agree" in run.err
