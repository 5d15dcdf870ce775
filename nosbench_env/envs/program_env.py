"""`ProgramEnv`: the common part of the environments."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsFloat

import gymnasium
import numpy as np
from numpy.typing import NDArray

from nosbench_env.execution.settings import check_arithmetic, check_device_name, check_epochs, check_seed
from nosbench_env.identity.identify import Identity, check_identity
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.tasks import check_task_name

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation
    from nosbench_env.oracles.oracle import Oracle

Observation = NDArray[np.int64]
StepResult = tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]
Ending = Literal["ok", "nan", "inf", "invalid"]


class UnknownRenderMode(ValueError, TypeError):
    """A render mode that the env does not have.

    It is also a TypeError: stable-baselines3's `make_vec_env` tries "rgb_array" first and goes on without after one.
    """


@dataclass(frozen=True, slots=True)
class Proposal:
    """A step before it is taken.

    Attributes:
        programs: The programs to evaluate for it.
        commit: Takes the step, given their evaluations. Until then the env is unchanged.
    """

    programs: tuple[Program, ...]
    commit: Callable[[Sequence[Evaluation]], StepResult]


class ProgramEnv(gymnasium.Env[Observation, Any]):
    """An environment whose episodes build an optimizer, which the oracle evaluates.

    ## Arguments
    All but `oracle` are plain JSON data and are kept in the env's spec.

    * `task`: a name in `TASKS`, such as "pfn" (the paper's task) or "toy" (less than a second); or "mlp-openml-ID".
    * `epochs`: length of training; None is the task's default (20 for "pfn", as in the paper).
    * `training_seed`: seed of the trainings; 0 is the paper's. The env itself is deterministic.
    * `max_instructions`, `memory_size`: bounds of the search space; the defaults are the paper's.
    * `device`: "auto" (a GPU if available), "cpu", "cuda", "cuda:N".
    * `store`: the store of results, a file or a URL such as `postgresql://user@host/database`; None is the user's
      default store.
    * `failure_reward`: the reward of a failed program, and the lowest reward.
    * `render_mode`: "ansi" (`render()` returns the program's text) or "human" (each step prints it).
    * `arithmetic`: "float32", or "tf32" for reduced precision on a GPU. Results of the two are kept apart.
    * `identity`: "fingerprint", "canonical" or "paper", the rule by which programs share a result; see `Oracle`.
    * `shipped`: True to use the results shipped with the package.
    * `constraints`: some of "written", "used", "gradient", which leave programs out of the search space; see
      `SearchSpace`. The default is none, the paper's space.
    * `oracle`: an `Oracle` to use instead of one made from the arguments; only when constructing an env directly.
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
        constraints: Sequence[str] = (),
        *,
        oracle: Oracle | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise UnknownRenderMode(
                f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}"
            )
        if not isinstance(failure_reward, (int, float)) or not np.isfinite(failure_reward):
            raise ValueError(f"failure_reward must be a finite number, got {failure_reward!r}")
        if isinstance(constraints, str) or not isinstance(constraints, Sequence):
            raise ValueError(f"constraints must be a list of names, got {constraints!r}")
        self.search_space = SearchSpace(max_instructions, memory_size, tuple(constraints))
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
        self._over = True  # until reset

    @property
    @abstractmethod
    def program(self) -> Program:
        """The program so far."""

    @abstractmethod
    def propose(self, action: Any) -> Proposal:
        """Prepares a step without taking it.

        So the programs of many envs can be evaluated together.

        Raises:
            ValueError: If the action is not in the action space.
            gymnasium.error.ResetNeeded: If the episode is over, or none has begun.
        """

    @abstractmethod
    def action_masks(self) -> NDArray[np.bool_]:
        """Returns the mask of allowed choices, as sb3-contrib's MaskablePPO reads it."""

    @property
    def oracle(self) -> Oracle:
        """The oracle that evaluates the programs, made at its first use."""
        if self._oracle is None:
            from nosbench_env.oracles.oracle import Oracle  # loads torch

            self._oracle = Oracle(
                self._task,
                self._store,
                self._device,
                self._identity,
                arithmetic=self._arithmetic,
                shipped=self._shipped,
            )
        return self._oracle

    def evaluate(self, programs: Sequence[Program]) -> list[Evaluation]:
        """Evaluates programs with the env's oracle, length and seed of training."""
        # One by one: there are at most two, and worker processes would take longer to start than to train them.
        return [
            self.oracle.query(program, self._epochs, self._training_seed, last_epoch_only=True) for program in programs
        ]

    def step(self, action: Any) -> StepResult:
        """Takes a step.

        If an evaluation fails or is interrupted, the env is unchanged and the step can be taken again.

        Raises:
            ValueError: If the action is not in the action space.
            gymnasium.error.ResetNeeded: If the episode is over, or none has begun.
        """
        proposal = self.propose(action)
        return proposal.commit(self.evaluate(proposal.programs))

    def render(self) -> str | None:
        """Returns the program so far, with its loss once evaluated.

        That is in the mode "ansi". In others it returns None; each step prints the text in the mode "human".
        """
        return self._text() if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Stops workers and closes the store, which completes its file.

        A later evaluation reopens both.
        """
        if self._oracle is not None and self._injected is None:
            self._oracle.close()

    def fork(self) -> Self:
        """Returns an independent copy in the same state, like `copy.deepcopy`."""
        return copy.deepcopy(self)

    @abstractmethod
    def get_state(self) -> dict[str, Any]:
        """Returns the state as JSON data, for `set_state`."""

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> Observation:
        """Restores a state of `get_state`, also of another env or process.

        Returns:
            The observation in that state.

        Raises:
            ValueError: If the data is no state, or its program is not in this env's search space.
        """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)  # an oracle's copy is the oracle itself
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_oracle": self._injected}  # elsewhere it is made again from the arguments

    def _check_running(self) -> None:
        if self._over:
            raise gymnasium.error.ResetNeeded("the episode is over (or has not begun): call reset() first")

    def _text(self) -> str:
        program = self.program
        lines = [f"{number:3}  {instruction}" for number, instruction in enumerate(program, start=1)]
        if self._over and self.last_evaluation is not None and self.last_evaluation.program == program:
            lines.append(f"loss {self.last_evaluation.loss:.4f} ({self.last_evaluation.status})")
        return "\n".join(lines) or "(empty program)"

    def _print_if_human(self) -> None:
        if self.render_mode == "human":
            print(self._text(), end="\n\n", flush=True)


def final_reward(evaluation: Evaluation | None, failure_reward: float) -> float:
    """Returns a program's reward: its negative loss, at least `failure_reward`.

    A failed program gets `failure_reward`. Programs outside the search space are not evaluated and count as failures.
    """
    if evaluation is None or evaluation.status != "ok":
        return failure_reward
    return max(-evaluation.loss, failure_reward)


def final_info(program: Program, evaluation: Evaluation | None) -> dict[str, Any]:
    """Returns the info of a finished program: its text, loss and status.

    The status is "invalid" without an evaluation, for a program outside the search space. `loss` is None if it is not
    finite; vector envs may turn None into NaN when they gather infos.
    """
    status: Ending = "invalid" if evaluation is None else evaluation.status
    loss = evaluation.loss if evaluation is not None and status == "ok" else None
    return {"program": str(program), "loss": loss, "status": status}


def read_state(state: dict[str, Any], *fields: str) -> list[Any]:
    """Returns a state's fields: "program" as `Program`, "over" as checked bool."""
    try:
        values = [Program.from_json(state[name]) if name == "program" else state[name] for name in fields]
    except (KeyError, TypeError):
        raise ValueError(f"expected a state from get_state(), got {state!r}") from None
    if not isinstance(over := state.get("over"), bool):
        raise ValueError(f"'over' must be true or false, got {over!r}")
    return values
