"""Results from store to store: export to a file, import from a file that nobody trusts, merging of stores."""

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
from nosbench_env.store import Record, ResultStore, StoredRun, StoreError

MAX_BYTES = 4 << 30  # of a whole file, after decompression; some three million records of 20 epochs
_GZIP_MAGIC = b"\x1f\x8b"

Tick = Callable[[], None]


def _no_tick() -> None:
    pass


class Writable(Protocol):
    """What takes bytes, such as a binary stream."""

    def write(self, data: bytes, /) -> object:
        """Writes them."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        records: Results written.
        left_out: Results that have no place in the format, and so would not be imported anywhere.
        reason: Why the first of these is left out; empty if there is none.
    """

    records: int
    left_out: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What came of an import or a merge.

    Attributes:
        records: Results read.
        added: Results added to the store.
        duplicates: Results that the store, or the file before them, held exactly.
        disagreeing: Results added that differ, in an epoch, from what the store already held for their key. The store
            goes on answering as before; they are kept beside it.
        largest_difference: The largest of these differences; infinite where only one of the two is finite.
        left_out: In a merge, results that have no place in the format of exports, and so are not taken over.
        reason: Why the first of these is left out; empty if there is none.
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
    on_record: Tick = _no_tick,
) -> ExportReport:
    """Writes the results of a store as JSON lines (see `portable`), the same text for the same results.

    Lines are sorted by key, and under one key in the order in which the results came, which decides which of them
    answers. The file is there whole or not at all.

    Args:
        store: The store.
        target: A file, gzipped if its name ends with ".gz", or a stream.
        selection: Which results; all if None.
        overwrite: Whether to replace the file if it is there.
        on_record: Called for each record of the store.

    Raises:
        ValueError: If the file is there and not to be replaced, or can't be a file.
        StoreError: If the store can't be read.
    """
    selection = selection or Selection()
    with _staging() as staged:
        for run in store.runs():
            on_record()
            staged.add_run(run, selection)
        if isinstance(target, Path):
            with _whole_file(target, overwrite) as stream:
                staged.write(stream)
        else:
            staged.write(target)
        return ExportReport(staged.records, staged.left_out, staged.reason)


