"""`NOSBench-v0`: builds an optimizer, one instruction a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nosbench_env.envs.program_env import (
    Observation,
    ProgramEnv,
    Proposal,
    StepResult,
    final_info,
    final_reward,
    read_state,
)
from nosbench_env.language.draft import ARITIES, FIRST_SLOT_TOKEN, FUNCTION_NAMES, MAX_ARITY, STOP, Draft
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, Instruction, InvalidProgram, Program
from nosbench_env.language.search_space import SearchSpace

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation

WIDTH = 2 + MAX_ARITY  # numbers of an instruction


class NOSBenchEnv(ProgramEnv):
    """An environment for writing an optimizer, rewarded by its negative loss.

    ## Description
    An episode builds a program, one instruction a step. It ends with the STOP action or at the maximum length. Then the
    oracle evaluates the program: it trains the task's network with it, unless the store has the result of an equivalent
    program. The last step of an episode may therefore take from milliseconds to minutes; all others take microseconds.
    The task, the store and torch are loaded at the first evaluation.

    ## Action Space
    `MultiDiscrete([27, 20, 20, 20, 11])`: the function's number (in the order of `FUNCTIONS`; 26 is STOP), three input
    slots (those beyond the function's arity are ignored), and the output slot less 9. The sizes follow `memory_size`.
    Every action in the space is legal at any time. `action_masks()` gives the choices to prefer, in the form that
    sb3-contrib's MaskablePPO reads. It forbids only STOP as the first action, which would give the empty program. With
    `constraints` it also forbids choices that are invalid whatever the other factors are; masks of independent factors
    can't do more. An action after which the program can't be completed within the search space ends the episode as a
    failure. `NOSBenchToken-v0` has exact masks for constraints.

    ## Observation Space
    `MultiDiscrete`, `(5 * max_instructions,)` int64: the program so far, five numbers for each instruction: function
    number + 1, three inputs + 1 (0 where the function takes fewer), output slot - 8. Instructions not yet written are
    0.

    ## Reward
    0 before the last step, which pays `max(-loss, failure_reward)`, or `failure_reward` if the loss is NaN or infinite.
    The loss is the mean training loss of the last epoch, in the task's unit (nats).

    ## Starting State
    The empty program. The env is deterministic: `seed` seeds only `np_random`, which the env does not use.

    ## Episode End
    `terminated` is true after STOP or the last instruction that fits. `truncated` is always false. A wrapper that
    truncates ends an episode without evaluating the program. It should pay `failure_reward`: a reward of 0 would be
    higher than that of most programs.

    ## Info
    Empty before the last step; then `program` (its text), `loss` (a float, or None if not finite, which vector envs
    may turn into NaN) and `status` ("ok", "nan", "inf", or "invalid" for a program that breaks the `constraints`).
    Equal actions give equal infos. Facts that may differ between two replays (hit, seconds, provenance) are in
    `env.unwrapped.last_evaluation`.

    ## Arguments
    Those of `ProgramEnv`.

    ## Version History
    * v0: initial version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The state is the observation, from which `program` is made, and the number of instructions. Making an
        # `Instruction` takes as long as a step, so that is done only when the program is asked for.
        self._observed = np.zeros(self.search_space.max_instructions * WIDTH, dtype=np.int64)
        self._length = 0
        self._draft = self._new_draft()
        self.action_space = spaces.MultiDiscrete(list(self.search_space.action_sizes))
        self.observation_space = observation_space(self.search_space)

    @property
    def program(self) -> Program:
        """The program so far."""
        return program_of(self._observed, self._length)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts with the empty program. There are no options."""
        super().reset(seed=seed)
        self._observed[:] = 0
        self._length, self._draft, self._over = 0, self._new_draft(), False
        self._print_if_human()
        return self._observed.copy(), {}

    def step(self, action: Any) -> StepResult:
        """Appends an instruction, or stops; the last step evaluates the program.

        Raises:
            ValueError: If the action is not in the action space.
            gymnasium.error.ResetNeeded: If the episode is over, or none has begun.
        """
        if self._draft is None and not self._over:  # the fast path of nearly all steps
            numbers = self.search_space.check_action(action)
            if numbers[0] != STOP and self._length + 1 < self.search_space.max_instructions:
                return self._append(_row(numbers))
        return super().step(action)

    def propose(self, action: Any) -> Proposal:
        """See `ProgramEnv.propose`."""
        self._check_running()
        numbers = self.search_space.check_action(action)
        row = None if numbers[0] == STOP else _row(numbers)
        draft = self._draft
        if draft is not None:
            draft = draft.copy()
            try:
                for token in _tokens(numbers):
                    draft.push(token)
            except InvalidProgram:
                return Proposal((), lambda _: self._end(None, self.program, None))
        if row is not None and self._length + 1 < self.search_space.max_instructions:
            return Proposal((), lambda _: self._append(row, draft))
        program = self.program if row is None else Program((*self.program, _instruction(row)))
        return Proposal((program,), lambda evaluations: self._end(row, program, evaluations[0]))

    def _append(self, row: tuple[int, ...], draft: Draft | None = None) -> StepResult:
        self._write(row)
        self._draft = draft
        self._print_if_human()
        return self._observed.copy(), 0.0, False, False, {}

    def _end(self, last: tuple[int, ...] | None, program: Program, evaluation: Evaluation | None) -> StepResult:
        """Ends the episode, writing `last` if given; a failure without `evaluation`."""
        self._over, self.last_evaluation = True, evaluation
        if last is not None:
            self._write(last)
        reward = final_reward(evaluation, self.failure_reward)
        self._print_if_human()
        return self._observed.copy(), reward, True, False, final_info(program, evaluation)

    def _write(self, row: tuple[int, ...]) -> None:
        start = self._length * WIDTH
        self._observed[start : start + WIDTH] = row
        self._length += 1

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns all factors' masks, concatenated: `(98,)` bool for the default space."""
        if self._draft is not None:
            return (self.search_space.draft() if self._over else self._draft).factored_masks()
        return self.search_space.action_masks(self._length)

    def get_state(self) -> dict[str, Any]:
        """See `ProgramEnv.get_state`."""
        return {"program": self.program.to_json(), "over": self._over}

    def set_state(self, state: dict[str, Any]) -> Observation:
        """See `ProgramEnv.set_state`."""
        program, over = read_state(state, "program", "over")
        draft = self._new_draft()
        try:
            tokens = self.search_space.tokens(program)[: None if over else -1]
            if draft is not None and not over:
                for token in tokens:
                    draft.push(token)
        except InvalidProgram as error:
            raise ValueError(f"the state's program is not in this env's {self.search_space}: {error}") from None
        if not over and len(program) == self.search_space.max_instructions:
            raise ValueError(f"'over' must be true for a program of the full {len(program)} instructions")
        self._observed = rows_of(program, self.search_space)
        self._length, self._draft, self._over = len(program), draft, over
        return self._observed.copy()

    def _new_draft(self) -> Draft | None:
        """Returns a draft that checks the constraints; None if there are none."""
        return self.search_space.draft() if self.search_space.constraints else None


def observation_space(space: SearchSpace) -> spaces.MultiDiscrete:
    """Returns the observation space of the programs of a search space."""
    function_choices, *slot_choices = space.action_sizes
    # A function's choices are "not yet written" and the functions: as many as with STOP, which is never observed.
    row = [function_choices, *[choices + 1 for choices in slot_choices]]
    return spaces.MultiDiscrete(row * space.max_instructions)


def rows_of(program: Program, space: SearchSpace) -> Observation:
    """Returns the observation of a program of a search space."""
    rows = np.zeros((space.max_instructions, WIDTH), dtype=np.int64)
    for place, instruction in enumerate(program):
        rows[place] = _row(space.encode(instruction).tolist())
    return rows.ravel()


def program_of(observation: Observation, length: int) -> Program:
    """Returns the program of an observation with `length` instructions."""
    rows = observation.reshape(-1, WIDTH)[:length].tolist()
    return Program(tuple([_instruction(row) for row in rows]))


def _row(numbers: Sequence[int]) -> tuple[int, ...]:
    """Returns an action's observed row: numbers + 1, 0 beyond the arity."""
    function, first, second, third, output = numbers
    arity = ARITIES[function]
    return function + 1, first + 1, second + 1 if arity >= 2 else 0, third + 1 if arity >= 3 else 0, output + 1


def _tokens(numbers: Sequence[int]) -> list[int]:
    """Returns the tokens of an action."""
    function, *inputs, output = numbers
    if function == STOP:
        return [STOP]
    slots = (*inputs[: ARITIES[function]], output + FIRST_WRITABLE_SLOT)
    return [function, *(FIRST_SLOT_TOKEN + slot for slot in slots)]


def _instruction(row: Sequence[int]) -> Instruction:
    """Returns the instruction of a row of the observation."""
    function, first, second, third, output = row
    inputs = (first - 1, second - 1, third - 1)[: ARITIES[function - 1]]
    return Instruction(FUNCTION_NAMES[function - 1], inputs, output - 1 + FIRST_WRITABLE_SLOT)
