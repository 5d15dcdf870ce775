"""The grammar of programs as sequences of tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, GRAD, Instruction, InvalidProgram, Program

FUNCTION_NAMES = tuple(FUNCTIONS)
ARITIES = tuple(function.arity for function in FUNCTIONS.values())
MAX_ARITY = max(ARITIES)
STOP = len(FUNCTION_NAMES)  # the function number and token that ends a program
FIRST_SLOT_TOKEN = STOP + 1  # slot s is the token FIRST_SLOT_TOKEN + s

CONSTRAINTS = ("gradient", "used", "written")
Expects = Literal["function", "input", "output"]

_OF_ARITY = {arity: np.array([number for number, own in enumerate(ARITIES) if own == arity]) for arity in set(ARITIES)}


class Draft:
    """A program that is being written token by token.

    A token is a function's number (in the order of `FUNCTIONS`), `STOP`, or `FIRST_SLOT_TOKEN` + a slot. An instruction
    consists of its function, its inputs and its output. STOP, or the last instruction that fits, ends the program.
    `mask` is exact: a token is allowed if and only if the draft can then be completed.

    Args:
        max_instructions: Length of the longest program.
        memory_size: Number of slots.
        constraints: See `SearchSpace`.
        length: The exact number of instructions, if given; STOP is then not allowed.

    Attributes:
        finished: True if the program is complete.
        rows: The complete instructions as numbers: function, inputs, output.

    >>> draft = Draft(max_instructions=20, memory_size=20)
    >>> for token in (FUNCTION_NAMES.index("sign"), FIRST_SLOT_TOKEN + GRAD, FIRST_SLOT_TOKEN + 9, STOP):
    ...     draft.push(token)
    >>> draft.finished, str(draft.program)
    (True, 'r9 = sign(grad)')
    """

    __slots__ = (
        "_constrained",
        "_debts",
        "_flow",
        "_gradient_due",
        "_loose",
        "_max",
        "_partial",
        "_stops",
        "_tracks_written",
        "_written",
        "finished",
        "memory_size",
        "rows",
    )

    def __init__(
        self, max_instructions: int, memory_size: int, constraints: Collection[str] = (), length: int | None = None
    ) -> None:
        self.memory_size = memory_size
        self.finished = False
        self.rows: list[tuple[int, ...]] = []
        self._max = max_instructions if length is None else length
        self._stops = length is None
        self._partial: tuple[int, ...] = ()  # function and inputs of the unfinished instruction
        self._constrained = bool(constraints)
        self._gradient_due = "gradient" in constraints
        self._flow = _Flow() if "used" in constraints else None
        self._loose: list[int] = []  # for each loose end, the set of slots that hold one of its values
        self._tracks_written = "written" in constraints
        self._written = 0  # set of slots (a bit each) that an instruction writes
        self._debts = 0  # set of slots that are read and not written yet

    @property
    def token_count(self) -> int:
        """The number of distinct tokens."""
        return FIRST_SLOT_TOKEN + self.memory_size

    @property
    def program(self) -> Program:
        """The complete instructions."""
        return Program(tuple([_instruction(row) for row in self.rows]))

    @property
    def partial(self) -> tuple[int, ...]:
        """The function number and inputs of the unfinished instruction, if any."""
        return self._partial

    @property
    def expects(self) -> Expects:
        """The type of the next token; STOP counts as a function."""
        if not self._partial:
            return "function"
        return "input" if self._inputs_left else "output"

    def mask(self) -> NDArray[np.bool_]:
        """Returns the allowed tokens, `(token_count,)`; all False if finished."""
        allowed = np.zeros(self.token_count, dtype=np.bool_)
        if self.finished:
            return allowed
        if not self._partial:
            for arity, functions in _OF_ARITY.items():
                allowed[functions] = self._allows_arity(arity)
            allowed[STOP] = self._allows_stop()
        elif not self._constrained:
            allowed[FIRST_SLOT_TOKEN + (0 if self._inputs_left else FIRST_WRITABLE_SLOT) :] = True
        else:
            allows = self._allows_input if self._inputs_left else self._allows_output
            allowed[FIRST_SLOT_TOKEN:] = [allows(slot) for slot in range(self.memory_size)]
        return allowed

    def allows(self, token: int) -> bool:
        """Returns True if `mask` allows a token."""
        if self.finished or not 0 <= token < self.token_count:
            return False
        if not self._partial:
            return token < FIRST_SLOT_TOKEN and (
                self._allows_stop() if token == STOP else self._allows_arity(ARITIES[token])
            )
        slot = token - FIRST_SLOT_TOKEN
        return slot >= 0 and (self._allows_input(slot) if self._inputs_left else self._allows_output(slot))

    def push(self, token: int) -> None:
        """Writes a token.

        Raises:
            InvalidProgram: If the token is not allowed; the draft is then unchanged.
        """
        if not self.allows(token):
            raise InvalidProgram(
                f"token {token!r} is not allowed after {len(self.rows)} instructions and {list(self._partial)}; "
                + ("the program is finished" if self.finished else f"expected an allowed {self.expects}, see mask()")
            )
        if token == STOP:
            self.finished = True
        elif not self._partial:
            self._partial = (token,)
        elif self._inputs_left:
            self._partial += (token - FIRST_SLOT_TOKEN,)
        else:
            self._complete(token - FIRST_SLOT_TOKEN)

    def copy(self) -> Draft:
        """Returns an independent draft of the same tokens."""
        twin = object.__new__(Draft)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.rows, twin._flow = self.rows.copy(), None if self._flow is None else self._flow.copy()
        return twin

    def factored_masks(self) -> NDArray[np.bool_]:
        """Returns independent masks of function, inputs and output, concatenated.

        Independent factors cannot express which combinations are allowed. Only choices that no combination allows are
        forbidden here. The draft must not have an unfinished instruction.
        """
        outputs = self.memory_size - FIRST_WRITABLE_SLOT
        if not self._constrained or self.finished:
            masks = np.ones(FIRST_SLOT_TOKEN + MAX_ARITY * self.memory_size + outputs, dtype=np.bool_)
            masks[STOP] = self._allows_stop()
            return masks
        factors = [self.mask()[:FIRST_SLOT_TOKEN]]
        # The more inputs an instruction has, the more is allowed for each, at every place. Inputs that a function does
        # not read are not forbidden.
        longest = self.copy()
        longest.push(ARITIES.index(MAX_ARITY))
        read, every = longest.mask()[FIRST_SLOT_TOKEN:], np.ones(self.memory_size, dtype=np.bool_)
        for place in range(MAX_ARITY):
            ignored = any(self._allows_arity(arity) for arity in _OF_ARITY if arity <= place)
            factors.append(every if ignored else read)
        must_pay = self._debts.bit_count() > self._after
        factors.append(
            np.array([not must_pay or bool(self._debts >> slot & 1) for slot in self._outputs], dtype=np.bool_)
        )
        return np.concatenate(factors)

    @property
    def _outputs(self) -> range:
        return range(FIRST_WRITABLE_SLOT, self.memory_size)

    @property
    def _inputs_left(self) -> int:
        return ARITIES[self._partial[0]] + 1 - len(self._partial)

    @property
    def _after(self) -> int:
        """The number of instructions that may follow the unfinished or next."""
        return self._max - len(self.rows) - 1

    def _allows_stop(self) -> bool:
        return (
            self._stops
            and bool(self.rows)
            and not (self._gradient_due or self._debts)
            and (self._flow is None or self._flow.ends_in_last())
        )

    # A loose end is a value (or a loop of values) that nothing outside it reads yet. All must be read, except the last
    # instruction's. An instruction that reads three loose ends reduces their number by two. So when an instruction has
    # its inputs, at most two loose ends for each of the `_after` instructions may be left. The gradient, if it must be
    # read, counts as a loose end until then.

    def _allows_arity(self, arity: int) -> bool:
        return len(self._loose) + self._gradient_due - arity <= 2 * self._after

    def _allows_input(self, slot: int) -> bool:
        if not self._constrained:
            return True
        inputs = (*self._partial[1:], slot)
        left = self._inputs_left - 1
        if self._open(inputs) - left > 2 * self._after:
            return False
        if (self._debts | self._unwritten(inputs)).bit_count() > self._after + 1:
            return False
        return left > 0 or any(self._allows_output(output, inputs) for output in self._outputs)

    def _allows_output(self, slot: int, inputs: tuple[int, ...] | None = None) -> bool:
        if slot < FIRST_WRITABLE_SLOT:
            return False
        if not self._constrained:
            return True
        inputs = self._partial[1:] if inputs is None else inputs
        debts = self._debts | self._unwritten(inputs)
        if debts.bit_count() > self._after and not debts >> slot & 1:
            return False
        return self._flow is None or self._ties_up(self._flow, inputs, slot)

    def _ties_up(self, flow: _Flow, inputs: tuple[int, ...], output: int) -> bool:
        """Returns True if every value can still be used."""
        if output in inputs or output not in flow.writer:
            return True  # the old value of the slot, if any, is read by this instruction
        if not flow.readers[flow.writer[output]]:
            return False
        flow = flow.copy()
        flow.add(inputs, output)
        loose = flow.loose_ends()
        if loose is None or len(loose) + (self._gradient_due and GRAD not in inputs) > 2 * self._after + 1:
            return False
        return self._after > 0 or flow.ends_in_last()

    def _open(self, inputs: tuple[int, ...]) -> int:
        """Counts the loose ends after these inputs, a due gradient included."""
        read = sum({1 << slot for slot in inputs})
        return sum(not slots & read for slots in self._loose) + (self._gradient_due and GRAD not in inputs)

    def _unwritten(self, inputs: tuple[int, ...]) -> int:
        if not self._tracks_written:
            return 0
        return sum({1 << slot for slot in inputs if slot >= FIRST_WRITABLE_SLOT}) & ~self._written

    def _complete(self, output: int) -> None:
        inputs = self._partial[1:]
        self.rows.append((*self._partial, output))
        self._partial = ()
        if self._constrained:
            self._gradient_due &= GRAD not in inputs
            self._written |= 1 << output
            self._debts = (self._debts | self._unwritten(inputs)) & ~self._written
            if self._flow is not None:
                self._flow.add(inputs, output)
                self._loose = self._flow.loose_ends() or []
        self.finished = len(self.rows) == self._max


class _Flow:
    """The readers of each instruction's value.

    Sets of instructions and of slots are integers with one bit per member.

    Attributes:
        readers: For each instruction, the set of those that read its value later in the same step.
        early: For each slot, the instructions that read it before any writes it; they read the value of its last writer
            in the previous step.
        writer: For each slot, the last instruction so far that writes it.
    """

    __slots__ = ("early", "readers", "writer")

    def __init__(self) -> None:
        self.readers: list[int] = []
        self.early: dict[int, int] = {}
        self.writer: dict[int, int] = {}

    def copy(self) -> _Flow:
        twin = _Flow()
        twin.readers, twin.early, twin.writer = self.readers.copy(), self.early.copy(), self.writer.copy()
        return twin

    def add(self, inputs: tuple[int, ...], output: int) -> None:
        """Appends an instruction."""
        number = len(self.readers)
        for slot in inputs:
            if (writer := self.writer.get(slot)) is not None:
                self.readers[writer] |= 1 << number
            elif slot >= FIRST_WRITABLE_SLOT:
                self.early[slot] = self.early.get(slot, 0) | 1 << number
        self.readers.append(0)
        self.writer[output] = number

    def loose_ends(self) -> list[int] | None:
        """Returns the slots that hold each loose end's values.

        A loose end is one instruction, or several that read each other in a loop over the steps. Returns None if one is
        lost: no slot holds any of its values, so nothing can ever read it.
        """
        slots = [
            sum(1 << slot for slot, writer in self.writer.items() if group >> writer & 1) for group in self._ends()
        ]
        return slots if all(slots) else None

    def ends_in_last(self) -> bool:
        """Returns True if every value reaches the last instruction."""
        ends = self._ends()
        return len(ends) == 1 and bool(ends[0] >> len(self.readers) - 1 & 1)

    def _ends(self) -> list[int]:
        reached = self._reached()
        ends = []
        for number, own in enumerate(reached):
            if all(reached[other] >> number & 1 for other in _members(own)) and own not in ends:
                ends.append(own)
        return ends

    def _reached(self) -> list[int]:
        """Returns the instructions that each value reaches, its own included."""
        direct = self.readers.copy()
        for slot, writer in self.writer.items():
            direct[writer] |= self.early.get(slot, 0)
        reached = [0] * len(direct)
        # Going backwards, later readers in the step are known already; loops over the steps need further rounds.
        changed = True
        while changed:
            changed = False
            for number in range(len(direct) - 1, -1, -1):
                own = 1 << number | direct[number]
                for reader in _members(direct[number]):
                    own |= reached[reader]
                if own != reached[number]:
                    reached[number], changed = own, True
        return reached


def _members(members: int) -> Iterator[int]:
    while members:
        lowest = members & -members
        yield lowest.bit_length() - 1
        members ^= lowest


def _instruction(row: tuple[int, ...]) -> Instruction:
    function, *inputs, output = row
    return Instruction(FUNCTION_NAMES[function], tuple(inputs), output)
