import gzip
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import key, random_results, record

from nosbench_env import ResultStore, StoreError
from nosbench_env.results.file_format import parse_line
from nosbench_env.results.shipped import RESULTS, ShippedResults, _table
from nosbench_env.results.transfer import export_results
from nosbench_env.store import Record


def shipped(folder: Path, results: list[tuple[str, Record]]) -> ShippedResults:
    """Returns a table of these results."""
    store = ResultStore("sqlite://")
    store.add_many(results)
    folder.mkdir(parents=True, exist_ok=True)
    export_results(store, folder / "results.jsonl.gz", overwrite=True)
    _table.cache_clear()
    return ShippedResults(folder)


def test_results_are_found_by_key(tmp_path: Path) -> None:
    results = random_results(30)
    table = shipped(tmp_path, results)
    assert len(table) == 30
    for text, result in results:
        answer = table.get(text, 20, last_epoch_only=True)
        assert repr(answer.epoch_means[-1]) == repr(result.epoch_means[-1])
        assert answer.provenance == result.provenance
    assert table.get(key("unknown"), 1) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.lists(
        st.builds(
            lambda means, stopped_at, first: record(*means, stopped_at=stopped_at, first_epoch=first),
            st.lists(st.sampled_from([1.0, 2.0, math.nan]), min_size=1, max_size=4),
            st.none() | st.just(3),
            st.integers(0, 3),
        ),
        max_size=4,
    )
)
def test_the_answers_are_those_of_a_store(tmp_path: Path, records: list[Record]) -> None:
    results = [(key(), result) for result in records]
    table, store = shipped(tmp_path, results), ResultStore("sqlite://")
    store.add_many(results)
    for epochs in range(1, 9):
        for last_epoch_only in (False, True):
            expected = store.get(key(), epochs, last_epoch_only)
            assert repr(table.get(key(), epochs, last_epoch_only)) == repr(expected)


def test_a_folder_without_results_is_an_empty_table(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert len(ShippedResults(folder)) == 0
        assert ShippedResults(folder).get(key(), 1) is None


def test_what_the_package_ships_can_be_read() -> None:
    table = ShippedResults()
    assert table.folder == RESULTS
    for text, lines in _table(RESULTS).items():
        assert all(table._record(line).epoch_means for line in lines), text


def test_several_files_are_one_table(tmp_path: Path) -> None:
    shipped(tmp_path / "b", [(key("a"), record(2.0)), (key("b"), record(3.0))])
    shipped(tmp_path / "a", [(key("a"), record(1.0))])
    for name in "ab":
        (tmp_path / name / "results.jsonl.gz").rename(tmp_path / f"{name}.jsonl.gz")
    table = ShippedResults(tmp_path)
    assert len(table) == 2
    assert table.get(key("a"), 1).epoch_means == (1.0,)
    assert table.get(key("b"), 1).epoch_means == (3.0,)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"",
        lambda data: b"x" + data,
        lambda data: gzip.compress(b""),
        lambda data: gzip.compress(gzip.decompress(data).rpartition(b"{")[0]),
        lambda data: gzip.compress(b"\n".join(gzip.decompress(data).splitlines()[:-1])),
        lambda data: gzip.compress(gzip.decompress(data).replace(b'"seed": 0', b'"seed": ""', 1)),
        lambda data: gzip.compress(gzip.decompress(data).replace(b'"version": ', b'"version": 9', 1)),
        lambda data: gzip.compress(gzip.decompress(data).replace(b'"epoch_means": [', b'"epoch_means": [[', 9)),
    ],
)
def test_a_damaged_installation_is_told(tmp_path: Path, damage) -> None:
    shipped(tmp_path, [(key(str(number)), record(1.0)) for number in range(5)])
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(damage(path.read_bytes()))
    table = ShippedResults(tmp_path)
    with pytest.raises(StoreError, match=r"are damaged .* Install nosbench_env again"):
        [table.get(key(str(number)), 1) for number in range(5)]


def test_only_the_results_asked_for_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = random_results(300)
    table = shipped(tmp_path, results)
    parsed: list[str] = []
    monkeypatch.setattr("nosbench_env.results.shipped.parse_line", lambda line: parsed.append(line) or parse_line(line))
    for text, _ in results[:2]:
        table.get(text, 20, last_epoch_only=True)
    assert len(parsed) == 2
    assert len(table) == len(results)
