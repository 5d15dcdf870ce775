"""How far two trainings of equivalent programs agree."""

from __future__ import annotations

import math

from nosbench_env.store import Record


def largest_difference(first: Record, second: Record) -> float | None:
    """The largest difference between the means of the epochs that both records tell, or None if there is none.

    A record whose parameters turned non-finite tells all epochs after those it holds: NaN. Equal values that are not
    finite do not differ; if one is finite and the other is not, or they are not finite in different ways, the
    difference is infinite.
    """
    start = max(first.first_epoch, second.first_epoch)
    ends = [record.first_epoch + len(record.epoch_means) for record in (first, second)]
    longest = [math.inf if r.stopped_at is not None else end for r, end in zip((first, second), ends, strict=True)]
    end = min(max(ends), *longest)
    differences = [difference(mean(first, epoch), mean(second, epoch)) for epoch in range(start, int(end))]
    return max(differences, default=None)


def mean(record: Record, epoch: int) -> float:
    """The mean of an epoch that the record tells."""
    index = epoch - record.first_epoch
    return record.epoch_means[index] if index < len(record.epoch_means) else math.nan


def difference(first: float, second: float) -> float:
    """How much two losses differ; 0 if they are not finite in the same way, infinite if only one is finite."""
    if math.isfinite(first) and math.isfinite(second):
        return abs(first - second)
    return 0.0 if first == second or (math.isnan(first) and math.isnan(second)) else math.inf
