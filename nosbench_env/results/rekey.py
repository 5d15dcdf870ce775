"""Results of an old identity method under the keys of a new one."""

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
from nosbench_env.store import Record, ResultStore, StoredRun

# A program and the name of a task -> the last part of the program's keys, and how its training is known to end; None if
# the task is not known.
IdentityOf = Callable[[Program, str], tuple[str, Status] | None]


@dataclass(slots=True)
class Rekeying:
    """What came of it.

    Attributes:
        records: Results in the store before.
        current: Results that had a key of the new method already, or are not of programs.
        added: Results added under a new key.
        there: Results that had been added under their new key before.
        diverged: Results of programs that diverge under the new method, which are never stored there.
        unknown: Results that can't be rekeyed: they do not say which program was trained, their key has another form,
            or their task is not known here.
        pruned: Old results deleted.
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
    identity_of: IdentityOf,
    *,
    prune: bool = False,
    on_record: Callable[[], None] = lambda: None,
) -> Rekeying:
    """Adds each result under the key that its program has under another identity method.

    Old results stay, unless they are to be pruned; those that have no new key stay in any case. The provenance of a new
    one says under which key it was first, as `rekeyed_from`. Doing it again adds nothing.

    Args:
        store: The store.
        identity_of: Gives the identity of a program under the new method.
        prune: Whether to delete results once they are there under a new key.
        on_record: Called for each result.
    """
    report = Rekeying()
    done: list[int] = []

    @cache
    def method_of(task: str) -> str | None:
        """The new method's name in keys of a task."""
        identity = identity_of(KNOWN_PROGRAMS["SGD"], task)
        return identity and identity[0].partition(":")[0]

    def items() -> Iterator[tuple[str, Record]]:
        last = max((run.id for run in store.runs()), default=0)
        for run in store.runs():
            if run.id > last:  # added below
                return
            on_record()
            report.records += 1
            if (item := _rekeyed(run, identity_of, method_of, report)) is not None:
                done.append(run.id)
                yield item

    report.added = store.add_many(items())
    report.there = len(done) - report.added
    if prune:
        report.pruned = store.delete(done)
    return report


def _rekeyed(
    run: StoredRun, identity_of: IdentityOf, method_of: Callable[[str], str | None], report: Rekeying
) -> tuple[str, Record] | None:
    """The result under its new key; None, and counted, if it has none."""
    try:
        old = ResultKey.parse(run.key)
        if old.method == method_of(old.task):
            report.current += 1
            return None
        program = candidate_from_json(run.record.provenance.get("program"))
    except ValueError:
        report.unknown += 1
        return None
    if not isinstance(program, Program):  # it has one key, whatever tells programs apart
        report.current += 1
        return None
    identity = identity_of(program, old.task)
    if identity is None:
        report.unknown += 1
        return None
    if identity[1] != "ok":
        report.diverged += 1
        return None
    key = str(replace(old, identity=identity[0]))
    provenance: dict[str, Any] = {"rekeyed_from": run.key, **run.record.provenance}
    if provenance["rekeyed_from"] == key:  # there and back
        del provenance["rekeyed_from"]
    return key, replace(run.record, provenance=provenance)
