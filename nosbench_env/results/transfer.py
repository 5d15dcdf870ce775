"""Transfer of results: export, import of untrusted files, and merging."""

from __future__ import annotations

import gzip
import io
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nosbench_env.results.agreement import largest_difference
from nosbench_env.results.file_format import MAX_LINE, InvalidResults, format_line, header, parse_header, parse_line
from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.store import Record, ResultStore, StoredRecord, StoreError
from nosbench_env.whole_files import whole_file

MAX_BYTES = 4 << 30  # of a whole file, decompressed; enough for three million records of 20 epochs
_GZIP_MAGIC = b"\x1f\x8b"


class Writable(Protocol):
    """An object that takes bytes, such as a binary stream."""

    def write(self, data: bytes, /) -> object:
        """Writes the bytes."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The counts of an export.

    Attributes:
        records: Results written.
        left_out: Results that the format can't hold, so that no import would accept them.
        reason: The reason for the first result left out; empty if there is none.
    """

    records: int
    left_out: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The counts of an import or a merge.

    Attributes:
        records: Results read.
        added: Results added to the store.
        duplicates: Results that equal one of the store or an earlier one of the file.
        disagreeing: Results added that differ in an epoch from a record of the store under the same key. The answers of
            the store do not change; these results are kept beside them.
        largest_difference: The largest of these differences; infinite where only one of the two is finite.
        left_out: In a merge, results that the format of exports can't hold. They are not added.
        reason: The reason for the first result left out; empty if there is none.
    """

    records: int
    added: int
    duplicates: int
    disagreeing: int
    largest_difference: float
    left_out: int = 0
    reason: str = ""


def export_results(
    store: ResultStore,
    target: Path | Writable,
    selection: Selection | None = None,
    *,
    overwrite: bool = False,
    on_record: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Writes the results of a store as JSON lines.

    The format is that of `file_format`; equal stores have equal exports. Lines are sorted by key, and those of one key
    by age, because the oldest answers. The file appears only when it is complete.

    Args:
        store: The store.
        target: A file, gzipped if its name ends with ".gz", or a stream.
        selection: The results to export; all if None.
        overwrite: True to replace an existing file.
        on_record: Called for each record of the store.

    Raises:
        ValueError: If the file exists and `overwrite` is not set, or its folder does not exist, or it is a folder.
        StoreError: If the store can't be read.
    """
    selection = selection or Selection()
    with _staging() as staged:
        for stored in store.records():
            on_record()
            staged.add_stored(stored, selection)
        if isinstance(target, Path):
            with _output_file(target, overwrite) as stream:
                staged.write(stream)
        else:
            staged.write(target)
        return ExportReport(staged.records, staged.left_out, staged.reason)


def import_results(
    source: Path | io.BufferedReader,
    store: ResultStore,
    name: str | None = None,
    *,
    on_record: Callable[[], None] = lambda: None,
) -> ImportReport:
    """Adds the results of an exported file to a store.

    The file is untrusted: it is validated to its end before the first result is added. The answers of the store do not
    change: a result that disagrees with one of them is kept beside it.

    Args:
        source: A file or a stream, gzipped or not.
        store: The store.
        name: The name of the source in messages; its path if None.
        on_record: Called for each record checked.

    Raises:
        InvalidResults: If the file is malformed. The message names the line and the defect; the store is unchanged.
        ValueError: If the file does not exist.
        StoreError: If the store can't be read or written.
    """
    if isinstance(source, Path):
        try:
            with open(source, "rb") as stream:
                return import_results(stream, store, str(source), on_record=on_record)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise ValueError(f"can't read {source}: {error.strerror}") from None
    name = name or "the file"
    with _staging() as staged:
        lines = _lines(source)
        number = 1
        try:
            first = next(lines, None)
            if first is None:
                raise InvalidResults("expected the header of a file of results, got an empty file")
            expected = parse_header(_decode(first, "utf-8-sig"))  # with or without a byte order mark
            number = 2  # set before line 2 is read, which may fail
            while (line := next(lines, None)) is not None:
                staged.add(*parse_line(_decode(line)))
                on_record()
                number += 1
        except InvalidResults as error:
            raise InvalidResults(f"{name}, line {number}: {error}. Nothing was imported") from None
        if expected not in (None, staged.records):
            raise InvalidResults(
                f"{name}: the header announces {expected:,} records, but the file has {staged.records:,}; "
                "it may be cut short. Nothing was imported"
            )
        return staged.pour(store)


def merge_stores(
    others: Sequence[ResultStore], store: ResultStore, *, on_record: Callable[[], None] = lambda: None
) -> ImportReport:
    """Adds the results of other stores to a store.

    The other stores are not changed, and their results are validated as those of a file are. Results that the format of
    exports can't hold, such as those under keys of another form, are left out.

    Args:
        others: The other stores, in the order of their precedence where they disagree.
        store: The store.
        on_record: Called for each record checked.

    Raises:
        ValueError: If one of the other stores is the store itself.
        StoreError: If a store can't be read or written.
    """
    for other in others:
        if other.url == store.url or (other.path and store.path and _same_file(other.path, store.path)):
            raise ValueError(f"the store {other.location} can't be merged with itself; name another one")
    with _staging() as staged:
        for other in others:
            for stored in other.records():
                on_record()
                staged.add_stored(stored, Selection())
        return staged.pour(store)


