import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results import full_provenance, key, random_results, record

from nosbench_env.execution.settings import MAX_EPOCHS
from nosbench_env.results.file_format import (
    FIELDS,
    FORMAT_VERSION,
    InvalidResults,
    format_line,
    header,
    parse_header,
    parse_line,
)
from nosbench_env.results.key import ResultKey
from nosbench_env.store import Record

KEY = ResultKey.parse(key())


def line(**changes: object) -> str:
    data = json.loads(format_line(KEY, record(1.5, 0.5, **full_provenance())))
    return json.dumps({name: value for name, value in (data | changes).items() if value is not ...})


def made(**changes: object) -> str:
    return line(provenance=full_provenance(**changes))


def stated(**changes: object) -> str:
    """A header."""
    return json.dumps({"format": "nosbench-results", "version": FORMAT_VERSION} | changes)


@given(
    st.lists(st.floats(), min_size=1, max_size=5),
    st.none() | st.integers(1, 2**31 - 1),
    st.integers(0, MAX_EPOCHS - 5),
)
def test_numbers_come_back_to_the_last_bit(means: list[float], stopped_at: int | None, first_epoch: int) -> None:
    stored = Record(tuple(means), stopped_at, full_provenance(), first_epoch)
    text = format_line(KEY, stored)
    parsed_key, parsed = parse_line(text)
    assert parsed_key == KEY
    assert [mean.hex() for mean in parsed.epoch_means] == [mean.hex() for mean in means]
    assert (parsed.stopped_at, parsed.first_epoch, parsed.provenance) == (stopped_at, first_epoch, stored.provenance)
    assert format_line(parsed_key, parsed) == text


def test_lines_are_standard_json() -> None:
    text = format_line(KEY, record(math.nan, -math.inf, 1.5, note="\u00e9"))
    data = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert data["epoch_means"] == ["nan", "-inf", 1.5]
    assert list(data) == list(FIELDS)
    assert text.isascii()


def test_the_order_of_a_provenance_does_not_show() -> None:
    a, b = record(1.0, x=1, y=2), record(1.0, y=2, x=1)
    assert format_line(KEY, a) == format_line(KEY, b)


def test_the_header_tells_the_fields_and_how_many_records() -> None:
    assert parse_header(header(17)) == 17
    assert json.loads(header(17))["fields"] == dict(FIELDS)
    assert parse_header(stated()) is None


