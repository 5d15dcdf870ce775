"""Many environments stepped at once, in this process: the programs that a step completes are evaluated together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from nosbench_env.envs.array_drafts import ArrayDrafts, InstructionDrafts, TokenDrafts
from nosbench_env.envs.edit_env import NOSBenchEditEnv
from nosbench_env.envs.instruction_env import NOSBenchEnv
from nosbench_env.envs.program_env import ProgramEnv, outcome, value
from nosbench_env.envs.token_env import NOSBenchTokenEnv
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation
    from nosbench_env.oracles.oracle import Oracle

Flags = NDArray[np.bool_]
Integers = NDArray[np.int64]
Info = dict[str, Any]
Evaluate = Callable[[Sequence[Program]], "list[Evaluation]"]
VectorStep = tuple[Integers, NDArray[np.float64], Flags, Flags, Info]

_READING = frozenset({"action_masks", "fork", "get_state", "render"})  # methods that change nothing in a sub-env


@dataclass(slots=True)
class Transition:
    """What a step of all sub-envs gives, before it is put in Gymnasium's form.

    Attributes:
        rewards: `(n,)` float64.
        terminations: `(n,)` bool.
        truncations: `(n,)` bool.
        infos: The steps' infos by number of the sub-env, but for empty ones.
        final_observations: The last observations of episodes, where the next has begun already.
        reset_infos: The infos of these resets.
    """

    rewards: NDArray[np.float64]
    terminations: Flags
    truncations: Flags
    infos: dict[int, Info] = field(default_factory=dict)
    final_observations: dict[int, Integers] = field(default_factory=dict)
    reset_infos: dict[int, Info] = field(default_factory=dict)


class ProgramVectorEnv(VectorEnv[Integers, Integers, NDArray[Any]]):
    """Many environments of one kind in one process, whose programs are evaluated together.

    Step by step it does what Gymnasium's `SyncVectorEnv` does with the same single environments, whose docstrings say
    what spaces, rewards and infos are. But the programs that a step completes are put to the oracle in one call, each
    once, so that the unknown ones train side by side; and the steps themselves cost little.
    `gymnasium.make_vec("nosbench_env:NOSBench-v0", num_envs=64)` makes one.

    ## Arguments
    Those of the single environment, the same for all sub-envs, and

    * `num_envs`: how many sub-envs there are.
    * `autoreset_mode`: when a sub-env whose episode is over starts the next: an `AutoresetMode` or its value.
      "NextStep": in the next step, which ignores its action. "SameStep": at once; the last observation and info of the
      old episode are in `infos["final_obs"]` and `infos["final_info"]`. "Disabled": when the caller says so, with
      `reset(options={"reset_mask": mask})`, where the mask is a bool array.

    If an evaluation fails or is interrupted, the step has not happened in any sub-env, and can be taken again.

    Sub-envs that neither edit nor render nor have constraints are stepped together, as arrays; others one by one.
    """

    env_type: ClassVar[type[ProgramEnv]]
    board_type: ClassVar[type[ArrayDrafts] | None] = None

    def __init__(
        self, num_envs: int = 1, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP, **arguments: Any
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs must be an integer >= 1, got {num_envs!r}")
        self.num_envs, self.autoreset_mode = num_envs, _autoreset_mode(autoreset_mode)
        env = self._env = self.env_type(**arguments)
        self._epochs, self._training_seed = arguments.get("epochs"), arguments.get("training_seed", 0)
        self.metadata = env.metadata | {"autoreset_mode": self.autoreset_mode}
        self.render_mode = env.render_mode
        self.single_action_space, self.single_observation_space = env.action_space, env.observation_space
        self.action_space = batch_space(env.action_space, num_envs)
        self._choices = _choices(env.action_space)
        self.observation_space = batch_space(env.observation_space, num_envs)
        self._begun = np.zeros(num_envs, dtype=np.bool_)
        self._over = np.zeros(num_envs, dtype=np.bool_)
        self._sub_envs: _SubEnvs
        if self.board_type is None or env.render_mode is not None or env.search_space.constraints:
            envs, shape = [env, *(env.fork() for _ in range(num_envs - 1))], self.observation_space.shape or ()
            self._sub_envs = _SeparateEnvs(envs, np.zeros(shape, dtype=np.int64), self._evaluate)
        else:
            self._sub_envs = _EnvsOnBoard(env, self.board_type(env.search_space, num_envs), self._evaluate)

    @property
    def oracle(self) -> Oracle:
        """What evaluates the programs, made at its first use."""
        return self._env.oracle

    @property
    def last_evaluations(self) -> list[Evaluation | None]:
        """Each sub-env's last evaluation, which has what infos have not: whether it was a hit, seconds, provenance."""
        return list(self._sub_envs.last_evaluations)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Integers, Info]:
        """Starts an episode in every sub-env, or in some.

        Args:
            seed: A seed for each sub-env; or one number, from which they count up.
            options: What the single env takes; and "reset_mask", a bool array `(num_envs,)`: which ones to reset.

        Raises:
            TypeError: If the mask is no bool array.
            ValueError: If the mask has another shape or is all false, or the number of seeds is not that of sub-envs.
        """
        which = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            which = self._checked_mask(options["reset_mask"])
            options = {name: option for name, option in options.items() if name != "reset_mask"}
        infos = self.reset_each(which, self._seeds(seed), [options] * self.num_envs)
        return self.observations(), self._gathered(infos.items())

    def reset_each(
        self, which: Flags, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[int, Info]:
        """Starts an episode in each of `which`, with its own seed and options; returns the infos that there are."""
        infos = self._sub_envs.reset(which, seeds, options)
        self._begun |= which
        self._over &= ~which
        return infos

    def step(self, actions: Integers) -> VectorStep:
        """Takes a step in each sub-env, or a reset where the last step ended an episode and the mode is "NextStep".

        Raises:
            ValueError: If an action is not in the action space. Then no sub-env has taken a step.
            gymnasium.error.ResetNeeded: If a sub-env waits for the caller to reset it.
        """
        taken = self.transition(actions)
        infos: list[tuple[int, Info]] = []
        for number in sorted(taken.infos.keys() | taken.final_observations.keys() | taken.reset_infos.keys()):
            info = taken.infos.get(number, {})
            if (observation := taken.final_observations.get(number)) is not None:
                infos.append((number, {"final_obs": observation, "final_info": info}))
                info = taken.reset_infos.get(number, {})
            infos.append((number, info))
        return self.observations(), taken.rewards, taken.terminations, taken.truncations, self._gathered(infos)

    def transition(self, actions: Integers) -> Transition:
        """Does what `step` does, for those who want its infos by sub-env."""
        waiting = ~self._begun
        if self.autoreset_mode == AutoresetMode.DISABLED:
            waiting |= self._over
        if waiting.any():
            raise gymnasium.error.ResetNeeded(
                f"the episodes of sub-envs {np.flatnonzero(waiting).tolist()} are over (or have not begun): "
                "call reset() first"
            )
        taken = self._sub_envs.step(
            self._checked_actions(actions), self._over, self.autoreset_mode == AutoresetMode.SAME_STEP
        )
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            self._over = taken.terminations | taken.truncations
        return taken

    def observations(self) -> Integers:
        """A new array of all observations."""
        return self._sub_envs.observations()

    def action_masks(self) -> Flags:
        """Which choices each sub-env has now, as the single env says: `(num_envs, k)`."""
        return self._sub_envs.action_masks()

    def render(self) -> tuple[str | None, ...]:  # type: ignore[override]  # Gymnasium's has no strings
        """What each sub-env renders."""
        return self.call("render")

    def envs(self, *, to_change: bool = True) -> list[ProgramEnv]:
        """The single environments; stepping is slow once they were taken to be changed."""
        envs = self._sub_envs.envs(self._over | ~self._begun)
        if to_change:
            self._sub_envs = _SeparateEnvs(envs, self.observations(), self._evaluate)
        return envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method of each sub-env gives, or its attribute of that name if it is no method."""
        return tuple(self.call_in(range(self.num_envs), name, *args, **kwargs))

    def call_in(self, numbers: Iterable[int], name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """The same for some of the sub-envs."""
        if name == "action_masks":
            masks = self.action_masks()
            return [masks[number] for number in numbers]
        envs = self.envs(to_change=False)
        if callable(getattr(envs[0], name)) and name not in _READING:
            envs = self.envs()
        found = [getattr(envs[number], name) for number in numbers]
        return [each(*args, **kwargs) if callable(each) else each for each in found]

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The same as `call`, as in Gymnasium's vector envs."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of each sub-env: to the same value, or to its own if there is a list or tuple of them.

        Raises:
            ValueError: If there is another number of values.
        """
        if not isinstance(values, (list, tuple)):
            values = [values] * self.num_envs
        if len(values) != self.num_envs:
            raise ValueError(f"values must be one or {self.num_envs}, got {len(values)}")
        for env, own in zip(self.envs(), values, strict=True):
            setattr(env, name, own)

    @property  # type: ignore[misc]  # Gymnasium's can be set
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]  # as in SyncVectorEnv
        """The sub-envs' generators."""
        return self.call("np_random")

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]  # as in SyncVectorEnv
        """The sub-envs' seeds."""
        return self.call("np_random_seed")

    def close_extras(self, **kwargs: Any) -> None:
        """Closes the store, so that all results are in its file."""
        if hasattr(self, "_sub_envs"):  # not if an argument was wrong
            for env in self._sub_envs.single:
                env.close()

    def _evaluate(self, programs: Sequence[Program]) -> list[Evaluation]:
        if not programs:
            return []  # loads no torch
        return self.oracle.query_many(programs, self._epochs, self._training_seed, last_epoch_only=True)

    def _gathered(self, infos: Iterable[tuple[int, Info]]) -> Info:
        gathered: Info = {}
        for number, info in infos:
            gathered = self._add_info(gathered, info, number)
        return gathered

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            return [int(seed) + number for number in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"seed must be a number, or a list of {self.num_envs}, got a list of {len(seed)}")
        return seed

    def _checked_mask(self, mask: Any) -> Flags:
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] must be a numpy array of bools, got {mask!r}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have the shape ({self.num_envs},) and a true element, got {mask!r}"
            )
        return mask

    def _checked_actions(self, actions: Any) -> Integers:
        """The actions; 0 where an episode is over, and the action is ignored."""
        found, shape = np.asarray(actions), self.action_space.shape
        if found.dtype.kind not in "iu" or found.shape != shape:
            raise ValueError(f"actions must be integers of the shape {shape}, got {actions!r}")
        found = found.astype(np.int64)
        found[self._over] = 0
        wrong = (found < 0) | (found >= self._choices)
        if wrong.any():
            number = int(np.flatnonzero(wrong.reshape(self.num_envs, -1).any(axis=1))[0])
            raise ValueError(f"sub-env {number}: the action {found[number]} is not in {self.single_action_space}")
        return found


