"""Vector environments in one process, which evaluate all programs together."""

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
from nosbench_env.envs.program_env import ProgramEnv, final_info, final_reward
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

_READING = frozenset({"action_masks", "fork", "get_state", "render"})  # methods that do not change a sub-env


@dataclass(slots=True)
class Transition:
    """The results of a step of all sub-envs, by sub-env.

    Attributes:
        rewards: `(n,)` float64.
        terminations: `(n,)` bool.
        truncations: `(n,)` bool.
        infos: The steps' infos by number of the sub-env, without empty ones.
        final_observations: The last observations of episodes after which the next has already begun.
        reset_infos: The infos of the resets that began them.
    """

    rewards: NDArray[np.float64]
    terminations: Flags
    truncations: Flags
    infos: dict[int, Info] = field(default_factory=dict)
    final_observations: dict[int, Integers] = field(default_factory=dict)
    reset_infos: dict[int, Info] = field(default_factory=dict)


class ProgramVectorEnv(VectorEnv[Integers, Integers, NDArray[Any]]):
    """Environments of one kind in one process, with programs evaluated together.

    It behaves like Gymnasium's `SyncVectorEnv` with the same single environments, whose docstrings describe spaces,
    rewards and infos. But the oracle gets all programs that a step completes in one call, each once, and trains the
    unknown ones side by side; and the steps themselves are fast.
    `gymnasium.make_vec("nosbench_env:NOSBench-v0", num_envs=64)` makes one.

    ## Arguments
    Those of the single environment, the same for all sub-envs, and

    * `num_envs`: number of sub-envs.
    * `autoreset_mode`: an `AutoresetMode` or its value, the time at which a sub-env starts its next episode.
      "NextStep": in the next step, which ignores its action. "SameStep": at once; the last observation and info of the
      old episode are in `infos["final_obs"]` and `infos["final_info"]`. "Disabled": when the caller resets it with
      `reset(options={"reset_mask": mask})`, where the mask is a bool array.

    If an evaluation fails or is interrupted, no sub-env has taken the step, and it can be taken again.

    Sub-envs without edits, rendering and constraints are stepped together, as arrays; others one by one.
    """

    env_type: ClassVar[type[ProgramEnv]]
    drafts_type: ClassVar[type[ArrayDrafts] | None] = None

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
        if self.drafts_type is None or env.render_mode is not None or env.search_space.constraints:
            envs, shape = [env, *(env.fork() for _ in range(num_envs - 1))], self.observation_space.shape or ()
            self._sub_envs = _SeparateEnvs(envs, np.zeros(shape, dtype=np.int64), self._evaluate)
        else:
            self._sub_envs = _ArrayEnvs(env, self.drafts_type(env.search_space, num_envs), self._evaluate)

    @property
    def oracle(self) -> Oracle:
        """The oracle that evaluates the programs, made at its first use."""
        return self._env.oracle

    @property
    def last_evaluations(self) -> list[Evaluation | None]:
        """Each sub-env's last evaluation, with facts that infos lack: hit, seconds, provenance."""
        return list(self._sub_envs.last_evaluations)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Integers, Info]:
        """Starts an episode in every sub-env, or in some of them.

        Args:
            seed: A seed for each sub-env; or the first one's seed, from which the others count up.
            options: The options of the single env, and "reset_mask", a bool array `(num_envs,)` of those to reset.

        Raises:
            TypeError: If the mask is not a bool array.
            ValueError: If the mask has another shape or is all false, or there is not one seed for each sub-env.
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
        """Starts episodes in sub-envs of the mask `which`; returns non-empty infos."""
        infos = self._sub_envs.reset(which, seeds, options)
        self._begun |= which
        self._over &= ~which
        return infos

    def step(self, actions: Integers) -> VectorStep:
        """Takes a step in each sub-env.

        In the mode "NextStep" a sub-env whose episode is over is reset instead.

        Raises:
            ValueError: If an action is not in the action space. Then no sub-env has taken a step.
            gymnasium.error.ResetNeeded: If the caller must reset a sub-env first.
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
        """Does the same as `step`, and returns infos by sub-env."""
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
        """Returns a new array of all observations."""
        return self._sub_envs.observations()

    def action_masks(self) -> Flags:
        """Returns all sub-envs' masks, as the single env's: `(num_envs, k)`."""
        return self._sub_envs.action_masks()

    def render(self) -> tuple[str | None, ...]:  # type: ignore[override]  # Gymnasium's has no strings
        """Renders each sub-env."""
        return self.call("render")

    def envs(self, *, to_change: bool = True) -> list[ProgramEnv]:
        """Returns the single environments. Stepping is slow after a call with `to_change`."""
        envs = self._sub_envs.envs(self._over | ~self._begun)
        if to_change:
            self._sub_envs = _SeparateEnvs(envs, self.observations(), self._evaluate)
        return envs

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Calls a method, or gets an attribute, of each sub-env."""
        return tuple(self.call_in(range(self.num_envs), name, *args, **kwargs))

    def call_in(self, numbers: Iterable[int], name: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Does the same as `call` for some of the sub-envs."""
        if name == "action_masks":
            masks = self.action_masks()
            return [masks[number] for number in numbers]
        envs = self.envs(to_change=False)
        if callable(getattr(envs[0], name)) and name not in _READING:
            envs = self.envs()
        attributes = [getattr(envs[number], name) for number in numbers]
        return [each(*args, **kwargs) if callable(each) else each for each in attributes]

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Does the same as `call`, as in Gymnasium's vector envs."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Sets an attribute of each sub-env.

        Args:
            name: The attribute.
            values: One value for all, or a list or tuple with one for each.

        Raises:
            ValueError: If the list has another length.
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
        """Closes the store, which completes its file."""
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
        """Returns int64 actions, 0 where ignored (the episode is over)."""
        numbers, shape = np.asarray(actions), self.action_space.shape
        if numbers.dtype.kind not in "iu" or numbers.shape != shape:
            raise ValueError(f"actions must be integers of the shape {shape}, got {actions!r}")
        numbers = numbers.astype(np.int64)
        numbers[self._over] = 0
        wrong = (numbers < 0) | (numbers >= self._choices)
        if wrong.any():
            number = int(np.flatnonzero(wrong.reshape(self.num_envs, -1).any(axis=1))[0])
            raise ValueError(f"sub-env {number}: the action {numbers[number]} is not in {self.single_action_space}")
        return numbers


