"""`PotentialShaping`: rewards on the way that leave the best policy the best (Ng, Harada and Russell, 1999)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.language.program import GRAD, MAX_SLOTS, Program


class PotentialShaping(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Pays, at each step from state s to s', the shaping reward `gamma * potential(s') - potential(s)` on top.

    The potential of a state is `scale` times what the program so far is worth, from 0 to 1:

    * "usable": the share of its instructions whose value can still matter, however the program goes on: it is the last
      one, or lies in memory, or another such instruction reads it. A value overwritten unread is lost.
    * "gradient": 1 if a value computed from the gradient is the last one or lies in memory, else 0.

    It is counted from that of the first state, so it begins with 0; where an episode terminates it is 0. For both,
    wrap twice: the shaping rewards add up.

    **Optimal policy:** kept, of all policies and from every state, if the agent discounts with `gamma`: discounted, an
    episode's shaping rewards sum to 0. If a wrapper outside truncates episodes, the last state keeps its potential, as
    an agent that bootstraps there expects.

    Args:
        env: The environment.
        gamma: The agent's discount factor, in (0, 1].
        potential: A name in `POTENTIALS`: "usable" or "gradient".
        scale: The greatest potential, in the reward's unit; > 0.

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
        """As the env's."""
        result = self.env.reset(seed=seed, options=options)
        self._first = self._worth()
        return result

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the env's, with the shaping reward added."""
        before = self._worth()
        observation, reward, terminated, truncated, info = self.env.step(action)
        after = self._first if terminated else self._worth()
        shaping = self.gamma * (after - self._first) - (before - self._first)
        return observation, float(reward) + self.scale * shaping, terminated, truncated, info

    def _worth(self) -> float:
        return POTENTIALS[self.potential](self.get_wrapper_attr("program"))


def usable_share(program: Program) -> float:
    """The share of a program's instructions whose value can still matter, however it goes on; 0 if it has none.

    >>> usable_share(Program.parse("r9 = exp(step); r9 = square(grad)"))
    0.5
    """
    return 1.0 - len(lost(program)) / len(program) if len(program) else 0.0


def lost(program: Program) -> list[int]:
    """The places of the instructions whose value no continuation of the program can use, the last first."""
    needed = set(range(MAX_SLOTS))  # what is in memory at the end can be read, if only in the next step
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
    """1 if a value computed from the gradient is a program's last or in memory after it, else 0.

    >>> holds_gradient(Program.parse("r9 = square(grad); r10 = exp(step)"))
    1.0
    """
    # One pass is enough: where it leaves no such value in memory, none comes from the step before either.
    held = {GRAD}
    for instruction in program:
        if held.isdisjoint(instruction.inputs):
            held.discard(instruction.output)
        else:
            held.add(instruction.output)
    return float(len(held) > 1)


POTENTIALS: Mapping[str, Callable[[Program], float]] = {"usable": usable_share, "gradient": holds_gradient}
