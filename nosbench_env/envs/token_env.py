"""`NOSBenchToken-v0`: builds an optimizer, one token a step."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nosbench_env.envs.instruction_env import WIDTH, observation_space
from nosbench_env.envs.program_env import (
    Observation,
    ProgramEnv,
    Proposal,
    StepResult,
    final_info,
    final_reward,
    read_state,
)
from nosbench_env.language.draft import ARITIES, FIRST_SLOT_TOKEN, FUNCTION_NAMES, STOP, Draft
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, SLOT_NAMES, InvalidProgram, Program

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation


class NOSBenchTokenEnv(ProgramEnv):
    """An environment like `NOSBench-v0` that writes token by token, with exact masks.

    ## Description
    A step writes one token: a function, then each of its inputs, then the output, then the next function, until STOP or
    the maximum length. The oracle then evaluates the program, as in `NOSBench-v0`. This form suits MaskablePPO and
    sequence models: the allowed tokens depend on those before, and `action_masks()` gives them.

    ## Action Space
    `Discrete(27 + memory_size)`: 0 to 25 are the functions (in the order of `FUNCTIONS`), 26 is STOP, 27 + s is slot s.
    Masks are exact: a token is allowed if and only if the tokens so far can be completed to a program of the search
    space with its `constraints`. A token that is not allowed ends the episode as a failure.

    ## Observation Space
    That of `NOSBench-v0`: `MultiDiscrete`, `(5 * max_instructions,)` int64, five numbers for each instruction:
    function number + 1, three inputs + 1 (0 where the function takes fewer), output slot - 8. Numbers not yet written
    are 0, also those of an incomplete instruction.

    ## Reward
    0 before the last step, which pays `max(-loss, failure_reward)`, or `failure_reward` if the loss is NaN or infinite
    or the token was not allowed.

    ## Starting State
    The empty program. The env is deterministic: `seed` seeds only `np_random`, which the env does not use.

    ## Episode End
    `terminated` is true after STOP, after the last instruction that fits, and after a token that is not allowed.
    `truncated` is always false; see `NOSBench-v0`.

    ## Info
    Empty before the last step; then `program` (the text of its complete instructions), `loss` (a float, or None) and
    `status` ("ok", "nan", "inf", or "invalid" after a token that is not allowed: such a program is not evaluated).

    ## Arguments
    Those of `ProgramEnv`.

    ## Version History
    * v0: initial version.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._observed = np.zeros(self.search_space.max_instructions * WIDTH, dtype=np.int64)
        self._draft = self.search_space.draft()
        self.action_space = spaces.Discrete(self.search_space.token_count)
        self.observation_space = observation_space(self.search_space)

    @property
    def program(self) -> Program:
        """The program so far, without an incomplete instruction."""
        return self._draft.program

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts with the empty program. There are no options."""
        super().reset(seed=seed)
        self._observed[:] = 0
        self._draft, self._over = self.search_space.draft(), False
        self._print_if_human()
        return self._observed.copy(), {}

    def propose(self, action: Any) -> Proposal:
        """See `ProgramEnv.propose`."""
        self._check_running()
        token = self._check_token(action)
        if not self._draft.allows(token):
            return Proposal((), lambda _: self._end(self._draft, None))
        draft = self._draft.copy()
        draft.push(token)
        if draft.finished:
            return Proposal((draft.program,), lambda evaluations: self._end(draft, evaluations[0]))
        return Proposal((), lambda _: self._go_on(draft))

    def _go_on(self, draft: Draft) -> StepResult:
        self._write(draft)
        self._print_if_human()
        return self._observed.copy(), 0.0, False, False, {}

    def _end(self, draft: Draft, evaluation: Evaluation | None) -> StepResult:
        self._write(draft)
        self._over, self.last_evaluation = True, evaluation
        reward = final_reward(evaluation, self.failure_reward)
        self._print_if_human()
        return self._observed.copy(), reward, True, False, final_info(self.program, evaluation)

    def _write(self, draft: Draft) -> None:
        """Makes `draft` current, and adds its newest token to the observation."""
        self._draft = draft
        place = len(draft.rows) - (not draft.partial)  # of the row where the newest token stands
        if place >= 0:
            self._observed[place * WIDTH : (place + 1) * WIDTH] = _shown(draft.partial or draft.rows[place])

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns the mask of allowed tokens: `(47,)` bool for the default space.

        After the end of an episode it is the mask of the next one's first token.
        """
        return (self.search_space.draft() if self._over else self._draft).mask()

    def get_state(self) -> dict[str, Any]:
        """See `ProgramEnv.get_state`."""
        return {"program": self.program.to_json(), "partial": list(self._draft.partial), "over": self._over}

    def set_state(self, state: dict[str, Any]) -> Observation:
        """See `ProgramEnv.set_state`."""
        program, partial, over = read_state(state, "program", "partial", "over")
        draft = self.search_space.draft()
        try:
            for token in self.search_space.tokens(program):
                if token != STOP:
                    draft.push(token)
            for place, number in enumerate(partial):
                draft.push(operator.index(number) + (FIRST_SLOT_TOKEN if place else 0))
        except (InvalidProgram, TypeError) as error:
            raise ValueError(
                f"the state does not fit this env, whose programs are {self.search_space}: {error}"
            ) from None
        if draft.finished and not over:
            raise ValueError(f"'over' must be true for a program of the full {len(program)} instructions")
        self._observed[:] = 0
        for place, row in enumerate([*draft.rows, draft.partial]):
            if row:
                self._observed[place * WIDTH : (place + 1) * WIDTH] = _shown(row)
        self._draft, self._over = draft, over
        return self._observed.copy()

    def _text(self) -> str:
        if not (partial := self._draft.partial):
            return super()._text()
        function, *inputs = partial
        slots = [SLOT_NAMES[slot] for slot in inputs] + ["..."] * (ARITIES[function] - len(inputs))
        line = f"{len(self._draft.rows) + 1:3}  ... = {FUNCTION_NAMES[function]}({', '.join(slots)})"
        return f"{super()._text()}\n{line}" if self._draft.rows else line

    def _check_token(self, action: Any) -> int:
        try:
            token = operator.index(action.item() if isinstance(action, np.ndarray) and action.size == 1 else action)
        except TypeError:
            token = -1
        if not 0 <= token < self.search_space.token_count:
            raise ValueError(f"an action is an integer from 0 to {self.search_space.token_count - 1}, got {action!r}")
        return token


def _shown(written: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the row of the observation for an instruction, complete or not."""
    function, *slots = written
    arity = ARITIES[function]
    inputs = [slot + 1 for slot in slots[:arity]]
    output = slots[arity] - FIRST_WRITABLE_SLOT + 1 if len(slots) > arity else 0
    return (function + 1, *inputs, *[0] * (WIDTH - 2 - len(inputs)), output)
