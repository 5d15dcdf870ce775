import gzip
import io
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from results import full_provenance, key, random_results, record

from nosbench_env import ResultStore
from nosbench_env.results import transfer as transfer_module
from nosbench_env.results.file_format import MAX_LINE, InvalidResults, format_line, header
from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.results.transfer import ImportReport, export_results, import_results, merge_stores
from nosbench_env.store import Record


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "store.sqlite")


@pytest.fixture
def other(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "other.sqlite")


def contents(store: ResultStore) -> list[str]:
    """Returns all records in order, as text, since NaN is not equal to itself."""
    return [
        repr((stored.key, replace(stored.record, provenance=sorted(stored.record.provenance.items()))))
        for stored in store.records()
    ]


def text_of(store: ResultStore) -> str:
    stream = io.BytesIO()
    export_results(store, stream)
    return stream.getvalue().decode()


def file_of(*lines: str) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))


def line_of(text: str, result: Record) -> str:
    return format_line(ResultKey.parse(text), result)


@pytest.mark.parametrize("name", ["results.jsonl", "results.jsonl.gz"])
def test_an_export_imported_elsewhere_exports_the_same(
    store: ResultStore, other: ResultStore, tmp_path: Path, name: str
) -> None:
    store.add_many(random_results(40))
    assert export_results(store, tmp_path / name).records == 40
    assert (tmp_path / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    assert import_results(tmp_path / name, other) == ImportReport(40, 40, 0, 0, 0.0)
    assert sorted(contents(other)) == sorted(contents(store))
    export_results(other, tmp_path / f"again-{name}")
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()
    assert import_results(tmp_path / name, other) == ImportReport(40, 0, 40, 0, 0.0)


def test_lines_are_sorted_by_key_and_then_by_age(store: ResultStore) -> None:
    for text, loss in ((key("b"), 1.0), (key("a", seed=10), 2.0), (key("a", seed=9), 3.0), (key("b"), 0.5)):
        store.add(text, record(loss))
    losses = [line.partition('"epoch_means": [')[2].partition("]")[0] for line in text_of(store).splitlines()[1:]]
    assert losses == ["1.0", "0.5", "3.0", "2.0"]


def test_a_selection_is_exported_alone(store: ResultStore) -> None:
    store.add_many([(key(), record(1.0)), (key(task="pfn-1"), record(2.0)), (key(identity="probe-1"), record(3.0))])
    stream = io.BytesIO()
    assert export_results(store, stream, Selection(task="toy", identity="probe-1")).records == 1
    assert b"3.0" in stream.getvalue()


def test_what_no_import_would_take_is_left_out_and_told(store: ResultStore, other: ResultStore) -> None:
    store.add("a key of another form", record(1.0))
    store.add(key(), record(1.0, date="yesterday"))
    store.add(key(), record(2.0))
    report = export_results(store, io.BytesIO())
    assert (report.records, report.left_out) == (1, 2)
    assert "record 1 under 'a key of another form': expected a key" in report.reason
    merged = merge_stores([store], other)
    assert (merged.added, merged.left_out, merged.reason) == (1, 2, report.reason)


def test_records_that_disagree_are_kept_beside_the_first(store: ResultStore) -> None:
    store.add(key("a"), record(3.0, 2.0))
    lines = [
        line_of(key("a"), record(3.0, 1.5, 1.0)),
        line_of(key("a"), record(3.0, 2.0, note="the same loss")),
        line_of(key("b"), record(9.0)),
        line_of(key("b"), record(9.0)),
    ]
    report = import_results(file_of(header(4), *lines), store)
    assert report == ImportReport(records=4, added=3, duplicates=1, disagreeing=1, largest_difference=0.5)
    assert store.get(key("a"), 2).epoch_means == (3.0, 2.0)
    assert store.get(key("a"), 3).epoch_means == (3.0, 2.0, 1.0)
    again = import_results(file_of(header(4), *lines), store)
    assert again == ImportReport(records=4, added=0, duplicates=4, disagreeing=0, largest_difference=0.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: expected the header of a file of results, got an empty file"),
        (["{}"], "line 1: expected the header"),
        ([header(1), "{}"], "line 2: the field 'task' is missing"),
        ([header(2), line_of(key(), record(1.0)), ""], "line 3: not JSON"),
        ([header(2), line_of(key(), record(1.0))], "announces 2 records, but the file has 1"),
        ([header(0), line_of(key(), record(1.0))], "announces 0 records, but the file has 1"),
        ([header(1), header(1)], "line 2: the field 'task' is missing"),
    ],
)
def test_a_wrong_file_changes_nothing(store: ResultStore, lines: list[str], message: str) -> None:
    store.add(key("a"), record(1.0))
    before = contents(store)
    with pytest.raises(InvalidResults, match=message) as raised:
        import_results(file_of(*lines), store, "x.jsonl")
    assert str(raised.value).startswith("x.jsonl")
    assert str(raised.value).endswith("Nothing was imported")
    assert contents(store) == before


