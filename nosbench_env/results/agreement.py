"""Agreement between two trainings of equivalent programs."""

from __future__ import annotations

import math

from nosbench_env.store import Record


def largest_difference(first: Record, second: Record) -> float | None:
    """Returns the largest difference of epoch means, if any are common.

    A record whose parameters turned non-finite is NaN in all epochs after those it holds. Two means that are not finite
    in the same way do not differ. The difference is infinite if only one mean is finite, or if they are not finite in
    different ways.
    """
    start = max(first.first_epoch, second.first_epoch)
    ends = [record.first_epoch + len(record.epoch_means) for record in (first, second)]
    longest = [math.inf if r.stopped_at is not None else end for r, end in zip((first, second), ends, strict=True)]
    end = min(max(ends), *longest)
    differences = [difference(mean(first, epoch), mean(second, epoch)) for epoch in range(start, int(end))]
    return max(differences, default=None)


def mean(record: Record, epoch: int) -> float:
    """Returns the mean of an epoch that the record covers."""
    index = epoch - record.first_epoch
    return record.epoch_means[index] if index < len(record.epoch_means) else math.nan


def difference(first: float, second: float) -> float:
    """Returns the difference of two losses, as in `largest_difference`."""
    if math.isfinite(first) and math.isfinite(second):
        return abs(first - second)
    return 0.0 if first == second or (math.isnan(first) and math.isnan(second)) else math.inf
