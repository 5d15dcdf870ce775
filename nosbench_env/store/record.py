"""`Record`: the result of a training, and its row in the database."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_END = 2**31  # of the integers that every database can hold


@dataclass(frozen=True, slots=True)
class Record:
    """The result of a training.

    Attributes:
        epoch_means: The mean loss of each epoch from `first_epoch` on.
        stopped_at: The number of updates until a parameter was not finite, or None; see `Curve`.
        provenance: JSON data: the program as asked, device, versions, seconds, date.
        first_epoch: The epoch of `epoch_means[0]`; not 0 if only the last epochs are known.
    """

    epoch_means: tuple[float, ...]
    stopped_at: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    first_epoch: int = 0


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record in a store.

    Attributes:
        id: Its number in that store; later records have greater ones.
        key: Its key.
        record: The record.
    """

    id: int
    key: str
    record: Record


def answer_of(records: Iterable[Record], epochs: int, last_epoch_only: bool) -> Record | None:
    """Combines the records of a key to one of `epochs` epochs.

    The records come in order, the oldest first. Each epoch's mean is from the oldest record that holds it; see
    `ResultStore.get`.

    Returns:
        The combined record; None if the records do not cover the epochs.
    """
    means: dict[int, float] = {}
    last: Record | None = None  # the oldest that holds the last epoch
    for record in records:
        held = dict(enumerate(record.epoch_means, start=record.first_epoch))
        if record.stopped_at is not None:
            held |= dict.fromkeys(range(record.first_epoch + len(record.epoch_means), epochs), math.nan)
        means = held | means
        if last is None and epochs - 1 in held:
            last = record
        if last is not None and all(epoch in means for epoch in range(epochs)):
            return replace(last, epoch_means=tuple(means[epoch] for epoch in range(epochs)), first_epoch=0)
    if last is None or not last_epoch_only:
        return None
    return replace(last, epoch_means=(means[epochs - 1],), first_epoch=epochs - 1)


def row_of(key: str, record: Record) -> dict[str, Any]:
    """Returns a record as a row of the table.

    Raises:
        ValueError: If the row could not be read again.
    """
    means = [float(mean) for mean in record.epoch_means]
    row = {
        "key": check_text("key", key),
        "epoch_means": json.dumps([mean if math.isfinite(mean) else repr(mean) for mean in means]),
        "stopped_at": record.stopped_at,
        "provenance": json.dumps(dict(record.provenance), allow_nan=False),
        "first_epoch": record.first_epoch,
    }
    try:
        record_of(row)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"a store can't hold this record: {error}") from error
    return row | {"checksum": checksum(row)}


def record_of(row: Mapping[Any, Any]) -> Record:
    """Parses a row, which may hold anything.

    Raises:
        ValueError, TypeError, RecursionError: If the row is not a record.
    """
    means = tuple(_decode_float(mean) for mean in json.loads(row["epoch_means"]))
    provenance = json.loads(row["provenance"])
    seconds = provenance.get("seconds", 0.0) if isinstance(provenance, dict) else None
    if not means or not isinstance(seconds, (int, float)):
        raise ValueError("expected epoch means and a provenance")
    stopped_at, first_epoch = row["stopped_at"], row["first_epoch"]
    if stopped_at is not None and not (isinstance(stopped_at, int) and 1 <= stopped_at < _END):
        raise ValueError(f"expected a number of updates, got {stopped_at!r}")
    if not (isinstance(first_epoch, int) and 0 <= first_epoch < _END):
        raise ValueError(f"expected the number of an epoch, got {first_epoch!r}")
    return Record(means, stopped_at, provenance, first_epoch)


def contents(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Returns the contents of a row, equal for equal records."""
    try:
        provenance = json.dumps(json.loads(row["provenance"]), sort_keys=True)
    except (ValueError, TypeError, RecursionError):  # damaged
        provenance = row["provenance"]
    return row["key"], row["epoch_means"], row["stopped_at"], row["first_epoch"], provenance


def checksum(row: Mapping[Any, Any]) -> int:
    """Computes the checksum of a row's other columns."""
    fields = (row["key"], row["epoch_means"], row["stopped_at"], row["provenance"], row["first_epoch"])
    return zlib.crc32("\n".join(map(str, fields)).encode())


def alias_row(alias: str, key: str) -> dict[str, Any]:
    """Returns an alias as a row of the table."""
    row = {"alias": check_text("alias", alias), "key": check_text("key", key)}
    return row | {"checksum": alias_checksum(alias, key)}


def alias_checksum(alias: str, key: str) -> int:
    """Computes the checksum of an alias and its key."""
    return zlib.crc32(f"{alias}\n{key}".encode())


def check_text(name: str, value: str) -> str:
    """Raises a ValueError for text that some database can't hold."""
    if not isinstance(value, str) or not value or "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(
            f"{name} must be a non-empty text without null characters and unpaired surrogates, got {value!r}"
        )
    return value


def _decode_float(value: Any) -> float:
    if value in ("nan", "inf", "-inf") or (isinstance(value, float) and math.isfinite(value)):
        return float(value)
    raise ValueError(f"expected a number, got {value!r}")
