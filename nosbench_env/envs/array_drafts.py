"""`ArrayDrafts`: the unfinished programs of many sub-envs, as arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nosbench_env.envs.instruction_env import WIDTH, program_of
from nosbench_env.language.draft import ARITIES, FIRST_SLOT_TOKEN, MAX_ARITY, STOP
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, Program
from nosbench_env.language.search_space import SearchSpace

Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]


class ArrayDrafts(ABC):
    """The unfinished programs of `count` sub-envs, in a search space without constraints.

    Attributes:
        rows: `(count, max_instructions, 5)` int64: the observations, as the single env's docstring describes them.
        lengths: `(count,)` int64: the numbers of complete instructions.
    """

    def __init__(self, space: SearchSpace, count: int) -> None:
        self.rows = np.zeros((count, space.max_instructions, WIDTH), dtype=np.int64)
        self.lengths = np.zeros(count, dtype=np.int64)
        self._max_instructions = space.max_instructions

    @abstractmethod
    def after(self, actions: Integers, active: Flags) -> tuple[Self, Flags, Flags]:
        """Takes an action in each active sub-env, and leaves these drafts unchanged.

        Returns:
            The drafts after it; a mask of the episodes that it ends; and a mask of those that end because the action
            was not allowed.
        """

    @abstractmethod
    def masks(self) -> Flags:
        """Returns the action masks of all sub-envs, a row for each."""

    def observations(self) -> Integers:
        """Returns a new array of all observations, `(count, 5 * max_instructions)`."""
        return self.rows.reshape((len(self.rows), -1)).copy()

    def observation(self, number: int) -> Integers:
        """Returns a new array with the observation of a sub-env."""
        observation: Integers = self.rows[number].flatten()
        return observation

    def clear(self, which: Flags) -> None:
        """Starts new episodes in place, in the sub-envs of the mask `which`."""
        self.rows[which] = 0
        self.lengths[which] = 0

    def program(self, number: int) -> Program:
        """Returns the complete instructions of a sub-env."""
        return program_of(self.rows[number], int(self.lengths[number]))

    def state(self, number: int) -> dict[str, Any]:
        """Returns a sub-env's state as `get_state` does, without "over"."""
        return {"program": self.program(number).to_json()}

    def _copy(self) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__ = self.__dict__ | {"rows": self.rows.copy(), "lengths": self.lengths.copy()}
        return twin


class InstructionDrafts(ArrayDrafts):
    """Drafts of `NOSBench-v0`: an action, `(5,)`, is an instruction or STOP."""

    # The numbers of an action that are observed, by function: not the inputs beyond the arity, and none of STOP.
    _SHOWN = np.array([[place <= arity or place == WIDTH - 1 for place in range(WIDTH)] for arity in (*ARITIES, -1)])

    def __init__(self, space: SearchSpace, count: int) -> None:
        super().__init__(space, count)
        self._masks: Flags = np.stack([space.action_masks(length) for length in (0, 1)])

    def after(self, actions: Integers, active: Flags) -> tuple[Self, Flags, Flags]:
        """See `ArrayDrafts.after`; every action is allowed."""
        functions = actions[:, 0]
        stopped = functions == STOP
        writing = np.flatnonzero(active & ~stopped)
        after = self._copy()
        after.rows[writing, self.lengths[writing]] = ((actions + 1) * self._SHOWN[functions])[writing]
        after.lengths[writing] += 1
        ended = active & (stopped | (after.lengths == self._max_instructions))
        return after, ended, np.zeros_like(ended)

    def masks(self) -> Flags:
        """See `ArrayDrafts.masks`: `(count, sum(action_sizes))`."""
        return self._masks[np.minimum(self.lengths, 1)]


# Without constraints, the allowed tokens depend only on the kind of token expected: the first function, a later
# function, the output, or an input (the first of one, the first or the second of two, ...). These kinds are the states
# of an automaton.
_FIRST, _FUNCTION, _OUTPUT = range(3)
_INPUTS = {
    place_and_arity: state
    for state, place_and_arity in enumerate(
        ((place, arity) for arity in range(1, MAX_ARITY + 1) for place in range(1, arity + 1)), start=3
    )
}
_FORBIDDEN, _STOPPED = -1, -2


class TokenDrafts(ArrayDrafts):
    """Drafts of `NOSBenchToken-v0`: actions are tokens, the grammar an automaton."""

    # For each state, the place of its token in an instruction's row, and the number subtracted from the token there.
    _PLACES = np.array([0, 0, WIDTH - 1, *(place for place, _ in _INPUTS)])
    _OFFSETS = FIRST_SLOT_TOKEN - 1 + np.array([-FIRST_SLOT_TOKEN] * 2 + [FIRST_WRITABLE_SLOT] + [0] * len(_INPUTS))

    def __init__(self, space: SearchSpace, count: int) -> None:
        super().__init__(space, count)
        self._states: Integers = np.full(count, _FIRST)
        self._following = _automaton(space.token_count)
        self._masks: Flags = self._following != _FORBIDDEN

    def after(self, actions: Integers, active: Flags) -> tuple[Self, Flags, Flags]:
        """See `ArrayDrafts.after`; a token that its mask forbids is not allowed."""
        following = self._following[self._states, actions]
        writing = np.flatnonzero(active & (following >= 0))
        states = self._states[writing]
        after = self._copy()
        after.rows[writing, self.lengths[writing], self._PLACES[states]] = actions[writing] - self._OFFSETS[states]
        after.lengths[writing] += states == _OUTPUT
        ended = active & ((following < 0) | (after.lengths == self._max_instructions))
        after._states = np.where(active, following, self._states)
        after._states[ended] = _FIRST  # the state of the next episode
        return after, ended, active & (following == _FORBIDDEN)

    def masks(self) -> Flags:
        """See `ArrayDrafts.masks`: `(count, token_count)`."""
        return self._masks[self._states]

    def clear(self, which: Flags) -> None:
        """See `ArrayDrafts.clear`."""
        super().clear(which)
        self._states[which] = _FIRST

    def state(self, number: int) -> dict[str, Any]:
        """See `ArrayDrafts.state`."""
        row = self.rows[number, self.lengths[number] :][:1].ravel()  # an incomplete instruction, if any
        return super().state(number) | {"partial": [int(shown) - 1 for shown in row[row > 0]]}


def _automaton(token_count: int) -> Integers:
    """Returns the next states `(states, token_count)`, or `_FORBIDDEN` or `_STOPPED`."""
    following = np.full((3 + len(_INPUTS), token_count), _FORBIDDEN)
    following[[_FIRST, _FUNCTION], :STOP] = [_INPUTS[1, arity] for arity in ARITIES]
    following[_FUNCTION, STOP] = _STOPPED
    following[_OUTPUT, FIRST_SLOT_TOKEN + FIRST_WRITABLE_SLOT :] = _FUNCTION
    for (place, arity), state in _INPUTS.items():
        following[state, FIRST_SLOT_TOKEN:] = _INPUTS.get((place + 1, arity), _OUTPUT)
    return following
