"""`RankReward`: the rank of a program among the last ones."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.wrappers.evaluation_reward import EvaluationReward, check_pays_once


class RankReward(EvaluationReward):
    """Pays the share of the last episodes whose final reward was lower.

    Equal ones count half. Rewards lie from 0 to 1 whatever the task's unit, and the first episode's is 0.5.
    `reset(seed=...)` forgets the episodes, so a seeded replay pays the same.

    **Optimal policy:** changed, since rewards depend on earlier episodes, which observations do not hold. At any moment
    a better program ranks no lower, and strictly higher if an episode of the window lies between the two or equals
    either. Programs better than all of the window get the same reward, 1, until one of them is in it.

    Args:
        env: The environment.
        window: Number of episodes to compare with.

    Raises:
        ValueError: If `window` is not a positive integer, or the env pays more than once an episode (`NOSBenchEdit-v0`
            with `evaluate="step"`).
    """

    def __init__(self, env: gymnasium.Env[Any, Any], window: int = 100) -> None:
        RecordConstructorArgs.__init__(self, window=window)
        super().__init__(env)
        check_pays_once(env, "RankReward")
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f"window must be a positive integer, got {window!r}")
        self._last: deque[float] = deque(maxlen=window)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the env; a seed forgets the episodes so far."""
        if seed is not None:
            self._last.clear()
        return self.env.reset(seed=seed, options=options)

    def changed(self, reward: float) -> float:
        """Returns the rank, from 0 to 1."""
        below = sum((other < reward) + 0.5 * (other == reward) for other in self._last)
        rank = below / len(self._last) if self._last else 0.5
        self._last.append(reward)
        return rank