class NOSBenchVectorEnv(ProgramVectorEnv):
    """Many environments `NOSBench-v0`; see `ProgramVectorEnv`."""

    env_type, board_type = NOSBenchEnv, InstructionDrafts


class NOSBenchTokenVectorEnv(ProgramVectorEnv):
    """Many environments `NOSBenchToken-v0`; see `ProgramVectorEnv`."""

    env_type, board_type = NOSBenchTokenEnv, TokenDrafts


class NOSBenchEditVectorEnv(ProgramVectorEnv):
    """Many environments `NOSBenchEdit-v0`; see `ProgramVectorEnv`."""

    env_type = NOSBenchEditEnv


class _SubEnvs(Protocol):
    """The sub-envs of a vector env, however they are kept.

    Attributes:
        single: Single environments that have been made for it.
    """

    single: list[ProgramEnv]

    @property
    def last_evaluations(self) -> list[Evaluation | None]: ...

    def observations(self) -> Integers:
        """A new array of all observations."""

    def action_masks(self) -> Flags: ...

    def reset(
        self, which: Flags, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[int, Info]: ...

    def step(self, actions: Integers, over: Flags, reset_at_once: bool) -> Transition:
        """Takes a step in each sub-env; but resets those whose episode is over. Or else nothing has happened."""

    def envs(self, over: Flags) -> list[ProgramEnv]:
        """The sub-envs as they are now, given whose episode is over."""


class _SeparateEnvs:
    """Sub-envs that are single environments."""

    def __init__(self, envs: list[ProgramEnv], observations: Integers, evaluate: Evaluate) -> None:
        self.single = envs
        self._observations, self._evaluate = observations, evaluate

    @property
    def last_evaluations(self) -> list[Evaluation | None]:
        return [env.last_evaluation for env in self.single]

    def observations(self) -> Integers:
        return self._observations.copy()

    def action_masks(self) -> Flags:
        return np.stack([env.action_masks() for env in self.single])

    def reset(
        self, which: Flags, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[int, Info]:
        infos = {}
        for number in np.flatnonzero(which).tolist():
            self._observations[number], info = self.single[number].reset(seed=seeds[number], options=options[number])
            if info:
                infos[number] = info
        return infos

    def step(self, actions: Integers, over: Flags, reset_at_once: bool) -> Transition:
        steps = np.flatnonzero(~over).tolist()
        proposals = {number: self.single[number].propose(actions[number]) for number in steps}
        asked = list(dict.fromkeys(program for proposal in proposals.values() for program in proposal.programs))
        known = dict(zip(asked, self._evaluate(asked), strict=True))
        # From here on nothing fails.
        ended = np.zeros(len(over), dtype=np.bool_)
        taken = Transition(np.zeros(len(over)), ended, ended.copy())
        self._reset_alone(np.flatnonzero(over).tolist(), taken.infos)
        for number, proposal in proposals.items():
            observation, reward, terminated, truncated, info = proposal.commit([known[p] for p in proposal.programs])
            self._observations[number], taken.rewards[number] = observation, float(reward)
            taken.terminations[number], taken.truncations[number] = terminated, truncated
            if info:
                taken.infos[number] = info
            if reset_at_once and (terminated or truncated):
                taken.final_observations[number] = observation
                self._reset_alone([number], taken.reset_infos)
        return taken

    def envs(self, over: Flags) -> list[ProgramEnv]:
        return self.single

    def _reset_alone(self, numbers: Iterable[int], infos: dict[int, Info]) -> None:
        for number in numbers:
            self._observations[number], info = self.single[number].reset()
            if info:
                infos[number] = info


class _EnvsOnBoard:
    """Sub-envs that are rows of arrays."""

    def __init__(self, env: ProgramEnv, board: ArrayDrafts, evaluate: Evaluate) -> None:
        count = len(board.rows)
        self.last_evaluations: list[Evaluation | None] = [None] * count
        self.single = [env]  # the others are made when asked for
        self._env, self._board, self._evaluate = env, board, evaluate
        self._new_seeds: list[int | None] = [None] * count  # that the single environments have not heard of

    def observations(self) -> Integers:
        return self._board.observations()

    def action_masks(self) -> Flags:
        return self._board.masks()

    def reset(
        self, which: Flags, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[int, Info]:
        for number in np.flatnonzero(which).tolist():
            if seeds[number] is not None:
                seeding.np_random(seeds[number])  # raises if it is not a seed
                self._new_seeds[number] = seeds[number]
        self._board.clear(which)
        return {}

    def step(self, actions: Integers, over: Flags, reset_at_once: bool) -> Transition:
        board, ended, refused = self._board.after(actions, ~over)
        # Equal programs have equal observations, which are cheaper to compare.
        written = {number: board.rows[number].tobytes() for number in np.flatnonzero(ended).tolist()}
        programs: dict[bytes, Program] = {}
        for number, rows in written.items():
            if rows not in programs:
                programs[rows] = board.program(number)
        asked = {rows: programs[rows] for number, rows in written.items() if not refused[number]}
        known = dict(zip(asked, self._evaluate(list(asked.values())), strict=True))
        # From here on nothing fails.
        taken = Transition(np.zeros(len(over)), ended, np.zeros_like(ended))
        for number, rows in written.items():
            evaluation = None if refused[number] else known[rows]
            taken.rewards[number] = value(evaluation, self._env.failure_reward)
            taken.infos[number] = outcome(programs[rows], evaluation)
            self.last_evaluations[number] = evaluation
            if reset_at_once:
                taken.final_observations[number] = board.observation(number)
        board.clear(ended if reset_at_once else over)
        self._board = board
        return taken

    def envs(self, over: Flags) -> list[ProgramEnv]:
        self.single += [self._env.fork() for _ in over[len(self.single) :]]
        for number, env in enumerate(self.single):
            if (seed := self._new_seeds[number]) is not None:
                env.reset(seed=seed)
                self._new_seeds[number] = None
            env.set_state(self._board.state(number) | {"over": bool(over[number])})
            env.last_evaluation = self.last_evaluations[number]
        return self.single


def _choices(space: gymnasium.Space[Any]) -> NDArray[np.int64] | int:
    """How many choices an action has, or each of its factors."""
    assert isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
    return int(space.n) if isinstance(space, spaces.Discrete) else space.nvec


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise ValueError(f"autoreset_mode must be one of {[m.value for m in AutoresetMode]}, got {mode!r}") from None