def test_the_last_line_is_checked_before_the_first_is_stored(store: ResultStore) -> None:
    lines = [line_of(text, result) for text, result in random_results(3000)]
    with pytest.raises(InvalidResults, match="line 3002: not JSON"):
        import_results(file_of(header(3001), *lines, "{"), store)
    assert not store.path.exists()


def test_files_with_marks_of_other_systems_are_read(store: ResultStore) -> None:
    data = "\ufeff" + header(1) + "\r\n" + line_of(key(), record(1.0))
    assert import_results(io.BufferedReader(io.BytesIO(data.encode())), store).added == 1


def test_bytes_that_are_no_text_are_refused(store: ResultStore) -> None:
    for data in (b"\xff", header(1).encode() + b"\n\xc3\x28", b"SQLite format 3\0", os.urandom(10_000) + b"\n"):
        with pytest.raises(InvalidResults):
            import_results(io.BufferedReader(io.BytesIO(data)), store)


def test_a_damaged_gzip_file_is_refused(store: ResultStore) -> None:
    data = gzip.compress(file_of(header(1), line_of(key(), record(1.0))).read())
    for damaged in (data[:-1], data[:30], data[:2], data[:50] + b"\0" + data[51:], data + b"x"):
        with pytest.raises(InvalidResults, match="compressed data are damaged or cut short"):
            import_results(io.BufferedReader(io.BytesIO(damaged)), store)
    assert not store.path.exists()
    assert import_results(io.BufferedReader(io.BytesIO(data)), store).added == 1


def test_a_line_that_never_ends_is_not_read_to_its_end(store: ResultStore) -> None:
    bomb = gzip.compress(b"x" * 2 + b" " * (1 << 28), compresslevel=1)
    stream = io.BufferedReader(io.BytesIO(gzip.compress(bomb)))  # also when packed twice
    with pytest.raises(InvalidResults):
        import_results(stream, store)
    with pytest.raises(InvalidResults, match=f"line 1: .* {MAX_LINE:,} bytes"):
        import_results(io.BufferedReader(io.BytesIO(bomb)), store)


def test_a_file_that_swells_too_much_is_refused(store: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "MAX_BYTES", 10_000)
    line = line_of(key(), record(1.0))
    data = gzip.compress(file_of(header(1000), *[line] * 1000).read())
    with pytest.raises(InvalidResults, match="10,000 bytes, decompressed"):
        import_results(io.BufferedReader(io.BytesIO(data)), store)


def test_a_file_that_is_not_there_is_told(store: ResultStore, tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ValueError, match=f"can't read .*{reason}"):
            import_results(path, store)


def test_an_export_replaces_only_what_it_may(store: ResultStore, tmp_path: Path) -> None:
    store.add(key(), record(1.0))
    target = tmp_path / "results.jsonl"
    target.write_text("precious")
    with pytest.raises(ValueError, match=r"results.jsonl exists; --overwrite replaces it"):
        export_results(store, target)
    assert target.read_text() == "precious"
    export_results(store, target, overwrite=True)
    assert "1.0" in target.read_text()
    with pytest.raises(ValueError, match="it is a folder"):
        export_results(store, tmp_path)
    with pytest.raises(ValueError, match=r"the folder .* does not exist"):
        export_results(store, tmp_path / "none" / "x.jsonl")
    export_results(store, Path(os.devnull))  # a device stays one
    assert not Path(os.devnull).is_file()


