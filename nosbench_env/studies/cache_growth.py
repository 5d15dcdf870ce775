"""A cache's savings: growth, and hits on another run's results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nosbench_env.studies.identities import Key

MAX_TRAILS = 6  # Appendix D.2


def cache_sizes(keys: Sequence[Key]) -> NDArray[np.int64]:
    """Counts the results in an initially empty cache after each query.

    >>> cache_sizes([Key("a", False), Key("b", False), Key("a", False)]).tolist()
    [1, 2, 2]
    """
    seen: set[str] = set()
    sizes = []
    for key in keys:
        seen.add(key.text)
        sizes.append(len(seen))
    return np.array(sizes, dtype=np.int64)


def trails(seeds: int) -> list[tuple[int, int, int]]:
    """Returns trails: three runs one after the other on the same cache.

    With 18 seeds there are 6 trails without common runs (Appendix D.2). With fewer seeds each run takes part in several
    trails; with fewer than 3 there are none.
    """
    if seeds < 3:
        return []
    stride = seeds // 3
    return [(seed, (seed + stride) % seeds, (seed + 2 * stride) % seeds) for seed in range(min(MAX_TRAILS, seeds))]


def seed_pairs(seeds: int, pairs: int) -> list[tuple[int, int]]:
    """Pairs runs: the first fills the cache, the second queries it.

    Pairs share no run if there are enough runs. Seeds of a pair differ, because the first population of regularized
    evolution is that of random search with the same seed.
    """
    if seeds < 2:
        return []
    stride = seeds // 2
    return [(seed, (seed + stride) % seeds) for seed in range(min(pairs, seeds))]


@dataclass(frozen=True, slots=True)
class Hits:
    """Shares of the queries of a run that need no training.

    Attributes:
        filled: Share of queries found in a cache that another run has filled and that does not change.
        own: Share of queries found among the earlier queries of the same run.
        either: Share of queries found in one or the other.
    """

    filled: float
    own: float
    either: float


def hits(filled_by: Sequence[Key], queries: Sequence[Key], *, without_diverged: bool = False) -> Hits:
    """Returns the shares of a run's queries that hit a cache.

    Args:
        filled_by: Keys of the run that filled the cache.
        queries: Keys of the run that queries it, in order.
        without_diverged: True to leave out queries that diverge on the probe, which never need training.
    """
    filled = {key.text for key in filled_by}
    seen: set[str] = set()
    matches = []
    for key in queries:
        if not (without_diverged and key.diverged):
            matches.append((key.text in filled, key.text in seen, key.text in filled or key.text in seen))
        seen.add(key.text)
    return Hits(*(float(share) for share in np.mean(matches, axis=0))) if matches else Hits(*[float("nan")] * 3)


def sampled_queries(queries: int, points: int = 400) -> Iterator[int]:
    """Yields the numbers of queries at which growth is reported."""
    yield from dict.fromkeys(round(value) for value in np.linspace(1, queries, min(points, queries)).tolist())
