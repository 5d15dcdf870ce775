"""`NOSBenchEdit-v0`: improves an optimizer, one edit a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nosbench_env.envs.instruction_env import observation_space, rows_of
from nosbench_env.envs.program_env import (
    Observation,
    ProgramEnv,
    Proposal,
    StepResult,
    final_info,
    final_reward,
    read_state,
)
from nosbench_env.language.draft import MAX_ARITY, STOP
from nosbench_env.language.known_programs import KNOWN_PROGRAMS, known_name
from nosbench_env.language.program import InvalidProgram, Program

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation

INSERT, DELETE, MODIFY, END = range(4)  # the kinds of actions


class NOSBenchEditEnv(ProgramEnv):
    """An environment for editing an optimizer, rewarded by its improvement.

    ## Description
    An episode starts from a known or given program. A step inserts, deletes or modifies one instruction, or ends the
    episode. The rewards add up to the improvement of the loss over the whole episode.

    ## Action Space
    `MultiDiscrete([4, max_instructions, 26, memory_size, memory_size, memory_size, memory_size - 9])`: the kind (0
    insert, 1 delete, 2 modify, 3 end), the place, and an instruction: function, three inputs (those beyond its arity
    are ignored), output slot less 9. "insert" puts the instruction before the one at that place, or at the end if there
    is none. "modify" replaces the one at that place and "delete" removes it; both take the last one if there is none.
    Every action in the space is legal at any time. An edit that would lead out of the search space (too long, empty,
    against the `constraints`) is not made: the step counts and pays 0. `action_masks()` forbids choices that are
    impossible whatever the other factors are: kinds that the length rules out and places beyond the end. Without
    constraints, every edit that it allows is made.

    ## Observation Space
    `MultiDiscrete`, `(5 * max_instructions + 1,)` int64: the program as in `NOSBench-v0`, then the number of edits
    left.

    ## Reward
    With `evaluate="step"`, each edit pays the value of the program after it less the value before it. A value is
    `max(-loss, failure_reward)`, or `failure_reward` for a loss that is NaN or infinite. With `evaluate="end"`, the
    last step pays the value at the end less the value at the start, and all others 0. Without discounting, both add up
    to the same.

    ## Starting State
    The program `start`, or for one episode `reset(options={"program": ...})`: a name in `KNOWN_PROGRAMS`, a text, or
    JSON data. The env is deterministic. The program is evaluated at the first step that needs its value.

    ## Episode End
    `terminated` is true after the kind "end" and after `max_edits` edits. `truncated` is always false.

    ## Info
    After each step that evaluates the program, such as the last one: `program` (its text), `loss` (a float, or None if
    not finite) and `status` ("ok", "nan", "inf"). Empty after all others.

    ## Arguments
    Those of `ProgramEnv`, and

    * `start`: the program to start from; "AdamW" by default.
    * `max_edits`: edits of an episode.
    * `evaluate`: "step" or "end".

    ## Version History
    * v0: initial version.
    """

    def __init__(
        self,
        *args: Any,
        start: str | Sequence[Any] = "AdamW",
        max_edits: int = 20,
        evaluate: Literal["step", "end"] = "step",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if isinstance(max_edits, bool) or not isinstance(max_edits, int) or max_edits < 1:
            raise ValueError(f"max_edits must be an integer >= 1, got {max_edits!r}")
        if evaluate not in ("step", "end"):
            raise ValueError(f"evaluate must be 'step' or 'end', got {evaluate!r}")
        self._start = self._read(start)
        self._max_edits, self._every_step = max_edits, evaluate == "step"
        self._program = self._base = self._start
        self._edits_left = 0
        # The value that improvements are measured from, if known: that of the program before the edit, or of the one at
        # the start of the episode.
        self._base_value: float | None = None

        function_choices, *slot_choices = self.search_space.action_sizes
        length = self.search_space.max_instructions
        self._sizes = [4, length, function_choices - 1, *slot_choices]
        self.action_space = spaces.MultiDiscrete(self._sizes)
        rows = observation_space(self.search_space).nvec.tolist()
        self.observation_space = spaces.MultiDiscrete([*rows, max_edits + 1])

    @property
    def program(self) -> Program:
        """The program after the edits so far."""
        return self._program

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts from `start`, or from `options["program"]`.

        Raises:
            InvalidProgram: If that is not a program of the search space.
        """
        super().reset(seed=seed)
        given = (options or {}).get("program")
        self._begin(self._start if given is None else self._read(given))
        self._edits_left, self._over = self._max_edits, False
        self._print_if_human()
        return self._observation(), {}

    def propose(self, action: Any) -> Proposal:
        """See `ProgramEnv.propose`."""
        self._check_running()
        kind, place, *numbers = self._check_action(action)
        program = self._edited(kind, place, numbers)
        over = kind == END or self._edits_left == 1
        if not (over or (self._every_step and program != self._program)):
            return Proposal((), lambda _: self._go_on(program, over, 0.0, {}))
        programs = (program,) if self._base_value is not None else (program, self._base)
        return Proposal(programs, lambda evaluations: self._improve(program, over, evaluations))

    def _improve(self, program: Program, over: bool, evaluations: Sequence[Evaluation]) -> StepResult:
        evaluation, *base = evaluations
        if base:
            self._base_value = final_reward(base[0], self.failure_reward)
        before, after = self._base_value, final_reward(evaluation, self.failure_reward)
        assert before is not None
        self.last_evaluation = evaluation
        if self._every_step:
            self._base, self._base_value = program, after
        return self._go_on(program, over, after - before, final_info(program, evaluation))

    def _go_on(self, program: Program, over: bool, reward: float, info: dict[str, Any]) -> StepResult:
        self._program, self._over = program, over
        self._edits_left -= 1
        self._print_if_human()
        return self._observation(), reward, over, False, info

    def _edited(self, kind: int, place: int, numbers: Sequence[int]) -> Program:
        """Returns the edited program, unchanged if the edit is impossible."""
        instructions = list(self._program)
        instruction = self.search_space.decode(numbers)
        assert instruction is not None
        if kind == INSERT:
            instructions.insert(place, instruction)
        elif kind == MODIFY:
            instructions[min(place, len(instructions) - 1)] = instruction
        elif kind == DELETE:
            del instructions[min(place, len(instructions) - 1)]
        edited = Program(tuple(instructions)) if len(instructions) <= self.search_space.max_instructions else None
        return edited if edited is not None and edited in self.search_space else self._program

    def action_masks(self) -> NDArray[np.bool_]:
        """Returns all factors' masks, concatenated: `(121,)` bool for the default space."""
        space, length = self.search_space, len(self._program)
        longest = space.max_instructions
        kinds = [length < longest, length > 1, True, True]
        places = np.arange(longest) < length + 1
        places[length:] &= length < longest
        rest = np.ones(STOP + MAX_ARITY * space.memory_size + space.action_sizes[-1], dtype=np.bool_)
        return np.concatenate([kinds, places, rest])

    def get_state(self) -> dict[str, Any]:
        """See `ProgramEnv.get_state`."""
        return {
            "program": self._program.to_json(),
            "base": self._base.to_json(),
            "edits_left": self._edits_left,
            "over": self._over,
        }

    def set_state(self, state: dict[str, Any]) -> Observation:
        """See `ProgramEnv.set_state`."""
        program, base, edits_left, over = read_state(state, "program", "base", "edits_left", "over")
        base = Program.from_json(base)
        for name, given in (("program", program), ("base", base)):
            if given not in self.search_space:
                raise ValueError(f"the state's {name} is not in this env's {self.search_space}:\n{given}")
        if isinstance(edits_left, bool) or not isinstance(edits_left, int) or not 0 <= edits_left <= self._max_edits:
            raise ValueError(f"'edits_left' must be an integer from 0 to {self._max_edits}, got {edits_left!r}")
        if not over and edits_left == 0:
            raise ValueError("'over' must be true when no edits are left")
        self._begin(base)
        self._program, self._edits_left, self._over = program, edits_left, over
        return self._observation()

    def _begin(self, base: Program) -> None:
        if base != self._base:
            self._base, self._base_value = base, None
        self._program = base

    def _observation(self) -> Observation:
        return np.append(rows_of(self._program, self.search_space), self._edits_left)

    def _read(self, start: Any) -> Program:
        """Returns the program that an argument names, brought into the search space."""
        if isinstance(start, Program):
            program = start
        elif isinstance(start, str):
            name = known_name(start)
            program = _parsed(start) if name is None else KNOWN_PROGRAMS[name]
        elif isinstance(start, Sequence | Mapping):
            program = Program.from_json(start)
        else:
            raise InvalidProgram(f"a program to start from is a name, a text or JSON data, got {start!r}")
        return self.search_space.admit(program)

    def _check_action(self, action: Any) -> list[int]:
        if np.asarray(action).dtype.kind in "iu" and self.action_space.contains(np.asarray(action, dtype=np.int64)):
            return [int(number) for number in action]
        sizes = self._sizes
        raise ValueError(f"an action is {len(sizes)} integers below {sizes}, got {action!r}")


def _parsed(text: str) -> Program:
    try:
        return Program.parse(text)
    except InvalidProgram as error:
        raise InvalidProgram(f"{text!r} is none of {', '.join(KNOWN_PROGRAMS)}, and no program text: {error}") from None
