"""What a cache saves: its growth within a run and across runs, and the hits on what another run has filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nosbench_env.studies.identities import Key

MAX_TRAILS = 6  # Appendix D.2


def cache_sizes(keys: Sequence[Key]) -> NDArray[np.int64]:
    """How many results a cache that starts empty holds after each query.

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
    """Three runs each, one after the other on the same cache: 6 trails that share no run with 18 seeds (Appendix D.2).

    With fewer seeds each run takes part in several trails; with fewer than 3 there are none.
    """
    if seeds < 3:
        return []
    stride = seeds // 3
    return [(seed, (seed + stride) % seeds, (seed + 2 * stride) % seeds) for seed in range(min(MAX_TRAILS, seeds))]


def seed_pairs(seeds: int, pairs: int) -> list[tuple[int, int]]:
    """Which run fills the cache and which then queries it: the pairs share no run while there are enough runs.

    Never equal seeds: regularized evolution draws its first population as random search with the same seed draws.
    """
    if seeds < 2:
        return []
    stride = seeds // 2
    return [(seed, (seed + stride) % seeds) for seed in range(min(pairs, seeds))]


@dataclass(frozen=True, slots=True)
class Hits:
    """Shares of the queries of a run that need no training.

    Attributes:
        filled: Found in a cache that another run has filled, and that stays as it is.
        own: Found among the earlier queries of the same run.
        either: Found in one or the other.
    """

    filled: float
    own: float
    either: float


def hits(filled_by: Sequence[Key], queries: Sequence[Key], *, without_diverged: bool = False) -> Hits:
    """How often a run hits a cache filled by another.

    Args:
        filled_by: Keys of the run that filled it.
        queries: Keys of the run that queries it, in their order.
        without_diverged: Whether to leave out the queries that diverge on the probe, which need no training anyway.
    """
    filled = {key.text for key in filled_by}
    seen: set[str] = set()
    found = []
    for key in queries:
        if not (without_diverged and key.diverged):
            found.append((key.text in filled, key.text in seen, key.text in filled or key.text in seen))
        seen.add(key.text)
    return Hits(*(float(share) for share in np.mean(found, axis=0))) if found else Hits(*[float("nan")] * 3)


def sampled_queries(queries: int, points: int = 400) -> Iterator[int]:
    """The numbers of queries at which growth is reported, from 1 to the last."""
    yield from dict.fromkeys(round(value) for value in np.linspace(1, queries, min(points, queries)).tolist())