def import_results(
    source: Path | io.BufferedReader, store: ResultStore, name: str | None = None, *, on_record: Tick = _no_tick
) -> ImportReport:
    """Adds the results of an exported file to a store.

    The file is hostile until it is read to its end and found right; only then the first result is added. What the
    store answers it goes on answering: a result that disagrees is kept beside the one that is there.

    Args:
        source: A file or a stream, gzipped or not.
        store: The store.
        name: What messages call the source; its path if None.
        on_record: Called for each record checked.

    Raises:
        InvalidResults: Naming the line and what is wrong with it. The store is untouched.
        ValueError: If there is no such file.
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
            number = 2  # also while line 2 is being read, which may fail
            while (line := next(lines, None)) is not None:
                staged.add(*parse_line(_decode(line)))
                on_record()
                number += 1
        except InvalidResults as error:
            raise InvalidResults(f"{name}, line {number}: {error}. Nothing was imported") from None
        if expected not in (None, staged.records):
            raise InvalidResults(
                f"{name}: the header speaks of {expected:,} records, the file holds {staged.records:,}; "
                "it may be cut short. Nothing was imported"
            )
        return staged.pour(store)


def merge_stores(others: Sequence[ResultStore], store: ResultStore, *, on_record: Tick = _no_tick) -> ImportReport:
    """Adds the results of other stores to a store; they are checked like those of a file, and not changed.

    Results that have no place in the format of exports, such as those under keys of another form, are left out.

    Args:
        others: The other stores, in the order of their precedence where they disagree.
        store: The store.
        on_record: Called for each record checked.

    Raises:
        ValueError: If a store is to be merged with itself.
        StoreError: If a store can't be read or written.
    """
    for other in others:
        if other.url == store.url or (other.path and store.path and _same_file(other.path, store.path)):
            raise ValueError(f"the store {other.location} can't be merged with itself; name another one")
    with _staging() as staged:
        for other in others:
            for run in other.runs():
                on_record()
                staged.add_run(run, Selection())
        return staged.pour(store)


class _Staged:
    """Results that have been checked, in a temporary database on disk, so that there may be millions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.records = self.left_out = 0
        self.reason = ""
        columns = "id INTEGER PRIMARY KEY, task, task_version, seed, arithmetic, identity, key, line"
        connection.execute(f"CREATE TABLE staged ({columns})")

    def add(self, key: ResultKey, record: Record) -> None:
        line = format_line(key, record)
        row = (key.task, key.task_version, key.seed, key.arithmetic, key.identity, str(key), line)
        self._connection.execute("INSERT INTO staged VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
        self.records += 1

    def add_run(self, run: StoredRun, selection: Selection) -> None:
        """Adds a result of a store if it is selected and an import would take it."""
        try:
            key = ResultKey.parse(run.key)
            if selection.matches(key, run.record.provenance):
                line = format_line(key, run.record)
                if len(line) > MAX_LINE:
                    raise InvalidResults(f"it would take a line of {len(line):,} characters")
                parse_line(line)
                self.add(key, run.record)
        except (ValueError, RecursionError) as error:
            self.left_out += 1
            self.reason = self.reason or f"record {run.id} under {run.key[:200]!r}: {error}"

    def write(self, stream: Writable) -> None:
        stream.write(f"{header(self.records)}\n".encode())
        order = "task, task_version, seed, arithmetic, identity, id"
        for (line,) in self._connection.execute(f"SELECT line FROM staged ORDER BY {order}"):
            stream.write(f"{line}\n".encode())

    def pour(self, store: ResultStore) -> ImportReport:
        """Adds all to a store."""
        self._connection.execute("CREATE INDEX staged_keys ON staged (key)")
        held: set[int] = set()
        differing: dict[int, float] = {}
        for run in store.runs():
            rows = self._connection.execute("SELECT id, line FROM staged WHERE key = ?", (run.key,)).fetchall()
            for row, line in rows:
                if line == _line_or_none(run):
                    held.add(row)
                elif found := largest_difference(parse_line(line)[1], run.record):
                    differing[row] = max(found, differing.get(row, 0.0))
        added = store.add_many(self._items())
        differences = [found for row, found in differing.items() if row not in held]
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


def _line_or_none(run: StoredRun) -> str | None:
    """The record as a line; None if it has none, as no import would take it."""
    try:
        return format_line(ResultKey.parse(run.key), run.record)
    except (ValueError, RecursionError):
        return None


@contextmanager
def _staging() -> Iterator[_Staged]:
    # A database without a name is a temporary file, gone when it is closed or the process dies.
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("BEGIN")
        try:
            yield _Staged(connection)
        except sqlite3.Error as error:
            raise StoreError(
                f"can't keep results in a temporary file: {error}. Free some space in the folder for temporary files, "
                "or name another with the environment variable SQLITE_TMPDIR"
            ) from error


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """The lines of a file, decompressed if need be, never more than one of them in memory."""
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
            raise InvalidResults(f"a line has at most {MAX_LINE:,} bytes")
        if total > MAX_BYTES:
            raise InvalidResults(f"a file has at most {MAX_BYTES:,} bytes, decompressed; split it")
        yield line


def _decode(line: bytes, encoding: str = "utf-8") -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidResults(f"no text in UTF-8 ({error.reason} at byte {error.start})") from None


@contextmanager
def _whole_file(path: Path, overwrite: bool) -> Iterator[Writable]:
    """A file for writing that appears under its name when it is complete, and not at all if something goes wrong."""
    target = Path(os.path.realpath(path))  # a link stays a link
    if target.is_dir():
        raise ValueError(f"can't write {path}: it is a folder")
    if target.is_file() and not overwrite:
        raise ValueError(f"{path} exists; --overwrite replaces it")
    if target.exists() and not target.is_file():  # a pipe or a device
        with open(target, "wb") as stream:
            yield stream
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "xb") as file:
            if path.suffix == ".gz":
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
                    yield compressed
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except FileNotFoundError as error:
        raise ValueError(f"can't write {path}: the folder {target.parent} does not exist") from error
    finally:
        temporary.unlink(missing_ok=True)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
