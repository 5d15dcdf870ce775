"""The search for short expressions of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.functions import FUNCTIONS, TRANSCENDENTALS
from nosbench_env.language.live_code import apply, scalar
from nosbench_env.language.program import CONSTANTS

_BINARY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
_UNARY = {"sqrt": np.sqrt, "square": np.square}
# Applied to the language's constants only. Their last bit depends on the machine, and so would further results.
_ROUNDED = [name for name in TRANSCENDENTALS if name in FUNCTIONS]
_LEVELS = 3  # the longest expressions in the table, in instructions; it has about 22,000 numbers


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression of the language's constants.

    Attributes:
        function: A name of `FUNCTIONS`, or "slot".
        inputs: The operands of a function.
        slot: The slot of a constant.
    """

    function: str
    inputs: tuple[Expression, ...] = ()
    slot: int = -1


def find_constant(value: float) -> Expression | None:
    """Finds an expression with the float32 value of `value`, or None.

    The search covers all expressions of up to three instructions, shortest first, then some of up to six.
    """
    return _find_digits(float(np.float32(value)).hex())


@lru_cache(maxsize=4096)
def _find_digits(digits: str) -> Expression | None:
    """Finds a number's expression by its digits (0 and -0 differ)."""
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
    """Returns the nearest numbers below and above `value`, of at most 3 instructions."""
    table = _table()
    finite = table.sorted[np.isfinite(table.sorted)]
    place = int(np.searchsorted(finite, np.float32(value)))
    return [float(number) for number in finite[max(place - 1, 0) : place + 1]]


class _Table:
    """Numbers, each a function (index into `names`) of earlier ones."""

    def __init__(self) -> None:
        self.names = ["slot", *_UNARY, *_BINARY]
        self.values = np.array(list(CONSTANTS.values()), dtype=np.float32)
        self.codes = np.zeros((len(self.values), 3), dtype=np.int64)
        self.codes[:, 1] = list(CONSTANTS)
        self.levels = [np.arange(len(self.values))]
        self._known = self.values.view(np.int32)
        for level in range(1, _LEVELS + 1):
            self._grow(level)
        order = np.argsort(self.values, kind="stable")  # NaN comes last
        self.sorted, self.order = self.values[order], order

    def _grow(self, level: int) -> None:
        """Adds the new numbers that one more instruction computes."""
        computed, codes = [], []
        for one in range(level):
            left, right = np.meshgrid(self.levels[one], self.levels[level - 1 - one], indexing="ij")
            a, b = left.ravel(), right.ravel()
            for function, compute in _BINARY.items():
                with np.errstate(all="ignore"):
                    computed.append(compute(self.values[a], self.values[b]))
                codes.append(self._codes(function, a, b))
        if level == 1:
            for function, compute_one in _UNARY.items():
                computed.append(compute_one(self.values))
                codes.append(self._codes(function, self.levels[0], self.levels[0]))
        values, of_values = np.concatenate(computed), np.concatenate(codes)
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
        """Returns a number's place in the table, or None."""
        if np.isnan(value):
            places = np.flatnonzero(np.isnan(self.values))
        else:
            places = np.flatnonzero((self.values == value) & (np.signbit(self.values) == np.signbit(value)))
        return int(places[0]) if len(places) else None

    def sum_or_product(self, target: np.float32) -> Expression | None:
        """Combines two tabulated numbers, with the shortest second one."""
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
        """Yields, by function, first operands that nearly give `target` with `values`."""
        with np.errstate(all="ignore"):
            yield "add", target - values
            yield "sub", target + values
            yield "mul", target / values
            yield "div", target * values

    def expression(self, place: int) -> Expression:
        """Returns the expression of a number."""
        code, a, b = (int(number) for number in self.codes[place])
        function = self.names[code]
        if function == "slot":
            return Expression("slot", slot=a)
        inputs = (a,) if function in _UNARY else (a, b)
        return Expression(function, tuple(self.expression(source) for source in inputs))


@cache
def _table() -> _Table:
    return _Table()
