"""`TokenPolicy`: a recurrent network that writes programs token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nosbench_env.language.draft import ARITIES, FIRST_SLOT_TOKEN, MAX_ARITY, STOP, Draft
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, Program
from nosbench_env.language.search_space import SearchSpace

# The kinds of choices: the length, a function, its first, second or third input, the output, or none after the end.
_LENGTH, _FUNCTION, _OUTPUT, _DONE = 0, 1, MAX_ARITY + 2, MAX_ARITY + 3
_ARITIES = np.array([*ARITIES, 0])  # the last is that of STOP


@dataclass(frozen=True, slots=True)
class Lessons:
    """Programs in the form that the network reads: `T` choices each, padded.

    Attributes:
        features: The network's inputs before each choice, `(T, n, features)` float32.
        masks: The allowed choices, `(T, n, choices)`.
        choices: The choices made, `(T, n)`.
    """

    features: Tensor
    masks: Tensor
    choices: Tensor


class TokenPolicy(nn.Module):
    """A distribution over a space's programs, by a GRU over tokens.

    `Draft` describes the tokens. The first choice is the program's length; the tokens of a program of that length
    follow. The inputs before each choice are the choice before, the kind of the next one, the function whose inputs are
    being written, the slots written so far, and the number of instructions left. The output layer reads them beside the
    GRU's state, so frequent successions are learned within a few updates. Forbidden tokens have probability 0, so every
    program drawn is in the space.

    The output layer starts at zero, so the untrained policy is the prior. Without a prior it has the distribution of
    `SearchSpace.sample`.

    Args:
        space: The search space.
        rng: Draws the initial weights.
        hidden_size: Size of the GRU's state.
        length: Mean and standard deviation of the lengths before training, of a normal distribution truncated at both
            ends (like the soft length prior of deep symbolic optimization, Landajuela et al., 2021); None for uniform
            lengths.
        uniform_arity: True to make functions of one, two and three inputs equally likely before training (there are 16,
            8 and 2), as in deep symbolic optimization's prior of that name.

    Raises:
        ValueError: If `length` is no such pair.
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: np.random.Generator,
        hidden_size: int = 32,
        length: tuple[float, float] | None = None,
        uniform_arity: bool = False,
    ) -> None:
        super().__init__()
        if length is not None and not (len(length) == 2 and length[1] > 0):
            raise ValueError(f"length must be a mean and a standard deviation > 0, got {length!r}")
        self._space = space
        self._prior = torch.from_numpy(_prior(space, length, uniform_arity))
        features = _Cursors(space, 1).features().shape[1]
        # Made on "meta", without values: torch's initialization would draw from the process's random stream.
        self._gru = nn.GRU(features, hidden_size, device="meta").to_empty(device="cpu")
        self._head = nn.Linear(hidden_size + features, len(self._prior), device="meta").to_empty(device="cpu")
        bound = 1 / math.sqrt(hidden_size)  # torch's default
        with torch.no_grad():
            for weights in self._gru.parameters():
                weights.copy_(torch.from_numpy(rng.uniform(-bound, bound, tuple(weights.shape))))
            for weights in self._head.parameters():
                weights.zero_()

    @torch.no_grad()
    def sample(self, n: int, rng: np.random.Generator) -> list[Program]:
        """Draws `n` programs."""
        cursors = _Cursors(self._space, n)
        state: Tensor | None = None
        while not cursors.done:
            features = torch.from_numpy(cursors.features())[None]
            hidden, state = self._gru(features, state)
            logs = self._logs(hidden, features, torch.from_numpy(cursors.masks())[None])[0].double().numpy()
            cursors.push(np.argmax(logs + rng.gumbel(size=logs.shape), axis=1))
        return [draft.program for draft in cursors.drafts]

    def writes(self, program: Program) -> bool:
        """Returns True if the policy can write a program.

        With constraints it can't write a few programs of the space (see `Draft`).
        """
        try:
            draft = self._space.draft(len(program))
            for token in self._space.tokens(program):
                if not draft.finished:  # STOP comes after the end
                    draft.push(token)
        except ValueError:
            return False
        return True

    def read(self, programs: Sequence[Program]) -> Lessons:
        """Prepares programs that the policy can write, for the network."""
        columns = [[self._space.token_count + len(program) - 1, *self._space.tokens(program)] for program in programs]
        choices = np.full((max(map(len, columns)), len(columns)), STOP)
        for number, column in enumerate(columns):
            choices[: len(column), number] = column
        cursors = _Cursors(self._space, len(columns))
        features, masks = [], []
        for row in choices:
            features.append(torch.from_numpy(cursors.features()))
            masks.append(torch.from_numpy(cursors.masks()))
            cursors.push(row)
        return Lessons(torch.stack(features), torch.stack(masks), torch.from_numpy(choices))

    def forward(self, lessons: Lessons) -> tuple[Tensor, Tensor]:
        """Returns each choice's log-probability and its alternatives' entropy, both `(T, n)`.

        Both are 0 after a program's end, so the sum of a column is that of the program.
        """
        hidden, _ = self._gru(lessons.features)
        logs = self._logs(hidden, lessons.features, lessons.masks)
        entropies = -(logs.exp() * logs.masked_fill(~lessons.masks, 0)).sum(-1)
        return logs.gather(-1, lessons.choices[..., None])[..., 0], entropies

    def _logs(self, hidden: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        logits: Tensor = self._head(torch.cat([hidden, features], dim=-1)) + self._prior
        return logits.masked_fill(~masks, -torch.inf).log_softmax(-1)


class _Cursors:
    """Positions in programs written or read together, choice by choice."""

    def __init__(self, space: SearchSpace, n: int) -> None:
        self._space = space
        self.drafts: list[Draft] = []
        self._rows = np.arange(n)
        self._kinds = _allowed_kinds(space)
        self.expected = np.full(n, _LENGTH)
        self.left = np.zeros(n, dtype=np.int64)  # instructions not yet complete
        self._previous = np.full(n, self._kinds.shape[1])  # none yet
        self._function = np.full(n, STOP)
        self._written = np.zeros((n, space.memory_size), dtype=np.bool_)

    @property
    def done(self) -> bool:
        return bool((self.expected == _DONE).all())

    def masks(self) -> NDArray[np.bool_]:
        """Returns the allowed choices, `(n, choices)`.

        A finished program has a single one, STOP, which changes nothing.
        """
        masks: NDArray[np.bool_] = self._kinds[self.expected]
        if self._space.constraints:
            for row, draft in enumerate(self.drafts):
                if not draft.finished:
                    masks[row, : self._space.token_count] = draft.mask()
        return masks

    def features(self) -> NDArray[np.float32]:
        """Returns the network's inputs, `(n, features)`, all 0 or 1."""
        kinds, choices = self._kinds.shape
        numbers = (self._previous, self.expected, self._function, self.left)
        starts = np.cumsum([0, choices + 1, kinds, STOP + 1, self._space.max_instructions + 1])
        features = np.zeros((len(self._rows), starts[-1] + self._space.memory_size), dtype=np.float32)
        for start, number in zip(starts, numbers, strict=False):
            features[self._rows, start + number] = 1
        features[:, starts[-1] :] = self._written
        return features

    def push(self, choices: NDArray[np.int64]) -> None:
        """Makes an allowed choice for each program; finished programs stay unchanged."""
        expected = self.expected
        if expected[0] == _LENGTH:  # for one, so for all
            self.left = choices - self._space.token_count + 1
            self.drafts = [self._space.draft(length) for length in self.left.tolist()]
            self.expected = np.full_like(expected, _FUNCTION)
        else:
            for draft, token in zip(self.drafts, choices.tolist(), strict=True):
                if not draft.finished:
                    draft.push(token)
            self._function = np.where(expected == _FUNCTION, choices, self._function)
            after_input = np.where(expected - _FUNCTION < _ARITIES[self._function], expected + 1, _OUTPUT)
            complete = expected == _OUTPUT
            self._written[self._rows[complete], choices[complete] - FIRST_SLOT_TOKEN] = True
            self.left = self.left - complete
            after_output = np.where(self.left > 0, _FUNCTION, _DONE)
            self.expected = np.select([expected == _DONE, complete], [expected, after_output], after_input)
        self._previous = np.where(expected == _DONE, self._previous, choices)


def _allowed_kinds(space: SearchSpace) -> NDArray[np.bool_]:
    """Returns each kind's choices, `(kinds, choices)`: tokens, then lengths from 1."""
    kinds = np.zeros((_DONE + 1, space.token_count + space.max_instructions), dtype=np.bool_)
    tokens = kinds[:, : space.token_count]
    kinds[_LENGTH, space.token_count :] = True
    tokens[_FUNCTION, :STOP] = True
    tokens[_FUNCTION + 1 : _OUTPUT, FIRST_SLOT_TOKEN:] = True
    tokens[_OUTPUT, FIRST_SLOT_TOKEN + FIRST_WRITABLE_SLOT :] = True
    tokens[_DONE, STOP] = True
    return kinds


def _prior(space: SearchSpace, length: tuple[float, float] | None, uniform_arity: bool) -> NDArray[np.float32]:
    """Returns the logits of the untrained policy, `(choices,)`."""
    prior = np.zeros(space.token_count + space.max_instructions, dtype=np.float32)
    if uniform_arity:
        prior[:STOP] = -np.log(np.bincount(_ARITIES)[_ARITIES[:STOP]])
    if length is not None:
        mean, deviation = length
        prior[space.token_count :] = -(((np.arange(1, space.max_instructions + 1) - mean) / deviation) ** 2) / 2
    return prior