def test_the_documentation_describes_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "oracle.md").read_text()
    section = page.partition("### Export format\n")[2].partition("\n##")[0]
    for name in (*FIELDS, *json.loads(header(1))):
        assert f"`{name}`" in section, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the header"),
        ("SQLite format 3\0", "expected the header"),
        ('{"format": "other", "version": 1}', "expected the header"),
        (stated(version=FORMAT_VERSION + 1), f"version {FORMAT_VERSION + 1} of the format.* version {FORMAT_VERSION}"),
        (stated(version=True), "version True of the format"),
        (stated(records=-1), "records: expected an integer from 0"),
        (stated(code=""), "unknown field 'code'"),
    ],
)
def test_a_wrong_header_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidResults, match=message):
        parse_header(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "expected an object"),
        (line()[:-1], "not JSON"),
        (line() + "x", "not JSON"),
        ("[" * 100_000, "too deep"),
        (line().replace("1.5", "NaN", 1), "NaN is not JSON"),
        (line().replace("1.5", "-Infinity", 1), "-Infinity is not JSON"),
        (line().replace("1.5", "1e999", 1), "a float can hold"),
        (line().replace("1.5", "1" * 5000, 1), "at most 19 digits"),
        (line().replace("1.5", "0." + "1" * 5000, 1), "at most 64 characters"),
        ('{"task": "a", ' + line()[1:], "duplicate field 'task'"),
        (line(provenance={"a": 1}).replace('"a": 1', '"a": 1, "a": 1'), "duplicate field 'a'"),
        (line(seed=...), "the field 'seed' is missing"),
        (line(extra=1), "unknown field 'extra'"),
        (line(task=1), "task: expected a text"),
        (line(task="toy-1/seed=0/float32/a:b"), "expected the parts of a key"),
        (line(task="toy/2"), "expected a key"),
        (line(task="toy", identity="no identity"), "expected a key"),
        (line(identity="paper-1:\u0000"), "expected a key"),
        (line(task_version=-1), "task_version: expected an integer"),
        (line(task_version=10**10), "task_version: expected an integer"),
        (line(seed=True), "seed: expected an integer"),
        (line(seed=1.0), "seed: expected an integer"),
        (line(seed=1_000_001), "seed must be"),
        (line(epoch_means=[]), "epoch_means: expected a list"),
        (line(epoch_means="1.5"), "epoch_means: expected a list"),
        (line(epoch_means=[1.5, None]), "epoch_means: expected a number"),
        (line(epoch_means=["NaN"]), "epoch_means: expected a number"),
        (line(epoch_means=[True]), "epoch_means: expected a number"),
        (line(epoch_means=[[1.5]]), "epoch_means: expected a number"),
        (line(epoch_means=[1.5] * 3, first_epoch=MAX_EPOCHS - 2), "epoch_means: expected a list of 1 to 2 "),
        (line(first_epoch=MAX_EPOCHS), "first_epoch: expected an integer"),
        (line(first_epoch=None), "first_epoch: expected an integer"),
        (line(stopped_at=0), "stopped_at: expected an integer"),
        (line(stopped_at=2**31), "stopped_at: expected an integer"),
        (line(provenance=[]), "provenance: expected an object"),
        (made(program="__import__('os')"), "provenance, program: a program is a list"),
        (made(program=[["evil", [1, 6], 9]]), "provenance, program: instruction 1: unknown function 'evil'"),
        (made(program=[["mul", [1, 6], 3]]), "provenance, program: instruction 1: output slot 3"),
        (made(program=[["mul", [1, 6], 9]] * 1025), "at most 1,024 instructions"),
        (made(program=None), "provenance, program: a program is a list"),
        (made(seconds="1"), "provenance, seconds: expected a number"),
        (made(seconds=-1), "provenance, seconds: expected a number"),
        (made(seconds=True), "provenance, seconds: expected a number"),
        (made(date="yesterday"), "provenance, date: expected a date"),
        (made(device=None), "provenance, device: expected a text"),
        (made(torch="2" * 201), "provenance, torch: expected a text"),
        (made(device="\x1b[2J"), "provenance, device: expected a text of one line"),
        (made(rekeyed_from="a"), "provenance, rekeyed_from: expected a key"),
        (made(rekeyed_from=1), "provenance, rekeyed_from: expected a key"),
        (made(note="\x1b]0;"), "without control characters"),
        (made(note="\ud800"), "without control characters"),
        (made(note="a" * (2**18 + 1)), "at most 262,144 characters"),
        (made(note=[[[[[[[[[]]]]]]]]]), "8 deep, not deeper"),
        (made(**{"a" * 65: 1}), "at most 64 characters"),
        (made(**{"\x1b": 1}), "without control characters"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_a_hostile_line_is_refused_and_the_message_says_why(text: str, message: str) -> None:
    with pytest.raises(InvalidResults, match=message) as raised:
        parse_line(text)
    assert len(str(raised.value)) < 500


def test_what_other_tools_write_is_understood() -> None:
    text = line(epoch_means=[1, 2.5], provenance={"note": "two\nlines", "more": {"a": [1, None, True]}})
    assert parse_line(" " + text + "\r\n")[1].epoch_means == (1.0, 2.5)


def test_random_results_come_back() -> None:
    for text, result in random_results(50):
        line = format_line(ResultKey.parse(text), result)
        parsed, again = parse_line(line)
        assert str(parsed) == text
        assert again.provenance == result.provenance
        assert format_line(parsed, again) == line
