"""Pruning of a store by task, identity or version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.results.survey import Group
from nosbench_env.store import ResultStore


@dataclass(slots=True)
class Pruning:
    """The records to delete and those that remain.

    Attributes:
        chosen: The number of records to delete, by group.
        remaining: The number of records that stay, by group.
        other_keys: The number of records under keys of another form; they stay.
        ids: The ids of the records to delete.
    """

    chosen: Counter[Group] = field(default_factory=Counter)
    remaining: Counter[Group] = field(default_factory=Counter)
    other_keys: int = 0
    ids: list[int] = field(default_factory=list)


def plan_pruning(store: ResultStore, selection: Selection, on_record: Callable[[], None] = lambda: None) -> Pruning:
    """Finds the selected records without deleting them; `store.delete(plan.ids)` deletes them.

    Raises:
        ValueError: If the selection is empty, which would select all records.
    """
    if selection == Selection():
        raise ValueError("nothing is selected to prune: name an identity, a task or a version of nosbench_env")
    plan = Pruning()
    for stored in store.records():
        on_record()
        try:
            key = ResultKey.parse(stored.key)
        except ValueError:
            plan.other_keys += 1
            continue
        if selection.matches(key, stored.record.provenance):
            plan.chosen[Group.of(key)] += 1
            plan.ids.append(stored.id)
        else:
            plan.remaining[Group.of(key)] += 1
    return plan
