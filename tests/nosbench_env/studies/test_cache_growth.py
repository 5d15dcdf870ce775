import math

import pytest

from nosbench_env.studies.cache_growth import cache_sizes, hits, sampled_queries, seed_pairs, trails
from nosbench_env.studies.identities import Key


def keys(text: str) -> list[Key]:
    """A key for each letter; capital ones diverged."""
    return [Key(letter, letter.isupper()) for letter in text]


def test_cache_sizes_count_distinct_keys() -> None:
    assert cache_sizes(keys("aabXcXb")).tolist() == [1, 1, 2, 3, 4, 4, 4]
    assert cache_sizes([]).tolist() == []


def test_hits_by_hand() -> None:
    # d and X are in neither at first; a and b are filled; the second a, X and the second d are the run's own.
    found = hits(keys("abab"), keys("abadXXde"))
    assert (found.filled, found.own, found.either) == (3 / 8, 3 / 8, 5 / 8)


def test_hits_without_diverged_leave_their_queries_out() -> None:
    found = hits(keys("abX"), keys("abadXXde"), without_diverged=True)
    assert (found.filled, found.own, found.either) == (3 / 6, 2 / 6, 4 / 6)
    counted = hits(keys("abX"), keys("abadXXde"))
    assert (counted.filled, counted.own, counted.either) == (5 / 8, 3 / 8, 6 / 8)


def test_hits_of_nothing_are_not_a_number() -> None:
    found = hits(keys("a"), keys("XX"), without_diverged=True)
    assert math.isnan(found.filled)
    assert math.isnan(found.either)


def test_six_trails_of_18_runs_share_none() -> None:
    assert trails(18)[:2] == [(0, 6, 12), (1, 7, 13)]
    assert sorted(seed for trail in trails(18) for seed in trail) == list(range(18))


@pytest.mark.parametrize("seeds", [3, 4, 5, 7, 12, 30])
def test_a_trail_has_three_different_runs(seeds: int) -> None:
    assert len(trails(seeds)) == min(6, seeds)
    assert all(len(set(trail)) == 3 and max(trail) < seeds for trail in trails(seeds))


def test_too_few_seeds_give_no_trails_and_no_pairs() -> None:
    assert trails(2) == []
    assert seed_pairs(1, 9) == []


def test_nine_pairs_of_18_runs_share_none() -> None:
    assert sorted(seed for pair in seed_pairs(18, 9) for seed in pair) == list(range(18))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_a_pair_never_has_equal_seeds(seeds: int) -> None:
    pairs = seed_pairs(seeds, 9)
    assert len(pairs) == len(set(pairs)) == min(9, seeds)
    assert all(first != second and max(first, second) < seeds for first, second in pairs)


def test_sampled_queries_begin_and_end_with_the_run() -> None:
    assert list(sampled_queries(7)) == [1, 2, 3, 4, 5, 6, 7]
    sampled = list(sampled_queries(8000))
    assert (sampled[0], sampled[-1], len(sampled)) == (1, 8000, 400)
