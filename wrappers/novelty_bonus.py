"""`NoveltyBonus`: a bonus for new programs."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.wrappers.evaluation_reward import EvaluationReward


class NoveltyBonus(EvaluationReward):
    """Adds `bonus` for a new program with a finite loss.

    A program is new if this wrapper has not seen its result's key (`Evaluation.key`): with the env's default identity,
    if its fingerprint is new. A result in the store makes no difference. Failures get no bonus, since there are
    endlessly many ways to fail. `reset(seed=...)` forgets the keys, so a seeded replay pays the same.

    **Optimal policy:** changed while there are unseen programs that are worse than the best one by less than `bonus`
    (in `NOSBenchEdit-v0` with `evaluate="step"`, any unseen programs on the way). It is kept from then on, since each
    bonus is paid once. Observations do not hold the keys seen.

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
        """Resets the env; a seed forgets the keys seen so far."""
        if seed is not None:
            self.seen.clear()
        return self.env.reset(seed=seed, options=options)

    def changed(self, reward: float) -> float:
        """Returns the reward, with the bonus if the program is new."""
        evaluation = self.get_wrapper_attr("last_evaluation")
        if evaluation is None or evaluation.status != "ok" or evaluation.key in self.seen:
            return reward
        self.seen.add(evaluation.key)
        return reward + self.bonus
