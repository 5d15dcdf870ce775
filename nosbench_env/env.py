"""`NOSBench-v0`: building an optimizer, an instruction a step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from nosbench_env.functions import FUNCTIONS
from nosbench_env.identity import Identity, check_identity
from nosbench_env.program import FIRST_WRITABLE_SLOT, Instruction, Program
from nosbench_env.search_space import FUNCTION_NAMES, MAX_ARITY, STOP, SearchSpace
from nosbench_env.tasks import check_arithmetic, check_device_name, check_epochs, check_seed, check_task_name

if TYPE_CHECKING:
    from nosbench_env.oracle import Evaluation, Oracle

Observation = NDArray[np.int64]
Action = NDArray[np.int64]

_ARITIES = [FUNCTIONS[name].arity for name in FUNCTION_NAMES]
_WIDTH = 2 + MAX_ARITY  # numbers an instruction


class UnknownRenderMode(ValueError, TypeError):
    """The env does not render in this way.

    A TypeError as well, since that tells stable-baselines3's `make_vec_env`, which first asks any env for "rgb_array",
    to do without.
    """


class NOSBenchEnv(gymnasium.Env[Observation, Action]):
    """An agent writes an optimizer; the reward is the negative loss that a network trained with it reaches.

    ## Description
    An episode builds a program, one instruction a step. It ends with the STOP action or at the maximum length; then the
    oracle evaluates the program: it trains the task's network with it, unless the result of an equivalent program is in
    the store. A step that ends an episode may therefore take from milliseconds to minutes; all others take
    microseconds. The task, the store and torch are loaded at the first evaluation.

    ## Action Space
    `MultiDiscrete([27, 20, 20, 20, 11])`: the function's number (in the order of `FUNCTIONS`; 26 is STOP), three input
    slots, of which those beyond the function's arity are ignored, and the output slot less 9. The sizes follow
    `memory_size`. Every action in the space is legal at any time. `action_masks()` gives the choices to prefer, in the
    form that sb3-contrib's MaskablePPO reads: it forbids only STOP as the first action, which would give the empty
    program.

    ## Observation Space
    `MultiDiscrete`, `(5 * max_instructions,)` int64: the program so far, five numbers an instruction: function number
    + 1, three inputs + 1 (0 where the function takes fewer), output slot - 8. Instructions not yet written are 0.

    ## Reward
    0 until the last step; then `max(-loss, failure_reward)`, or `failure_reward` if the loss is NaN or infinite. The
    loss is the mean training loss of the last epoch, in the task's unit (nats).

    ## Starting State
    The empty program. Nothing here is random: `seed` seeds only `np_random`, which the env does not use.

    ## Episode End
    `terminated` is true after STOP or the last instruction that fits. `truncated` is always false. A wrapper that
    truncates ends an episode without evaluating the program; it should pay `failure_reward`, since 0 would beat every
    honest loss.

    ## Info
    Empty until the last step; then `program` (its text), `loss` (a float, or None if not finite; vector envs gather it
    in an array of objects where one is None) and `status` ("ok", "nan", "inf"): equal for equal actions. What may
    differ between two replays (whether it was a hit, seconds, provenance) is in `env.unwrapped.last_evaluation`.

    ## Arguments
    All are plain JSON data, so that they travel in the env's spec, but for `oracle`.

    * `task`: a name in `TASKS`: "pfn", the paper's task, or "toy", which takes less than a second.
    * `epochs`: length of training; None is the task's default (20 for "pfn", as in the paper).
    * `training_seed`: seed of the trainings (the env has none); 0 is the paper's.
    * `max_instructions`, `memory_size`: bounds of the search space; the defaults are the paper's.
    * `device`: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:N".
    * `arithmetic`: "float32", or "tf32" for reduced precision on a GPU, which has results of its own.
    * `identity`: which programs share a result: "fingerprint", "canonical", or "paper"; see `Oracle`.
    * `store`: where results are kept, a file or a URL such as `postgresql://user@host/database`; None is the user's
      default store.
    * `shipped`: whether results that come with the package answer too.
    * `failure_reward`: the reward of a failed program, and the least there is.
    * `render_mode`: "ansi" (`render()` returns the program's text) or "human" (it is printed as it grows).
    * `oracle`: an `Oracle` to use instead of one made from the arguments; only when constructing
      `NOSBenchEnv` directly.

    ## Version History
    * v0: initial version.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  # Gymnasium's form

    def __init__(
        self,
        task: str = "pfn",
        epochs: int | None = None,
        training_seed: int = 0,
        max_instructions: int = 20,
        memory_size: int = 20,
        device: str = "auto",
        store: str | None = None,
        failure_reward: float = -20.0,
        render_mode: str | None = None,
        arithmetic: str = "float32",
        identity: Identity = "fingerprint",
        shipped: bool = True,
        *,
        oracle: Oracle | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownRenderMode(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}"
            )
        if not isinstance(failure_reward, (int, float)) or not np.isfinite(failure_reward):
            raise ValueError(f"failure_reward must be a finite number, got {failure_reward!r}")
        self.search_space = SearchSpace(max_instructions, memory_size)
        self.render_mode = render_mode
        self.failure_reward = float(failure_reward)
        self.last_evaluation: Evaluation | None = None
        self._epochs, self._training_seed = check_epochs(epochs), check_seed(training_seed)
        self._task, self._device, self._store = check_task_name(task), check_device_name(device), store
        self._arithmetic, self._identity = check_arithmetic(arithmetic), check_identity(identity)
        self._shipped = bool(shipped)
        if store is not None and not isinstance(store, (str, Path)):
            raise ValueError(f"store must be a file or a URL, got {store!r}")
        self._injected = self._oracle = oracle
        # The state: the observation, which tells the program; how many instructions it has; whether it is complete.
        # Instructions are made when somebody asks for them: making one takes as long as a step.
        self._observed = np.zeros(max_instructions * _WIDTH, dtype=np.int64)
        self._length = 0
        self._over = True  # until reset

        function_choices, *slot_choices = self.search_space.action_sizes
        self.action_space = spaces.MultiDiscrete([function_choices, *slot_choices])
        # STOP is never part of a program, so one more than the functions is the number for "not yet written".
        row = [function_choices, *[choices + 1 for choices in slot_choices]]
        self.observation_space = spaces.MultiDiscrete(row * max_instructions)

    @property
    def program(self) -> Program:
        """The program so far."""
        rows = self._observed.reshape(-1, _WIDTH)[: self._length].tolist()
        return Program(tuple([_instruction(row) for row in rows]))

    @property
    def oracle(self) -> Oracle:
        """What evaluates the programs, made at its first use."""
        if self._oracle is None:
            from nosbench_env.oracle import Oracle  # loads torch

            self._oracle = Oracle(
                self._task,
                self._store,
                self._device,
                self._identity,
                arithmetic=self._arithmetic,
                shipped=self._shipped,
            )
        return self._oracle

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts an empty program. There are no options."""
        super().reset(seed=seed)
        self._observed[:] = 0
        self._length, self._over = 0, False
        self._print_if_human()
        return self._observed.copy(), {}

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """Appends an instruction, or stops; the last step evaluates the program.

        Raises:
            ValueError: If the action is not in the action space.
            gymnasium.error.ResetNeeded: If the episode is over, or none has begun.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over (or has not begun): call reset() first")
        numbers = self.search_space.check_action(action)
        if numbers[0] == STOP:
            return self._end(None)
        if self._length + 1 == self.search_space.max_instructions:
            return self._end(_row(numbers))
        self._write(_row(numbers))
        self._print_if_human()
        return self._observed.copy(), 0.0, False, False, {}

    def _end(self, last: tuple[int, ...] | None) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """The step that ends the episode, with a last instruction or without."""
        program = self.program if last is None else Program((*self.program, _instruction(last)))
        evaluation = self.oracle.query(program, self._epochs, self._training_seed, last_epoch_only=True)
        # Only now: if the evaluation fails or is interrupted, the step has not happened and can be taken again.
        self._over, self.last_evaluation = True, evaluation
        if last is not None:
            self._write(last)
        finite = evaluation.status == "ok"
        reward = max(-evaluation.loss, self.failure_reward) if finite else self.failure_reward
        info = {
            "program": str(program),
            "loss": evaluation.loss if finite else None,
            "status": evaluation.status,
        }
        self._print_if_human()
        return self._observed.copy(), reward, True, False, info

    def _write(self, row: tuple[int, ...]) -> None:
        start = self._length * _WIDTH
        self._observed[start : start + _WIDTH] = row
        self._length += 1

    def action_masks(self) -> NDArray[np.bool_]:
        """Which choices are allowed now, the factors' masks in a row: `(98,)` bool for the default space."""
        return self.search_space.action_masks(self._length)

    def render(self) -> str | None:
        """The program so far, and its loss once it is evaluated ("ansi"); "human" prints this by itself."""
        return self._text() if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Closes the store, so that all results are in its file; a further evaluation opens it again."""
        if self._oracle is not None and self._injected is None:
            self._oracle.store.close()

    def fork(self) -> NOSBenchEnv:
        """A second env in the same state, which goes its own way from here; `copy.deepcopy` does the same."""
        return copy.deepcopy(self)

    def get_state(self) -> dict[str, Any]:
        """The state as JSON data, for `set_state`."""
        return {"program": self.program.to_json(), "over": self._over}

    def set_state(self, state: dict[str, Any]) -> Observation:
        """Returns to a state of `get_state`, also of another env or process.

        Returns:
            The observation in that state.

        Raises:
            ValueError: If it is not a state, or its program does not fit this env's search space.
        """
        try:
            program, over = Program.from_json(state["program"]), state["over"]
        except (KeyError, TypeError):
            raise ValueError(f"expected a state from get_state(), got {state!r}") from None
        if not isinstance(over, bool):
            raise ValueError(f"'over' must be true or false, got {over!r}")
        if len(program) and program not in self.search_space:
            raise ValueError(f"the state's program is not in this env's {self.search_space}:\n{program}")
        if not over and len(program) == self.search_space.max_instructions:
            raise ValueError(f"'over' must be true for a program of the full {len(program)} instructions")
        self._observed[:] = 0
        self._length, self._over = 0, over
        for instruction in program:
            self._write(_row(self.search_space.encode(instruction).tolist()))
        return self._observed.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> NOSBenchEnv:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)  # an oracle's copy is the oracle itself
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_oracle": self._injected}  # elsewhere it is made again from the arguments

    def _text(self) -> str:
        program = self.program
        lines = [f"{number:3}  {instruction}" for number, instruction in enumerate(program, start=1)]
        if self._over and self.last_evaluation is not None and self.last_evaluation.program == program:
            lines.append(f"loss {self.last_evaluation.loss:.4f} ({self.last_evaluation.status})")
        return "\n".join(lines) or "(empty program)"

    def _print_if_human(self) -> None:
        if self.render_mode == "human":
            print(self._text(), end="\n\n", flush=True)


def _row(numbers: Sequence[int]) -> tuple[int, ...]:
    """An action as the observation shows it: one more, and 0 for the inputs that the function does not take."""
    function, first, second, third, output = numbers
    arity = _ARITIES[function]
    return function + 1, first + 1, second + 1 if arity >= 2 else 0, third + 1 if arity >= 3 else 0, output + 1


def _instruction(row: Sequence[int]) -> Instruction:
    """The instruction that a row of the observation shows."""
    function, first, second, third, output = row
    inputs = (first - 1, second - 1, third - 1)[: _ARITIES[function - 1]]
    return Instruction(FUNCTION_NAMES[function - 1], inputs, output - 1 + FIRST_WRITABLE_SLOT)
