"""What a store holds, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nosbench_env.candidates.baselines import NOISE
from nosbench_env.results.agreement import largest_difference
from nosbench_env.results.key import ResultKey
from nosbench_env.store import Record, ResultStore


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Results that have the same task, task version, seed, arithmetic and identity method."""

    task: str
    task_version: int
    seed: int
    arithmetic: str
    method: str

    @classmethod
    def of(cls, key: ResultKey) -> Group:
        """The group of a key."""
        return cls(key.task, key.task_version, key.seed, key.arithmetic, key.method)


@dataclass(slots=True)
class Survey:
    """What a store holds.

    Attributes:
        records: The number of results.
        keys: The number of distinct keys.
        groups: Results and distinct keys of each group.
        other_keys: Results under keys of another form.
        without_program: Results that do not say which program was trained.
        dates: The earliest and the latest date, ISO 8601; empty if none is said.
        devices: Results of each device.
        versions: Results of each version of nosbench_env.
        torch_versions: Results of each version of torch.
        disagreeing_keys: Keys with results that differ in an epoch.
        disagreeing_beyond_noise: Those of them that differ by more than `NOISE`.
        largest_difference: The largest of these differences; infinite where only one of two is finite.
    """

    records: int = 0
    keys: int = 0
    groups: dict[Group, tuple[int, int]] = field(default_factory=dict)
    other_keys: int = 0
    without_program: int = 0
    dates: tuple[str, str] = ("", "")
    devices: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    torch_versions: Counter[str] = field(default_factory=Counter)
    disagreeing_keys: int = 0
    disagreeing_beyond_noise: int = 0
    largest_difference: float = 0.0


def survey(store: ResultStore, on_record: Callable[[], None] = lambda: None) -> Survey:
    """Counts what a store holds; reads all of it, and twice if keys have several results.

    Args:
        store: The store.
        on_record: Called for each result.
    """
    found = Survey()
    seen: set[int] = set()  # hashes: a million keys take much less memory so
    repeated: set[str] = set()
    for run in store.runs():
        on_record()
        new = hash(run.key) not in seen
        seen.add(hash(run.key))
        if not new:
            repeated.add(run.key)
        found.records += 1
        found.keys += new
        try:
            group = Group.of(ResultKey.parse(run.key))
        except ValueError:
            found.other_keys += 1
        else:
            records, keys = found.groups.get(group, (0, 0))
            found.groups[group] = records + 1, keys + new
        _count_provenance(found, run.record)
    _compare(found, store, repeated)
    return found


def _count_provenance(found: Survey, record: Record) -> None:
    made = record.provenance
    found.without_program += "program" not in made
    found.devices[str(made.get("device", "unknown"))] += 1
    found.versions[str(made.get("nosbench_env", "unknown"))] += 1
    found.torch_versions[str(made.get("torch", "unknown"))] += 1
    if isinstance(date := made.get("date"), str) and date:
        earliest, latest = found.dates
        found.dates = min(earliest or date, date), max(latest, date)


def _compare(found: Survey, store: ResultStore, repeated: set[str]) -> None:
    if not repeated:
        return
    records: dict[str, list[Record]] = {}
    for run in store.runs():
        if run.key in repeated:
            records.setdefault(run.key, []).append(run.record)
    for first, *others in records.values():
        worst = max((largest_difference(first, other) or 0.0 for other in others), default=0.0)
        found.disagreeing_keys += worst > 0
        found.disagreeing_beyond_noise += worst > NOISE
        found.largest_difference = max(found.largest_difference, worst)
