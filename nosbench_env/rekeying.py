"""Results of an old identity method under the keys of a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from nosbench_env.known_programs import KNOWN_PROGRAMS
from nosbench_env.program import Program
from nosbench_env.result_key import ResultKey
from nosbench_env.store import Record, ResultStore, StoredRun

IdentityOf = Callable[[Program, str], str]  # a program and the name of a method -> "method-version:value"

_DIVERGED = ("nan", "inf")  # values of identities, as `Status` has them: such programs are not trained


@dataclass(slots=True)
class Rekeying:
    """What came of it.

    Attributes:
        method: The new identity method, with its version.
        records: Results in the store before.
        current: Results that had a key of the new method already.
        added: Results added under a new key.
        there: Results that had been added under their new key before.
        diverged: Results of programs that diverge under the new method, which have no key there.
        without_program: Results that do not say which program was trained, or under keys of another form.
        pruned: Old results deleted.
    """

    method: str
    records: int = 0
    current: int = 0
    added: int = 0
    there: int = 0
    diverged: int = 0
    without_program: int = 0
    pruned: int = 0


def rekey(
    store: ResultStore,
    method: str,
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
        method: The name of the new method.
        identity_of: Gives the identity of a program under a method.
        prune: Whether to delete results once they are there under a new key.
        on_record: Called for each result.

    Raises:
        ValueError: If the method is unknown.
    """
    report = Rekeying(identity_of(KNOWN_PROGRAMS["SGD"], method).partition(":")[0])
    done: list[int] = []

    def items() -> Iterator[tuple[str, Record]]:
        last = max((run.id for run in store.runs()), default=0)
        for run in store.runs():
            if run.id > last:  # added below
                return
            on_record()
            report.records += 1
            if (item := _rekeyed(run, method, identity_of, report)) is not None:
                done.append(run.id)
                yield item

    report.added = store.add_many(items())
    report.there = len(done) - report.added
    if prune:
        report.pruned = store.delete(done)
    return report


def _rekeyed(run: StoredRun, method: str, identity_of: IdentityOf, report: Rekeying) -> tuple[str, Record] | None:
    """The result under its new key; None, and counted, if it has none."""
    try:
        old = ResultKey.parse(run.key)
        if old.method == report.method:
            report.current += 1
            return None
        program = Program.from_json(run.record.provenance.get("program"))
    except ValueError:
        report.without_program += 1
        return None
    identity = identity_of(program, method)
    if identity.partition(":")[2] in _DIVERGED:
        report.diverged += 1
        return None
    key = str(replace(old, identity=identity))
    provenance: dict[str, Any] = {"rekeyed_from": run.key, **run.record.provenance}
    if provenance["rekeyed_from"] == key:  # there and back
        del provenance["rekeyed_from"]
    return key, replace(run.record, provenance=provenance)
