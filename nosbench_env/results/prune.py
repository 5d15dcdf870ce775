"""Taking results out of a store: those of an old version, of a task or of an identity that is no longer wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.results.survey import Group
from nosbench_env.store import ResultStore


@dataclass(slots=True)
class Pruning:
    """What is to go, and what remains.

    Attributes:
        chosen: Results to go, of each group.
        remaining: Results that stay, of each group.
        other_keys: Results under keys of another form; they stay.
        ids: The numbers of the results to go.
    """

    chosen: Counter[Group] = field(default_factory=Counter)
    remaining: Counter[Group] = field(default_factory=Counter)
    other_keys: int = 0
    ids: list[int] = field(default_factory=list)


def plan_pruning(store: ResultStore, selection: Selection, on_record: Callable[[], None] = lambda: None) -> Pruning:
    """Finds the results that a selection names; deletes nothing. `store.delete(plan.ids)` does.

    Raises:
        ValueError: If the selection names everything.
    """
    if selection == Selection():
        raise ValueError("say what to prune: an identity method, a task or a version of nosbench_env")
    plan = Pruning()
    for run in store.runs():
        on_record()
        try:
            key = ResultKey.parse(run.key)
        except ValueError:
            plan.other_keys += 1
            continue
        if selection.matches(key, run.record.provenance):
            plan.chosen[Group.of(key)] += 1
            plan.ids.append(run.id)
        else:
            plan.remaining[Group.of(key)] += 1
    return plan