class _Staged:
    """Validated results in a temporary database, which fits millions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.records = self.left_out = 0
        self.reason = ""
        columns = "id INTEGER PRIMARY KEY, task, task_version, seed, arithmetic, identity_value, key, line"
        connection.execute(f"CREATE TABLE staged ({columns})")

    def add(self, key: ResultKey, record: Record) -> None:
        line = format_line(key, record)
        row = (key.task, key.task_version, key.seed, key.arithmetic, key.identity_value, str(key), line)
        self._connection.execute("INSERT INTO staged VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
        self.records += 1

    def add_stored(self, stored: StoredRecord, selection: Selection) -> None:
        """Adds a selected result that an import would accept."""
        try:
            key = ResultKey.parse(stored.key)
            if selection.matches(key, stored.record.provenance):
                line = format_line(key, stored.record)
                if len(line) > MAX_LINE:
                    raise InvalidResults(f"its line would have {len(line):,} characters, more than {MAX_LINE:,}")
                parse_line(line)
                self.add(key, stored.record)
        except (ValueError, RecursionError) as error:
            self.left_out += 1
            self.reason = self.reason or f"record {stored.id} under {stored.key[:200]!r}: {error}"

    def write(self, stream: Writable) -> None:
        stream.write(f"{header(self.records)}\n".encode())
        order = "task, task_version, seed, arithmetic, identity_value, id"
        for (line,) in self._connection.execute(f"SELECT line FROM staged ORDER BY {order}"):
            stream.write(f"{line}\n".encode())

    def pour(self, store: ResultStore) -> ImportReport:
        """Adds all staged results to a store."""
        self._connection.execute("CREATE INDEX staged_keys ON staged (key)")
        held: set[int] = set()
        differing: dict[int, float] = {}
        for stored in store.records():
            rows = self._connection.execute("SELECT id, line FROM staged WHERE key = ?", (stored.key,)).fetchall()
            for row, line in rows:
                if line == _line_or_none(stored):
                    held.add(row)
                elif difference := largest_difference(parse_line(line)[1], stored.record):
                    differing[row] = max(difference, differing.get(row, 0.0))
        added = store.add_many(self._items())
        differences = [difference for row, difference in differing.items() if row not in held]
        return ImportReport(
            records=self.records,
            added=added,
            duplicates=self.records - added,
            disagreeing=len(differences),
            largest_difference=max(differences, default=0.0),
            left_out=self.left_out,
            reason=self.reason,
        )

    def _items(self) -> Iterator[tuple[str, Record]]:
        for key, line in self._connection.execute("SELECT key, line FROM staged ORDER BY id"):
            yield key, parse_line(line)[1]


def _line_or_none(stored: StoredRecord) -> str | None:
    """Returns a record as a line, if the format can hold it."""
    try:
        return format_line(ResultKey.parse(stored.key), stored.record)
    except (ValueError, RecursionError):
        return None


@contextmanager
def _staging() -> Iterator[_Staged]:
    # A database without a name is a temporary file, deleted when it is closed or the process dies.
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("BEGIN")
        try:
            yield _Staged(connection)
        except sqlite3.Error as error:
            raise StoreError(
                f"can't write results to a temporary file: {error}. Free some space in the folder for temporary files, "
                "or name another folder with the environment variable SQLITE_TMPDIR"
            ) from error


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Yields a file's decompressed lines, one in memory at a time."""
    compressed = stream.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
    plain = gzip.GzipFile(fileobj=stream) if compressed else stream
    total = 0
    while True:
        try:
            line = plain.readline(MAX_LINE + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InvalidResults(f"the compressed data are damaged or cut short ({error})") from None
        if not line:
            return
        total += len(line)
        if len(line) > MAX_LINE:
            raise InvalidResults(f"the line is longer than {MAX_LINE:,} bytes")
        if total > MAX_BYTES:
            raise InvalidResults(f"the file is longer than {MAX_BYTES:,} bytes, decompressed; split it")
        yield line


def _decode(line: bytes, encoding: str = "utf-8") -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidResults(f"the line is not UTF-8 text ({error.reason} at byte {error.start})") from None


@contextmanager
def _output_file(path: Path, overwrite: bool) -> Iterator[Writable]:
    """Opens a file to write as a whole, gzipped if named ".gz"."""
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.is_dir():
        raise ValueError(f"can't write {path}: it is a folder")
    if target.is_file() and not overwrite:
        raise ValueError(f"{path} exists; --overwrite replaces it")
    if target.exists() and not target.is_file():  # a pipe or a device
        with open(target, "wb") as stream:
            yield stream
        return
    try:
        with whole_file(target) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
                    yield compressed
            else:
                yield file
    except FileNotFoundError as error:
        raise ValueError(f"can't write {path}: the folder {target.parent} does not exist") from error


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
