"""`NoveltyBonus`: pays extra for programs not written before."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.wrappers.evaluation_reward import EvaluationReward


class NoveltyBonus(EvaluationReward):
    """Adds `bonus` to the reward of an evaluated program that does something new.

    New is a program whose result's key (`Evaluation.key`) this wrapper has not seen: with the env's default identity,
    one with a new fingerprint; whether a store knew it makes no difference. The bonus is for finite losses only: there
    is no end of ways to fail. `reset(seed=...)` forgets what was seen, so that a seeded replay pays the same.

    **Optimal policy:** changed for as long as there are unseen programs less than `bonus` worse than the best one (in
    `NOSBenchEdit-v0` with `evaluate="step"`, any unseen programs on the way), and kept from then on: each bonus is paid
    once. No observation tells what was seen.

    Args:
        env: The environment.
        bonus: A finite number > 0.

    Raises:
        ValueError: If `bonus` is not a finite number above 0.

    Attributes:
        seen: The keys seen so far.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], bonus: float = 0.1) -> None:
        RecordConstructorArgs.__init__(self, bonus=bonus)
        super().__init__(env)
        if not math.isfinite(bonus) or bonus <= 0:
            raise ValueError(f"bonus must be a finite number above 0, got {bonus!r}")
        self.bonus = float(bonus)
        self.seen: set[str] = set()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the env's; a seed forgets the programs seen so far."""
        if seed is not None:
            self.seen.clear()
        return self.env.reset(seed=seed, options=options)

    def changed(self, reward: float) -> float:
        """The reward, with the bonus if the program is new."""
        evaluation = self.get_wrapper_attr("last_evaluation")
        if evaluation is None or evaluation.status != "ok" or evaluation.key in self.seen:
            return reward
        self.seen.add(evaluation.key)
        return reward + self.bonus
