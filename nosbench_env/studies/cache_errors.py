"""The errors of a cache: false merges, splits and divergences."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.program import Program
from nosbench_env.studies.identities import Key

SAME_LOSS = 1e-4  # equal losses of the first steps differ by at most this, relative to the greater of 1 and the loss
SAME_CURVE = 1e-6  # the same for programs with different keys
# Beyond this loss a training has blown up: a difference of one bit shows in the loss within a step or two.
BLOWN_UP_LOSS = 10.0
# The loss of a model that ignores its input. A program called diverged that reaches less was worth training.
PLATEAUS: Mapping[str, float] = {"pfn": 1.57, "toy": float(np.log(3))}

Losses = NDArray[np.float64]


def first_difference(a: Losses, b: Losses, tolerance: float = SAME_LOSS) -> int | None:
    """Returns the first step, from 0, with different losses, or None.

    Losses are equal if both are not finite, or within `tolerance * max(1, |a|)` of each other.
    """
    steps = np.flatnonzero(~_equal(a, b, tolerance))
    return int(steps[0]) if len(steps) else None


def _equal(a: Losses, b: Losses, tolerance: float) -> NDArray[np.bool_]:
    """Compares losses element by element, with broadcasting."""
    finite = np.isfinite(a) & np.isfinite(b)
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= tolerance * np.maximum(1.0, np.abs(a))
    equal: NDArray[np.bool_] = np.where(finite, near, ~np.isfinite(a) & ~np.isfinite(b))
    return equal


def differ_while_tame(a: Losses, b: Losses, step: int) -> bool:
    """Returns True if losses differ at `step` before both have blown up."""
    return any(math.isfinite(loss) and loss < BLOWN_UP_LOSS for loss in (float(a[step]), float(b[step])))


@dataclass(frozen=True, slots=True)
class MergedGroup:
    """Programs that an identity merges and a finer identity separates.

    Attributes:
        classes: The first program of each class of the finer identity.
        counts: The number of programs in each class.
    """

    classes: tuple[Program, ...]
    counts: NDArray[np.int64]

    @property
    def pairs(self) -> int:
        """The number of pairs of programs of different classes."""
        return (int(self.counts.sum()) ** 2 - int((self.counts**2).sum())) // 2

    def draw(self, rng: np.random.Generator) -> tuple[Program, Program]:
        """Draws one of these pairs, all equally likely."""
        others = self.counts * (self.counts.sum() - self.counts)
        first = int(rng.choice(len(self.counts), p=others / others.sum()))
        left = self.counts.copy()
        left[first] = 0
        second = int(rng.choice(len(self.counts), p=left / left.sum()))
        return self.classes[first], self.classes[second]


def merged_groups(programs: Sequence[Program], keys: Sequence[Key], finer: Sequence[str]) -> list[MergedGroup]:
    """Returns the groups of programs with equal key and different finer identity.

    Diverged programs are left out.
    """
    representative: dict[str, Program] = {}
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for program, key, fine in zip(programs, keys, finer, strict=True):
        if not key.diverged:
            representative.setdefault(fine, program)
            groups[key.text][fine] += 1
    return [
        MergedGroup(tuple(representative[fine] for fine in counts), np.array(list(counts.values()), dtype=np.int64))
        for counts in groups.values()
        if len(counts) > 1
    ]


def draw_over_pairs(
    groups: Sequence[MergedGroup], count: int, rng: np.random.Generator
) -> list[tuple[Program, Program]]:
    """Draws pairs of merged programs with replacement, all pairs equally likely.

    Most of them are from large groups.
    """
    weights = np.array([group.pairs for group in groups], dtype=np.float64)
    if not groups:
        return []
    chosen = rng.choice(len(groups), size=count, p=weights / weights.sum())
    return [groups[index].draw(rng) for index in chosen]


def draw_over_forms(
    groups: Sequence[MergedGroup], count: int, rng: np.random.Generator
) -> list[tuple[Program, Program]]:
    """Draws pairs of merged classes with replacement, all equally likely."""
    return draw_over_pairs([MergedGroup(group.classes, np.ones_like(group.counts)) for group in groups], count, rng)


def draw_over_groups(
    groups: Sequence[MergedGroup], count: int, rng: np.random.Generator
) -> list[tuple[Program, Program]]:
    """Draws pairs of merged programs with replacement.

    All groups are equally likely, and within a group all pairs.
    """
    if not groups:
        return []
    return [groups[index].draw(rng) for index in rng.integers(len(groups), size=count)]


def curve_groups(curves: Sequence[Losses], tolerance: float = SAME_CURVE) -> list[list[int]]:
    """Groups curves that are equal at all steps, the largest first.

    Each group has two or more curves, and each curve equals another one of its group.
    """
    if not curves:
        return []
    rows = np.stack(list(curves))
    leader = list(range(len(rows)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index in range(len(rows) - 1):
        # Most rows differ at the last step, which is cheap to check.
        near = index + 1 + np.flatnonzero(_equal(rows[index, -1], rows[index + 1 :, -1], tolerance))
        for other in near[_equal(rows[index], rows[near], tolerance).all(axis=1)].tolist():
            leader[find(other)] = find(index)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(rows)):
        groups[find(index)].append(index)
    return sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)


def first_of_each(items: Iterable[tuple[str, Program]]) -> list[Program]:
    """Returns the first program of each key."""
    first: dict[str, Program] = {}
    for text, program in items:
        first.setdefault(text, program)
    return list(first.values())


def draw_distinct(programs: Sequence[Program], count: int, rng: np.random.Generator) -> list[Program]:
    """Draws `count` programs, or all if fewer, without replacement."""
    chosen = rng.permutation(len(programs))[:count]
    return [programs[index] for index in chosen.tolist()]
