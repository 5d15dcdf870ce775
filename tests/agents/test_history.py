import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run

from nosbench_env.agents import HistoryEntry, RunError, SearchResult
from nosbench_env.agents.history import count_queries, read_history


def test_an_entry_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [None, 3.0, 1.0]) / "history.jsonl"
    for line, entry in zip(path.read_text().splitlines(), read_history(path).entries, strict=True):
        assert entry.to_json() == json.loads(line)
        assert HistoryEntry.from_json(entry.to_json()) == entry


def test_reading_changes_nothing_and_counts_the_bytes_of_finished_queries(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0], batch_size=2) / "history.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    torn = (
        (whole + b'{"number": 5, "ba', 4),
        (whole[:-1], 2),  # the fourth line lacks its end
        (b"".join(lines[:3]), 2),  # the second batch lacks a query
        (lines[0], 0),
        (b"", 0),
    )
    for data, finished in torn:
        path.write_bytes(data)
        history = read_history(path)
        assert [entry.number for entry in history.entries] == list(range(1, finished + 1))
        assert history.size == sum(map(len, lines[:finished]))
        assert history.torn == (data != b"")
        assert path.read_bytes() == data
    path.write_bytes(whole)
    assert not read_history(path).torn


def test_without_a_file_the_history_is_empty(tmp_path: Path) -> None:
    history = read_history(tmp_path / "history.jsonl")
    assert (history.entries, history.size, history.torn) == ([], 0, False)
    assert count_queries(tmp_path / "history.jsonl") == 0


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for read in (read_history, count_queries):
        with pytest.raises(RunError, match=str(tmp_path)):
            read(tmp_path)


def test_complete_lines_are_counted_unchecked(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text("garbage\n{}\nnot complete")
    assert count_queries(path) == 2


def test_totals_are_those_of_the_entries(tmp_path: Path) -> None:
    entries = read_history(write_run(tmp_path / "run", [None, 3.0, 3.0, 1.0, 2.0], known=1) / "history.jsonl").entries
    totals: SearchResult[Any] = SearchResult()
    for entry in entries:
        assert totals.is_new(entry.key) == entry.new
        totals.add(entry)
    assert totals.best == entries[3]
    assert (totals.queries, totals.distinct, totals.trained) == (5, 4, 3)
    assert totals.simulated_seconds == entries[-1].simulated_seconds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 3}, "query 3, where query 2"),
        ({"loss": "low"}, "loss is 'low'"),
        ({"loss": 10**400}, "too large"),
        ({"status": "nan"}, "contradict each other"),
        ({"source": "rumour"}, "source must be one of trained, store, shipped, probe"),
        ({"hit": True}, "hit True and source 'trained' contradict each other"),
        ({"new": False}, "new is False, but the key is new"),
        ({"simulated_seconds": 0.5}, "must not be less than before"),
        ({"program": [["mul", [1, 6], 3]]}, "instruction 1: output slot 3"),
        ({"program": "<script>"}, "a program is a list"),
        ({"surprise": 1}, "'surprise' is unknown"),
        ({"key": None}, "key is None"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = write_run(tmp_path / "run", [3.0, 2.0, 1.0])
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines[1] |= change
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match=rf"history\.jsonl, line 2, is damaged: .*{message}"):
        read_history(folder / "history.jsonl")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "no JSON", "[" * 100_000, '{"number": NaN}', '{"number": 2, "number": 2}', "\udcff"],
    ids=["empty", "list", "null", "text", "deep", "NaN", "twice", "no UTF-8"],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    folder = write_run(tmp_path / "run", [3.0, 2.0, 1.0])
    first, _, last = (folder / "history.jsonl").read_bytes().splitlines()
    (folder / "history.jsonl").write_bytes(b"\n".join((first, text.encode(errors="surrogateescape"), last, b"")))
    with pytest.raises(RunError, match=r"history\.jsonl, line 2, is damaged"):
        read_history(folder / "history.jsonl")


def test_a_message_about_a_damaged_line_holds_no_control_characters(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", [1.0]) / "history.jsonl"
    entry = json.loads(path.read_text()) | {
        "program": {"program": [["mul", [1, 6], 9]], "constants": [["\x1b[31mE" * 100, 1, 2]], "lr": 1}
    }
    path.write_text(json.dumps(entry) + "\n")
    with pytest.raises(RunError, match="line 1, is damaged: constants must be a list") as raised:
        read_history(path)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 500 + len(str(path))