def test_a_link_stays_a_link(store: ResultStore, tmp_path: Path) -> None:
    store.add(key(), record(1.0))
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    export_results(store, link)
    assert link.is_symlink()
    assert "1.0" in (tmp_path / "real.jsonl").read_text()


@pytest.mark.parametrize("name", ["results.jsonl", "results.jsonl.gz"])
def test_an_interrupted_export_leaves_nothing(
    store: ResultStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store.add(key(), record(1.0))

    def interrupt(_: int) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer_module, "header", interrupt)
    before = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export_results(store, tmp_path / name)
    assert set(tmp_path.iterdir()) == before


def test_stores_are_merged_in_their_order(store: ResultStore, tmp_path: Path) -> None:
    store.add(key("a"), record(1.0))
    others = [ResultStore(tmp_path / f"{number}.sqlite") for number in range(2)]
    others[0].add_many([(key("a"), record(1.25)), (key("b"), record(2.0))])
    others[1].add_many([(key("a"), record(1.0)), (key("b"), record(3.0))])
    report = merge_stores(others, store)
    assert report == ImportReport(records=4, added=3, duplicates=1, disagreeing=1, largest_difference=0.25)
    assert store.get(key("a"), 1).epoch_means == (1.0,)
    assert store.get(key("b"), 1).epoch_means == (2.0,)
    assert [len(list(other.records())) for other in others] == [2, 2]


def test_a_store_is_not_merged_with_itself(store: ResultStore, tmp_path: Path) -> None:
    store.add(key(), record(1.0))
    (tmp_path / "link.sqlite").symlink_to(store.path)
    for same in (ResultStore(store.path), ResultStore(tmp_path / "link.sqlite")):
        with pytest.raises(ValueError, match="merged with itself"):
            merge_stores([same], store)


def test_what_another_store_holds_is_checked_as_a_file_is(store: ResultStore, other: ResultStore) -> None:
    other.add_many([(key("a"), record(1.0)), (key("b"), record(2.0)), (key("c"), record(3.0, **full_provenance()))])
    with sqlite3.connect(other.path) as connection:
        deep = "[" * 200 + "]" * 200
        connection.execute("UPDATE runs SET checksum = NULL")
        connection.execute("UPDATE runs SET provenance = ? WHERE id = 1", ('{"x": ' + deep + "}",))
        connection.execute("UPDATE runs SET provenance = ? WHERE id = 2", ('{"x": NaN}',))
    report = merge_stores([other], store)
    assert (report.added, report.left_out) == (1, 2)
    # The same damage in the store itself is no reason to fail.
    assert import_results(file_of(header(1), line_of(key("a"), record(1.0))), other).added == 1


@pytest.mark.slow
def test_an_import_needs_little_memory(tmp_path: Path) -> None:
    """Results wait on disk until all are checked."""
    code = """
import resource, sys
from pathlib import Path
from nosbench_env import ResultStore
from nosbench_env.results.transfer import import_results
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small, large, store = map(Path, sys.argv[1:])
import_results(small, ResultStore(store))
before = peak()
import_results(large, ResultStore(store))
print((peak() - before) // 1024)
"""
    text = line_of(key(), record(*[1 / 3] * 5000))
    for name, count in (("small", 10), ("large", 1000)):
        lines = [text.replace("0x1.8p-2", f"{number:x}") for number in range(count)]
        (tmp_path / name).write_bytes(file_of(header(count), *lines).read())
    assert (tmp_path / "large").stat().st_size > 90 << 20
    command = [sys.executable, "-c", code, tmp_path / "small", tmp_path / "large", tmp_path / "s.sqlite"]
    grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(grown) < 60  # MiB
