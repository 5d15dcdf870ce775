"""A search run's history: a line of `history.jsonl` per query."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, get_args

from nosbench_env.candidates.candidate import Candidate, Evaluated, candidate_from_json
from nosbench_env.evaluation import Evaluation, Source
from nosbench_env.language.status import Status

SOURCES: tuple[Source, ...] = get_args(Source)


class RunError(ValueError):
    """A run folder that can't be used.

    It belongs to another configuration, is in use, or is damaged. No finished query in it is lost.
    """


_LONGEST_SHOWN = 80  # characters


@dataclass(frozen=True, slots=True)
class HistoryEntry(Generic[Evaluated]):
    """A query of a run, stored as a line of `history.jsonl`.

    Attributes:
        number: The query's number in the run, counted from 1.
        batch: The number of its batch, counted from 1. The queries of a batch were asked for together.
        asked: The size of its batch.
        program: The program or optimizer asked for.
        status: "ok", "nan" or "inf".
        loss: The loss; None if it is not finite.
        key: Key of the result in the store.
        hit: True if it was answered without training.
        source: "trained", "store", "shipped" or "probe"; see `Evaluation`.
        seconds: Wall time of the batch, divided by its size.
        new: True if no earlier query of the run had this key.
        simulated_seconds: Cost of the run up to and including this query; see `Budget`.
    """

    number: int
    batch: int
    asked: int
    program: Evaluated
    status: Status
    loss: float | None
    key: str
    hit: bool
    source: Source
    seconds: float
    new: bool
    simulated_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as JSON data."""
        return {name: getattr(self, name) for name in _FIELDS} | {"program": self.program.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HistoryEntry[Any]:
        """Reads the data that `to_json` gives.

        Raises:
            ValueError: If a field is missing, unknown or of the wrong type, or fields contradict each other.
        """
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, got {reprlib.repr(data)}")
        if wrong := sorted(data.keys() ^ set(_FIELDS)):
            raise ValueError(f"the field {reprlib.repr(wrong[0])} is {'unknown' if wrong[0] in data else 'missing'}")
        for name, kinds in _FIELD_TYPES.items():
            if not isinstance(data[name], kinds):
                raise ValueError(f"{name} is {reprlib.repr(data[name])}")
        entry: HistoryEntry[Candidate] = HistoryEntry(**(data | {"program": candidate_from_json(data["program"])}))
        if entry.loss is not None and not math.isfinite(entry.loss):
            raise ValueError(f"loss is {entry.loss!r}")
        if entry.status not in ("ok", "nan", "inf") or (entry.loss is None) == (entry.status == "ok"):
            raise ValueError(f"status {reprlib.repr(entry.status)} and loss {entry.loss!r} contradict each other")
        if entry.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {reprlib.repr(entry.source)}")
        if entry.hit != (entry.source != "trained"):
            raise ValueError(f"hit {entry.hit} and source {entry.source!r} contradict each other")
        return entry


_FIELDS = tuple(field.name for field in fields(HistoryEntry))
_FIELD_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "number": int,
    "batch": int,
    "asked": int,
    "status": str,
    "loss": (float, int, type(None)),
    "key": str,
    "hit": bool,
    "source": str,
    "seconds": (float, int),
    "new": bool,
    "simulated_seconds": (float, int),
}


@dataclass(slots=True)
class SearchResult(Generic[Evaluated]):
    """The totals of a run, so far or at its end.

    Attributes:
        best: The query with the lowest loss; None if no loss was finite.
        queries: Queries done.
        distinct: Programs new to the run.
        trained: Trainings done.
        simulated_seconds: See `Budget`.
        reference: The evaluation of the reference program, if one was named.
    """

    best: HistoryEntry[Evaluated] | None = None
    queries: int = 0
    distinct: int = 0
    trained: int = 0
    simulated_seconds: float = 0.0
    reference: Evaluation | None = None
    _keys: set[str] = field(default_factory=set, repr=False)

    def is_new(self, key: str) -> bool:
        """Returns True if no query of the run had this key."""
        return key not in self._keys

    def add(self, entry: HistoryEntry[Any]) -> None:
        """Counts a query."""
        self.queries += 1
        self.distinct += entry.new
        self.trained += not entry.hit
        self.simulated_seconds = entry.simulated_seconds
        self._keys.add(entry.key)
        if entry.loss is not None and (self.best is None or self.best.loss is None or entry.loss < self.best.loss):
            self.best = entry


@dataclass(frozen=True, slots=True)
class History:
    """The finished queries of a run.

    Attributes:
        entries: All queries of complete batches, in order.
        size: The bytes of the file that hold them.
        torn: True if more bytes follow: a line or a batch is incomplete, since it is being written or was cut short.
    """

    entries: list[HistoryEntry[Any]]
    size: int
    torn: bool


def read_history(path: Path) -> History:
    """Reads and checks a `history.jsonl`, unchanged; a missing one is empty.

    Raises:
        RunError: If the file can't be read or a line is damaged. The message names the file and the line.
    """
    data = read_bytes(path) if path.exists() else b""
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    entries: list[HistoryEntry[Any]] = []
    totals: SearchResult[Any] = SearchResult()
    for number, line in enumerate(lines, start=1):
        try:
            entry = HistoryEntry.from_json(strict_json(line))
            _check_order(entry, totals)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise RunError(f"{path}, line {number}, is damaged: {shown(str(error), 300)}") from error
        totals.add(entry)
        entries.append(entry)
    last_batch = [entry for entry in entries if entry.batch == entries[-1].batch]
    if last_batch and len(last_batch) < last_batch[0].asked:
        del entries[-len(last_batch) :]
    size = sum(map(len, lines[: len(entries)]))
    return History(entries, size, torn=size < len(data))


def count_queries(path: Path) -> int:
    """Counts complete lines of a `history.jsonl`, unchecked; 0 if missing.

    Raises:
        RunError: If the file can't be read.
    """
    return read_bytes(path).count(b"\n") if path.exists() else 0


def shown(text: str, longest: int = _LONGEST_SHOWN) -> str:
    """Returns untrusted text as one short line without control characters."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _check_order(entry: HistoryEntry[Any], before: SearchResult[Any]) -> None:
    """Checks an entry against the totals of the entries before it."""
    if entry.number != before.queries + 1:
        raise ValueError(f"it is query {entry.number}, where query {before.queries + 1} should be")
    if entry.new != before.is_new(entry.key):
        raise ValueError(f"new is {entry.new}, but the key is {'that of an earlier query' if entry.new else 'new'}")
    spent = before.simulated_seconds
    if not math.isfinite(entry.simulated_seconds) or entry.simulated_seconds < spent:
        raise ValueError(f"simulated_seconds must not be less than before ({spent}), got {entry.simulated_seconds}")


def strict_json(data: bytes) -> Any:
    """Reads JSON data without NaN, infinity, or repeated names in objects.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("an object has a name twice")
        return dict(pairs)

    return json.loads(data, parse_constant=refuse, object_pairs_hook=unique)


def read_bytes(path: Path) -> bytes:
    """Reads a file of a run.

    Raises:
        RunError: If it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror or error}") from error
