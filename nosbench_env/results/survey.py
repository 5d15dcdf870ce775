"""Counts of a store's records by group, device and version."""

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
    """The records of one task, task version, seed, arithmetic and identity."""

    task: str
    task_version: int
    seed: int
    arithmetic: str
    identity: str

    @classmethod
    def of(cls, key: ResultKey) -> Group:
        """Returns the group of a key."""
        return cls(key.task, key.task_version, key.seed, key.arithmetic, key.identity)


@dataclass(slots=True)
class Survey:
    """The counts of a store's records.

    Attributes:
        records: The number of records.
        keys: The number of distinct keys.
        groups: The numbers of records and of distinct keys, by group.
        other_keys: The number of records under keys of another form.
        without_program: The number of records without the program that was trained.
        dates: The earliest and the latest date, ISO 8601; empty if no record has one.
        devices: The number of records by device.
        versions: The number of records by version of nosbench_env.
        torch_versions: The number of records by version of torch.
        disagreeing_keys: The number of keys with records that differ in an epoch.
        disagreeing_beyond_noise: The number of keys with records that differ by more than `NOISE`.
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
    """Counts the records of a store.

    It reads all records, and reads them twice if a key has several.

    Args:
        store: The store.
        on_record: Called for each record.
    """
    counts = Survey()
    seen: set[int] = set()  # hashes: a million keys take much less memory so
    repeated: set[str] = set()
    for stored in store.records():
        on_record()
        new = hash(stored.key) not in seen
        seen.add(hash(stored.key))
        if not new:
            repeated.add(stored.key)
        counts.records += 1
        counts.keys += new
        try:
            group = Group.of(ResultKey.parse(stored.key))
        except ValueError:
            counts.other_keys += 1
        else:
            records, keys = counts.groups.get(group, (0, 0))
            counts.groups[group] = records + 1, keys + new
        _count_provenance(counts, stored.record)
    if repeated:
        _count_disagreements(counts, store, repeated)
    return counts


def _count_provenance(counts: Survey, record: Record) -> None:
    provenance = record.provenance
    counts.without_program += "program" not in provenance
    counts.devices[str(provenance.get("device", "unknown"))] += 1
    counts.versions[str(provenance.get("nosbench_env", "unknown"))] += 1
    counts.torch_versions[str(provenance.get("torch", "unknown"))] += 1
    if isinstance(date := provenance.get("date"), str) and date:
        earliest, latest = counts.dates
        counts.dates = min(earliest or date, date), max(latest, date)


def _count_disagreements(counts: Survey, store: ResultStore, keys: set[str]) -> None:
    records: dict[str, list[Record]] = {}
    for stored in store.records():
        if stored.key in keys:
            records.setdefault(stored.key, []).append(stored.record)
    for first, *others in records.values():
        worst = max((largest_difference(first, other) or 0.0 for other in others), default=0.0)
        counts.disagreeing_keys += worst > 0
        counts.disagreeing_beyond_noise += worst > NOISE
        counts.largest_difference = max(counts.largest_difference, worst)
