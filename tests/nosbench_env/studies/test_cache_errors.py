from collections import Counter

import numpy as np
import pytest

from nosbench_env import Program
from nosbench_env.studies.cache_errors import (
    curve_groups,
    differ_while_tame,
    draw_distinct,
    draw_over_forms,
    draw_over_groups,
    draw_over_pairs,
    first_difference,
    first_of_each,
    merged_groups,
)
from nosbench_env.studies.identities import Key

NAN, INF = np.nan, np.inf


def program(letter: str) -> Program:
    """A program of its own for each small letter."""
    return Program.from_json([["sin", [ord(letter) - ord("a")], 9]])


def groups_of(text: str):
    """Groups of programs written as key and finer identity, such as "1a 1b 2c"; capital ones diverged."""
    seen = text.split()
    return merged_groups(
        [program(word[1].lower()) for word in seen],
        [Key(word[0], word[1].isupper()) for word in seen],
        [word[1] for word in seen],
    )


@pytest.mark.parametrize(
    ("a", "b", "step"),
    [
        ([1.0, 2.0], [1.0, 2.0], None),
        ([1.0, 2.0], [1.00009, 2.00019], None),  # relative to losses greater than 1,
        ([1.0, 0.1], [1.0, 0.10009], None),  # absolute below
        ([1.0, 2.0], [1.0, 2.0003], 1),
        ([1.0, 2.0], [1.0002, 2.0], 0),
        ([-5.0, 2.0], [-5.0004, 2.0], None),
        ([1.0, NAN], [1.0, INF], None),  # both not finite
        ([1.0, NAN, NAN], [1.0, 2.0, NAN], 1),
        ([INF, 1.0], [-INF, 1.0], None),
        ([NAN, 1.0], [NAN, 2.0], 1),
    ],
)
def test_first_difference_by_hand(a: list[float], b: list[float], step: int | None) -> None:
    assert first_difference(np.array(a), np.array(b)) == step
    assert first_difference(np.array(b), np.array(a)) == step


def test_merged_groups_hold_two_classes_and_more() -> None:
    groups = groups_of("1a 1a 1b 2c 2c 3d 1X 4Y 4Z")
    assert len(groups) == 1  # 2 and 3 have one class each, 4 diverged
    assert groups[0].classes == (program("a"), program("b"))
    assert groups[0].counts.tolist() == [2, 1]
    assert groups[0].pairs == 2


def test_pairs_are_drawn_in_proportion_to_how_many_there_are() -> None:
    # In group 1: 3 * 1 pairs (a, b); in group 2: 1 pair of each kind.
    groups = groups_of("1a 1a 1a 1b 2c 2d 2e")
    drawn = Counter(frozenset(pair) for pair in draw_over_pairs(groups, 6000, np.random.default_rng(0)))
    shares = {frozenset(map(program, pair)): share for pair, share in (("ab", 3), ("cd", 1), ("ce", 1), ("de", 1))}
    assert set(drawn) == set(shares)
    assert all(abs(drawn[pair] - 1000 * share) < 150 for pair, share in shares.items())


def test_pairs_over_forms_give_each_pair_of_classes_the_same_chance() -> None:
    groups = groups_of("1a 1a 1a 1b 2c 2d 2e")
    drawn = Counter(frozenset(pair) for pair in draw_over_forms(groups, 4000, np.random.default_rng(0)))
    assert set(drawn) == {frozenset(map(program, pair)) for pair in ("ab", "cd", "ce", "de")}
    assert all(abs(count - 1000) < 150 for count in drawn.values())


@pytest.mark.parametrize(
    ("a", "b", "tame"),
    [
        ([1.0, 2.0], [1.0, 3.0], True),
        ([1.0, 2.0], [1.0, NAN], True),
        ([1.0, 400.0], [1.0, 500.0], False),
        ([1.0, 400.0], [1.0, NAN], False),
        ([1.0, 9.0], [1.0, 500.0], True),
    ],
)
def test_differences_of_trainings_that_have_blown_up_are_told_apart(a: list[float], b: list[float], tame: bool) -> None:
    assert differ_while_tame(np.array(a), np.array(b), 1) == tame


def test_pairs_over_groups_give_each_group_the_same_chance() -> None:
    groups = groups_of("1a 1a 1a 1b 2c 2d 2e")
    drawn = Counter(frozenset(pair) for pair in draw_over_groups(groups, 6000, np.random.default_rng(0)))
    shares = {frozenset(map(program, pair)): share for pair, share in (("ab", 3), ("cd", 1), ("ce", 1), ("de", 1))}
    assert all(abs(drawn[pair] - 1000 * share) < 150 for pair, share in shares.items())
    assert draw_over_groups([], 10, np.random.default_rng(0)) == draw_over_pairs([], 10, np.random.default_rng(0)) == []


def test_pairs_of_one_group_follow_the_counts() -> None:
    groups = groups_of("1a 1a 1a 1b 1c")  # 3 pairs ab, 3 ac, 1 bc
    drawn = Counter(frozenset(pair) for pair in draw_over_groups(groups, 7000, np.random.default_rng(0)))
    for pair, share in (("ab", 3), ("ac", 3), ("bc", 1)):
        assert abs(drawn[frozenset(map(program, pair))] - 1000 * share) < 150


def test_curve_groups_by_hand() -> None:
    curves = [
        [1.0, 2.0, 3.0],
        [1.0, 2.1, 3.0],  # equal to the first at the last step alone
        [1.0, 2.0, 3.0 + 1e-7],
        [1.0, NAN, NAN],
        [1.0, INF, NAN],
        [1.0, NAN, 3.0],
        [1.0 + 1e-7, 2.0, 3.0],
    ]
    assert curve_groups([np.array(curve) for curve in curves]) == [[0, 2, 6], [3, 4]]
    assert curve_groups([]) == []


def test_curves_are_grouped_by_chains() -> None:
    curves = [np.array([1.0 + 0.8e-6 * number]) for number in range(4)]
    assert curve_groups(curves) == [[0, 1, 2, 3]]


def test_the_first_program_stands_for_an_identity() -> None:
    pairs = [("x", program("b")), ("y", program("c")), ("x", program("a"))]
    assert first_of_each(pairs) == [program("b"), program("c")]


def test_draw_distinct_takes_none_twice() -> None:
    programs = [program(letter) for letter in "abcd"]
    assert sorted(map(str, draw_distinct(programs, 9, np.random.default_rng(0)))) == sorted(map(str, programs))
    assert len(set(draw_distinct(programs, 3, np.random.default_rng(0)))) == 3
