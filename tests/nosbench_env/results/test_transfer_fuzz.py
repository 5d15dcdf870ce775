"""Mutated files: an import takes valid records alone, or says what is wrong and leaves the store as it is."""

import gzip
import io
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results import full_provenance, key, random_results, record

from nosbench_env import ResultStore
from nosbench_env.results.file_format import InvalidResults, format_line, header, parse_line
from nosbench_env.results.key import ResultKey
from nosbench_env.results.transfer import import_results

NASTY_TEXTS = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "-0.0", "1e-400", "1E5", "01", "1.", ".5", "+1", "0x10"),
    *(
        "9" * 20,
        "9" * 5000,
        "-" + "9" * 19,
        "1" + "0" * 400 + ".0",
        "1e" + "9" * 30,
        "null",
        "true",
        "false",
        "undefined",
    ),
    *("[" * 3000, "[" * 200 + "]" * 200, '{"a":' * 3000, '{"a":' * 50 + "1" + "}" * 50, '"' + "a" * 300_000 + '"'),
    *(
        '"\\ud800"',
        '"\\u0000"',
        '"\u202e"',
        '"\\x"',
        '"',
        "'",
        "{}",
        "[]",
        '""',
        '"nan"',
        '"inf"',
        "[1,]",
        "/**/",
        "\ufeff",
    ),
    *(
        "\n",
        "\r",
        "\0",
        "\n\n",
        '{"__class__": "os"}',
        "!!python/object:os.system",
        '"../../etc/passwd"',
        "c__builtin__",
    ),
]
NASTY_VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**18,
        -(10**18),
        0.0,
        -0.0,
        1e308,
        5e-324,
        1.5,
        "",
        "a",
        "nan",
        "-inf",
    ),
    *("toy", "\x00", "\ud800", "\x1b[2J", "a" * 1000, [], [[]], [1.0], ["nan"] * 30, [None], {}, {"a": {}}, {"": 1}),
    *([[["mul", [1, 6], 9]]], [["mul", [1], 9]], [["add", [1, 10**9], 9]], [["mul", [1, 6], 9]] * 1100, "2026-01-31"),
    *([[[[[[[[[[[]]]]]]]]]]], "pfn-1/seed=0/float32/paper-1:0", 100_000, 99_999, [1.5] * 20_000),
]
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|null|[\[\]{},:]')


def some_file() -> bytes:
    results = [*random_results(3, epochs=4), (key("b"), record(1.5, stopped_at=3, **full_provenance()))]
    results.append((key("c"), record(0.5, first_epoch=19, note={"deep": [1, None, "text"]})))
    lines = [header(len(results)), *(format_line(ResultKey.parse(text), result) for text, result in results)]
    return "".join(f"{line}\n" for line in lines).encode()


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    start, end, place = (rng.randrange(len(data)) for _ in range(3))
    return data[:place] + data[start:end] + data[place + rng.choice((0, rng.randrange(50))) :]


def insert_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + rng.randbytes(rng.randint(1, 20)) + data[place:]


def replace_token(data: bytes, rng: random.Random) -> bytes:
    match = rng.choice(list(TOKEN.finditer(data)))
    text = rng.choice(NASTY_TEXTS).encode("utf-8", "surrogatepass")
    return data[: match.start()] + text + data[match.end() :]


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    first, *rest = lines
    rest[rng.randrange(len(rest))] = rng.choice(lines)
    rng.shuffle(rest)
    return b"".join([first, *rest] if rng.random() < 0.8 else [*rest, first])


def change_value(data: bytes, rng: random.Random) -> bytes:
    """Puts a value of another kind anywhere into a line, or takes a field out, or adds one."""
    lines = data.decode().splitlines()
    number = rng.randrange(len(lines))
    parsed = json.loads(lines[number])
    places = list(containers(parsed))
    container = rng.choice(places)
    value = rng.choice(NASTY_VALUES)
    if isinstance(container, dict):
        name = rng.choice([*container, "extra"])
        if rng.random() < 0.2:
            container.pop(name, None)
        else:
            container[name] = value
    elif container:
        container[rng.randrange(len(container))] = value
    lines[number] = json.dumps(parsed)
    return "".join(f"{line}\n" for line in lines).encode()


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def double_field(data: bytes, rng: random.Random) -> bytes:
    starts = [match.end() for match in re.finditer(rb"\{", data)]
    place = rng.choice(starts)
    return data[:place] + b'"seed": 1, ' + data[place:]


