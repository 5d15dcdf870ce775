"""How to write a number with the constants of the language: the search for the shortest expression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.live_code import apply, scalar
from nosbench_env.language.program import CONSTANTS

_BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
_UNARY = {"sqrt": np.sqrt, "square": np.square}
# Of constants alone: their last bit is the machine's, and what is computed with them would be, too.
_ROUNDED = ("exp", "log", "sin", "cos", "tan", "arcsin", "arccos", "arctan")
_LEVELS = 3  # expressions of up to so many instructions are tabulated: some 22,000 numbers


@dataclass(frozen=True, slots=True)
class Expression:
    """A way to compute a number.

    Attributes:
        function: A name of `FUNCTIONS`; or "slot".
        inputs: What it is computed from.
        slot: The slot of a constant.
    """

    function: str
    inputs: tuple[Expression, ...] = ()
    slot: int = -1


def find_constant(value: float) -> Expression | None:
    """An expression of the language's constants whose float32 value is that of `value`; None if none was found.

    Expressions of up to three instructions are found in the order of their length, then some of up to six.
    """
    return _found(float(np.float32(value)).hex())


@lru_cache(maxsize=4096)
def _found(digits: str) -> Expression | None:
    """The expression of a number that is given by its digits, which tell 0 from -0."""
    target = np.float32(float.fromhex(digits))
    table = _table()
    place = table.place(target)
    if place is not None:
        return table.expression(place)
    for function in _ROUNDED:
        for slot, constant in CONSTANTS.items():
            if float(apply(function, scalar(constant)).item()) == float(target):
                return Expression(function, (Expression("slot", slot=slot),))
    return table.sum_or_product(target)


def nearest_constants(value: float) -> list[float]:
    """The numbers next to `value`, from below and above, that up to three instructions give."""
    table = _table()
    finite = table.sorted[np.isfinite(table.sorted)]
    place = int(np.searchsorted(finite, np.float32(value)))
    return [float(number) for number in finite[max(place - 1, 0) : place + 1]]


class _Table:
    """Numbers and how to compute each: by a function (an index into `names`) of one or two numbers before it."""

    def __init__(self) -> None:
        self.names = ["slot", *_UNARY, *_BINARY]
        self.values = np.array(list(CONSTANTS.values()), dtype=np.float32)
        self.codes = np.zeros((len(self.values), 3), dtype=np.int64)
        self.codes[:, 1] = list(CONSTANTS)
        self.levels = [np.arange(len(self.values))]
        self._known = self.values.view(np.int32)
        for level in range(1, _LEVELS + 1):
            self._grow(level)
        order = np.argsort(self.values, kind="stable")  # numbers that are not have their place at the end
        self.sorted, self.order = self.values[order], order

    def _grow(self, level: int) -> None:
        """Adds what is computed from known numbers with one more instruction; those that are new."""
        found, codes = [], []
        for one in range(level):
            left, right = np.meshgrid(self.levels[one], self.levels[level - 1 - one], indexing="ij")
            a, b = left.ravel(), right.ravel()
            for function, compute in _BINARY.items():
                with np.errstate(all="ignore"):
                    found.append(compute(self.values[a], self.values[b]))
                codes.append(self._codes(function, a, b))
        if level == 1:
            for function, compute_one in _UNARY.items():
                found.append(compute_one(self.values))
                codes.append(self._codes(function, self.levels[0], self.levels[0]))
        values, of_values = np.concatenate(found), np.concatenate(codes)
        _, first = np.unique(values.view(np.int32), return_index=True)
        first = np.sort(first[~np.isin(values.view(np.int32)[first], self._known)])
        start = len(self.values)
        self.values = np.concatenate([self.values, values[first]])
        self.codes = np.concatenate([self.codes, of_values[first]])
        self.levels.append(np.arange(start, len(self.values)))
        self._known = self.values.view(np.int32)

    def _codes(self, function: str, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.stack([np.full_like(a, self.names.index(function)), a, b], axis=1)

    def place(self, value: np.float32) -> int | None:
        """Where a number stands; None if it doesn't."""
        if np.isnan(value):
            places = np.flatnonzero(np.isnan(self.values))
        else:
            places = np.flatnonzero((self.values == value) & (np.signbit(self.values) == np.signbit(value)))
        return int(places[0]) if len(places) else None

    def sum_or_product(self, target: np.float32) -> Expression | None:
        """An expression of two tabulated numbers, the second as short as can be."""
        if not np.isfinite(target):
            return None
        for level in self.levels[:-1]:
            for function, others in self._others(target, self.values[level]):
                nearest = np.searchsorted(self.sorted, others)
                for shift in range(-2, 3):
                    places = np.clip(nearest + shift, 0, len(self.sorted) - 1)
                    with np.errstate(all="ignore"):
                        hits = np.flatnonzero(_BINARY[function](self.sorted[places], self.values[level]) == target)
                    if len(hits):
                        left, right = self.order[places[hits[0]]], level[hits[0]]
                        return Expression(function, (self.expression(left), self.expression(right)))
        return None

    def _others(self, target: np.float32, values: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """What has to be combined with the values to give the target, or so, by each function."""
        with np.errstate(all="ignore"):
            yield "add", target - values
            yield "sub", target + values
            yield "mul", target / values
            yield "div", target * values

    def expression(self, place: int) -> Expression:
        """How to compute a number."""
        code, a, b = (int(number) for number in self.codes[place])
        function = self.names[code]
        if function == "slot":
            return Expression("slot", slot=a)
        inputs = (a,) if function in _UNARY else (a, b)
        return Expression(function, tuple(self.expression(source) for source in inputs))


@cache
def _table() -> _Table:
    return _Table()
