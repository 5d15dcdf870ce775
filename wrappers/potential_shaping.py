"""`PotentialShaping`: intermediate rewards that keep the optimal policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.language.program import GRAD, MAX_SLOTS, Program


class PotentialShaping(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds `gamma * potential(s') - potential(s)` to each step from s to s'.

    The method is that of Ng, Harada and Russell (1999). The potential of a state is `scale` times a score of the
    program so far, from 0 to 1:

    * "usable": the share of its instructions whose value a continuation can use. Such a value is the last one, or lies
      in memory, or another such instruction reads it. A value overwritten before it is read is lost.
    * "gradient": 1 if a value computed from the gradient is the last one or lies in memory, else 0.

    The potential of the first state is subtracted from all, so it starts at 0. It is 0 after the end of an episode. To
    use both, wrap twice: the shaping rewards add up.

    **Optimal policy:** kept, and so is the order of all policies from every state, if the agent discounts with `gamma`:
    discounted, an episode's shaping rewards sum to 0. If an outer wrapper truncates episodes, the last state keeps its
    potential, as an agent that bootstraps there expects.

    Args:
        env: The environment.
        gamma: The agent's discount factor, in (0, 1].
        potential: A name in `POTENTIALS`: "usable" or "gradient".
        scale: The largest potential, in the reward's unit; > 0.

    Raises:
        ValueError: If `potential` is unknown, `gamma` not in (0, 1], or `scale` not a finite number above 0.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], gamma: float, potential: str = "usable", scale: float = 1.0
    ) -> None:
        RecordConstructorArgs.__init__(self, gamma=gamma, potential=potential, scale=scale)
        super().__init__(env)
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1, got {gamma!r}")
        if potential not in POTENTIALS:
            raise ValueError(f"unknown potential {potential!r}; known are {', '.join(POTENTIALS)}")
        if not math.isfinite(scale) or scale <= 0:
            raise ValueError(f"scale must be a finite number above 0, got {scale!r}")
        self.gamma, self.potential, self.scale = gamma, potential, scale
        self._first = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the env."""
        result = self.env.reset(seed=seed, options=options)
        self._first = self._score()
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step in the env, and adds the shaping reward."""
        before = self._score()
        observation, reward, terminated, truncated, info = self.env.step(action)
        after = self._first if terminated else self._score()
        shaping = self.gamma * (after - self._first) - (before - self._first)
        return observation, float(reward) + self.scale * shaping, terminated, truncated, info

    def _score(self) -> float:
        return POTENTIALS[self.potential](self.get_wrapper_attr("program"))


def usable_share(program: Program) -> float:
    """Returns the share of instructions with usable values; 0 if empty.

    >>> usable_share(Program.parse("r9 = exp(step); r9 = square(grad)"))
    0.5
    """
    return 1.0 - len(lost(program)) / len(program) if len(program) else 0.0


def lost(program: Program) -> list[int]:
    """Returns the places of instructions with unusable values, last first."""
    needed = set(range(MAX_SLOTS))  # values in memory at the end can be read in the next step
    places = []
    for place in range(len(program) - 1, -1, -1):
        instruction = program[place]
        if instruction.output in needed:
            needed.discard(instruction.output)
            needed.update(instruction.inputs)
        else:
            places.append(place)
    return places


def holds_gradient(program: Program) -> float:
    """Returns 1 if the last or a stored value uses the gradient, else 0.

    >>> holds_gradient(Program.parse("r9 = square(grad); r10 = exp(step)"))
    1.0
    """
    # One pass is enough: if it leaves no such value in memory, the step before has left none either.
    held = {GRAD}
    for instruction in program:
        if held.isdisjoint(instruction.inputs):
            held.discard(instruction.output)
        else:
            held.add(instruction.output)
    return float(len(held) > 1)


POTENTIALS: Mapping[str, Callable[[Program], float]] = {"usable": usable_share, "gradient": holds_gradient}
