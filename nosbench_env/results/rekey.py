"""Rekeying: copies of old records under keys of a new identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from nosbench_env.candidates.candidate import candidate_from_json
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.program import Program
from nosbench_env.language.status import Status
from nosbench_env.results.key import ResultKey
from nosbench_env.store import Record, ResultStore, StoredRecord

# Maps a program and a task's name to the program's identity value and the known end of its training; to None if the
# task is unknown.
Identify = Callable[[Program, str], tuple[str, Status] | None]


@dataclass(slots=True)
class Rekeying:
    """The counts of a rekeying.

    Attributes:
        records: Records in the store before.
        current: Records that already had a key of the new identity, or are not of programs.
        added: Records added under a new key.
        there: Records added under their new key by an earlier rekeying.
        diverged: Records of programs that diverge under the new identity; they have no key there.
        unknown: Records that can't be rekeyed: without a program, with a key of another form, or of an unknown task.
        pruned: Old records deleted.
    """

    records: int = 0
    current: int = 0
    added: int = 0
    there: int = 0
    diverged: int = 0
    unknown: int = 0
    pruned: int = 0


def rekey(
    store: ResultStore,
    identify: Identify,
    *,
    prune: bool = False,
    on_record: Callable[[], None] = lambda: None,
) -> Rekeying:
    """Adds each record under its program's key of another identity.

    The provenance of an added record names its first key as `rekeyed_from`. Old records stay, unless `prune` is set;
    those without a new key always stay. Repeating the call adds nothing.

    Args:
        store: The store.
        identify: Computes the identity value of a program under the new identity.
        prune: True to delete records that have been added under a new key.
        on_record: Called for each record.
    """
    report = Rekeying()
    done: list[int] = []

    @cache
    def new_identity(task: str) -> str | None:
        """Returns the versioned new identity of a task's keys."""
        identified = identify(KNOWN_PROGRAMS["SGD"], task)
        return identified and identified[0].partition(":")[0]

    def items() -> Iterator[tuple[str, Record]]:
        last = max((stored.id for stored in store.records()), default=0)
        for stored in store.records():
            if stored.id > last:  # added below
                return
            on_record()
            report.records += 1
            if (item := _rekeyed(stored, identify, new_identity, report)) is not None:
                done.append(stored.id)
                yield item

    report.added = store.add_many(items())
    report.there = len(done) - report.added
    if prune:
        report.pruned = store.delete(done)
    return report


def _rekeyed(
    stored: StoredRecord, identify: Identify, new_identity: Callable[[str], str | None], report: Rekeying
) -> tuple[str, Record] | None:
    """Returns the new key and record; counts a record without one."""
    try:
        old = ResultKey.parse(stored.key)
        if old.identity == new_identity(old.task):
            report.current += 1
            return None
        program = candidate_from_json(stored.record.provenance.get("program"))
    except ValueError:
        report.unknown += 1
        return None
    if not isinstance(program, Program):  # its key is the same under every identity
        report.current += 1
        return None
    identified = identify(program, old.task)
    if identified is None:
        report.unknown += 1
        return None
    identity_value, status = identified
    if status != "ok":
        report.diverged += 1
        return None
    key = str(replace(old, identity_value=identity_value))
    provenance: dict[str, Any] = {"rekeyed_from": stored.key, **stored.record.provenance}
    if provenance["rekeyed_from"] == key:  # rekeyed back to its first key
        del provenance["rekeyed_from"]
    return key, replace(stored.record, provenance=provenance)