class NOSBenchVectorEnv(ProgramVectorEnv):
    """Many environments `NOSBench-v0`; see `ProgramVectorEnv`."""

    env_type, drafts_type = NOSBenchEnv, InstructionDrafts


class NOSBenchTokenVectorEnv(ProgramVectorEnv):
    """Many environments `NOSBenchToken-v0`; see `ProgramVectorEnv`."""

    env_type, drafts_type = NOSBenchTokenEnv, TokenDrafts


class NOSBenchEditVectorEnv(ProgramVectorEnv):
    """Many environments `NOSBenchEdit-v0`; see `ProgramVectorEnv`."""

    env_type = NOSBenchEditEnv


class _SubEnvs(Protocol):
    """The sub-envs of a vector env, as single environments or as arrays.

    Attributes:
        single: The single environments made so far.
    """

    single: list[ProgramEnv]

    @property
    def last_evaluations(self) -> list[Evaluation | None]: ...

    def observations(self) -> Integers:
        """Returns a new array of all observations."""

    def action_masks(self) -> Flags: ...

    def reset(
        self, which: Flags, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[int, Info]: ...

    def step(self, actions: Integers, over: Flags, reset_at_once: bool) -> Transition:
        """Steps each sub-env, or resets it if over. Errors change nothing."""

    def envs(self, over: Flags) -> list[ProgramEnv]:
        """Returns the sub-envs as they are; `over` marks ended episodes."""


class _SeparateEnvs:
    """Sub-envs as single environments."""

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


class _ArrayEnvs:
    """Sub-envs as rows of arrays."""

    def __init__(self, env: ProgramEnv, drafts: ArrayDrafts, evaluate: Evaluate) -> None:
        count = len(drafts.rows)
        self.last_evaluations: list[Evaluation | None] = [None] * count
        self.single = [env]  # the others are made when needed
        self._env, self._drafts, self._evaluate = env, drafts, evaluate
        self._new_seeds: list[int | None] = [None] * count  # that the single environments do not have yet

    def observations(self) -> Integers:
        return self._drafts.observations()

    def action_masks(self) -> Flags:
        return self._drafts.masks()

    def reset(
        self, which: Flags, seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[int, Info]:
        for number in np.flatnonzero(which).tolist():
            if seeds[number] is not None:
                seeding.np_random(seeds[number])  # raises if it is not a seed
                self._new_seeds[number] = seeds[number]
        self._drafts.clear(which)
        return {}

    def step(self, actions: Integers, over: Flags, reset_at_once: bool) -> Transition:
        drafts, ended, refused = self._drafts.after(actions, ~over)
        # Equal programs have equal observations, which are faster to compare.
        written = {number: drafts.rows[number].tobytes() for number in np.flatnonzero(ended).tolist()}
        programs: dict[bytes, Program] = {}
        for number, rows in written.items():
            if rows not in programs:
                programs[rows] = drafts.program(number)
        asked = {rows: programs[rows] for number, rows in written.items() if not refused[number]}
        known = dict(zip(asked, self._evaluate(list(asked.values())), strict=True))
        # From here on nothing fails.
        taken = Transition(np.zeros(len(over)), ended, np.zeros_like(ended))
        for number, rows in written.items():
            evaluation = None if refused[number] else known[rows]
            taken.rewards[number] = final_reward(evaluation, self._env.failure_reward)
            taken.infos[number] = final_info(programs[rows], evaluation)
            self.last_evaluations[number] = evaluation
            if reset_at_once:
                taken.final_observations[number] = drafts.observation(number)
        drafts.clear(ended if reset_at_once else over)
        self._drafts = drafts
        return taken

    def envs(self, over: Flags) -> list[ProgramEnv]:
        self.single += [self._env.fork() for _ in over[len(self.single) :]]
        for number, env in enumerate(self.single):
            if (seed := self._new_seeds[number]) is not None:
                env.reset(seed=seed)
                self._new_seeds[number] = None
            env.set_state(self._drafts.state(number) | {"over": bool(over[number])})
            env.last_evaluation = self.last_evaluations[number]
        return self.single


def _choices(space: gymnasium.Space[Any]) -> NDArray[np.int64] | int:
    """Counts the choices of an action, or of each factor."""
    assert isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
    return int(space.n) if isinstance(space, spaces.Discrete) else space.nvec


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise ValueError(f"autoreset_mode must be one of {[m.value for m in AutoresetMode]}, got {mode!r}") from None
