"""Mutated files, of which an import adds only valid records."""

import gzip
import io
import json
import math
import random
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from results import full_provenance, key, random_results, record

from nosbench_env import ResultStore
from nosbench_env.results.file_format import FIELDS, InvalidResults, format_line, header, parse_line
from nosbench_env.results.key import ResultKey
from nosbench_env.results.transfer import import_results

# The work of an import grows with the file's size alone: function calls for any file, and for each byte.
FEW_CALLS, MANY_CALLS = 5_000, 5.0

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
    """Replaces a value in a line by any other, removes a field, or adds one."""
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
    """A store with one result, and checks of an import into it.

    Attributes:
        checked: The number of files.
        taken: The number of files imported.
        calls_per_byte: The largest number of function calls per byte of a file, decompressed, beyond `FEW_CALLS`.
    """

    def __init__(self, path: Path) -> None:
        self.store = ResultStore(path)
        self.store.add(key("a"), record(1.0, 0.5, **full_provenance()))
        self.before = self.contents()
        self.checked = self.taken = 0
        self.calls_per_byte = 0.0

    def contents(self) -> list[str]:
        return [f"{stored.id} {stored.key} {stored.record!r}" for stored in self.store.records()]

    def check(self, data: bytes) -> None:
        self.checked += 1
        report, message = None, ""
        with counted_calls() as calls:
            try:
                report = import_results(io.BufferedReader(io.BytesIO(data)), self.store, "fuzzed")
            except InvalidResults as error:
                message = str(error)
        self.calls_per_byte = max(self.calls_per_byte, (len(calls) - FEW_CALLS) / (1 + plain_size(data)))
        if report is None:
            assert message.startswith("fuzzed")
            assert message.endswith("Nothing was imported")
            assert len(message) < 600
            assert self.contents() == self.before
            return
        self.taken += 1
        assert report.added + report.duplicates == report.records
        assert self.contents()[: len(self.before)] == self.before
        added = list(self.store.records())[len(self.before) :]
        assert len(added) == report.added
        for stored in added:  # valid through and through
            parse_line(format_line(ResultKey.parse(stored.key), stored.record))
            assert self.store.get(stored.key, stored.record.first_epoch + 1, last_epoch_only=True) is not None
        self.store.delete(stored.id for stored in added)


def plain_size(data: bytes) -> int:
    """Returns the size of a file, decompressed as far as possible."""
    if not data.startswith(b"\x1f\x8b"):
        return len(data)
    decompressor, size = zlib.decompressobj(wbits=31), 0
    with suppress(zlib.error):
        for byte in data:
            size += len(decompressor.decompress(bytes([byte])))
    return size


@contextmanager
def counted_calls() -> Iterator[list[None]]:
    """Yields a list that grows with each call of a function, of Python or C."""
    calls: list[None] = []
    sys.setprofile(lambda frame, event, argument: calls.append(None) if event.endswith("call") else None)
    try:
        yield calls
    finally:
        sys.setprofile(None)


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
    assert 0 < target.taken < target.checked / 2  # both branches are tested
    assert target.calls_per_byte < MANY_CALLS


@pytest.mark.slow
def test_ten_thousand_mutations_do_no_harm(tmp_path: Path) -> None:
    target = fuzz(tmp_path / "store.sqlite", 10_000, seed=1_000_000)
    print(f"taken {target.taken}, {target.calls_per_byte:.3f} calls per byte")
    assert target.checked == 10_000
    assert 0 < target.taken < target.checked / 2
    assert target.calls_per_byte < MANY_CALLS


def test_any_values_in_a_line_do_no_harm(tmp_path: Path) -> None:
    target = Target(tmp_path / "store.sqlite")
    numbers = st.floats().map(lambda value: value if math.isfinite(value) else repr(value))
    fields = {
        "task": st.from_regex("[a-z]{1,9}", fullmatch=True),
        "task_version": st.integers(0, 99),
        "seed": st.integers(0, 1_000_000),
        "first_epoch": st.integers(0, 1000),
        "stopped_at": st.none() | st.integers(1, 1000),
        "epoch_means": st.lists(numbers, min_size=1, max_size=5),
    }
    plain = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=5)

    @settings(max_examples=150, derandomize=True)
    @given(
        valid=st.fixed_dictionaries({}, optional=fields),
        notes=st.dictionaries(plain.filter(lambda name: name not in full_provenance()), JSON, max_size=2),
        wrong=st.just({}) | st.dictionaries(st.sampled_from(list(FIELDS)), JSON, max_size=2),
        wrong_provenance=st.just({}) | st.dictionaries(st.sampled_from(list(full_provenance())), JSON, max_size=2),
    )
    def check(
        valid: dict[str, Any], notes: dict[str, Any], wrong: dict[str, Any], wrong_provenance: dict[str, Any]
    ) -> None:
        data = json.loads(format_line(ResultKey.parse(key("b")), record(1.5, 0.5, **full_provenance())))
        data["provenance"] |= notes | wrong_provenance
        target.check(f"{header(1)}\n{json.dumps(data | valid | wrong)}\n".encode())

    check()
    assert target.checked / 10 < target.taken < target.checked * 9 / 10


def test_any_bytes_do_no_harm(tmp_path: Path) -> None:
    target = Target(tmp_path / "store.sqlite")
    data = some_file()
    starts = [b"", b"\x1f\x8b\x08", b"\x1f\x8b\x08\x08", header(1).encode() + b"\n"]

    @settings(max_examples=150, derandomize=True)
    @given(st.sampled_from(starts), st.binary(), st.none() | st.integers(0, len(data)))
    def check(start: bytes, rest: bytes, place: int | None) -> None:
        """Checks a file of any bytes, or a valid one with any bytes in it."""
        target.check(start + rest if place is None else data[:place] + rest + data[place:])

    check()
    assert 0 < target.taken < target.checked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