PLAIN = [flip, truncate, splice, insert_bytes, replace_token, swap_lines, change_value, double_field]
COMPRESSED = [flip, truncate, splice, insert_bytes]


def mutated(rng: random.Random) -> bytes:
    data = some_file()
    choice = rng.random()
    if choice < 0.3:
        data = gzip.compress(data, mtime=0)
        mutations: list[Callable[[bytes, random.Random], bytes]] = COMPRESSED
    else:
        mutations = PLAIN
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            data = rng.choice(mutations)(data, rng) or data
        except (ValueError, IndexError, RecursionError):  # nothing left that this mutation needs
            data = flip(data, rng)
    return gzip.compress(data, compresslevel=1) if choice > 0.9 else data


class Target:
    """A store with a result in it, and what may become of it."""

    def __init__(self, path: Path) -> None:
        self.store = ResultStore(path)
        self.store.add(key("a"), record(1.0, 0.5, **full_provenance()))
        self.before = self.contents()
        self.taken = 0
        self.slowest = 0.0

    def contents(self) -> list[str]:
        return [f"{run.id} {run.key} {run.record!r}" for run in self.store.runs()]

    def check(self, data: bytes) -> None:
        started = time.perf_counter()
        report, message = None, ""
        try:
            report = import_results(io.BufferedReader(io.BytesIO(data)), self.store, "fuzzed")
        except InvalidResults as error:
            message = str(error)
        self.slowest = max(self.slowest, time.perf_counter() - started)
        if report is None:
            assert message.startswith("fuzzed")
            assert message.endswith("Nothing was imported")
            assert len(message) < 600
            assert self.contents() == self.before
            return
        self.taken += 1
        assert report.added + report.duplicates == report.records
        assert self.contents()[: len(self.before)] == self.before
        added = list(self.store.runs())[len(self.before) :]
        assert len(added) == report.added
        for run in added:  # valid through and through
            parse_line(format_line(ResultKey.parse(run.key), run.record))
            assert self.store.get(run.key, run.record.first_epoch + 1, last_epoch_only=True) is not None
        self.store.delete(run.id for run in added)


def fuzz(path: Path, count: int, seed: int) -> Target:
    target = Target(path)
    for number in range(count):
        data = mutated(random.Random(seed + number))
        try:
            target.check(data)
        except BaseException:
            print(f"mutation {seed + number}: {data[:2000]!r}")
            raise
    return target


def test_three_hundred_mutations_do_no_harm(tmp_path: Path) -> None:
    target = fuzz(tmp_path / "store.sqlite", 300, seed=0)
    assert 0 < target.taken < 150  # both branches are tested
    assert target.slowest < 5.0


@pytest.mark.slow
def test_ten_thousand_mutations_do_no_harm(tmp_path: Path) -> None:
    target = fuzz(tmp_path / "store.sqlite", 10_000, seed=1_000_000)
    print(f"taken {target.taken}, slowest {target.slowest:.3f} s")
    assert target.slowest < 1.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.dictionaries(st.sampled_from(list(json.loads(some_file().splitlines()[1]))), JSON, max_size=3),
    made=st.dictionaries(st.sampled_from(list(full_provenance())) | st.text(max_size=5), JSON, max_size=3),
)
def test_any_values_in_a_line_do_no_harm(tmp_path: Path, changes: dict[str, Any], made: dict[str, Any]) -> None:
    data = json.loads(format_line(ResultKey.parse(key("b")), record(1.5, 0.5, **full_provenance())))
    data["provenance"] |= made
    text = header(1) + "\n" + json.dumps(data | changes) + "\n"
    Target(tmp_path / f"{random.randrange(2**60)}.sqlite").check(text.encode())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.sampled_from([b"", b"\x1f\x8b\x08", b"\x1f\x8b\x08\x08", header(1).encode() + b"\n"]), rest=st.binary())
def test_any_bytes_do_no_harm(tmp_path: Path, start: bytes, rest: bytes) -> None:
    Target(tmp_path / f"{random.randrange(2**60)}.sqlite").check(start + rest)
