"""`MultiObjectiveReward`: rewards with a program's costs, scalar or vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from nosbench_env.language.costs import COSTS
from nosbench_env.language.program import FIRST_WRITABLE_SLOT
from nosbench_env.wrappers.evaluation_reward import check_pays_once

Scalarisation = Literal["linear", "chebyshev", "none"]

_USUAL_WEIGHTS = {"memory": 0.02, "operations": 0.005, "instructions": 0.005}  # nats for one unit
_MOST_OPERATIONS = 4  # of a single instruction: interpolate
_AUGMENTATION = 1e-3


class MultiObjectiveReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Pays the env's reward and, at an episode's end, the program's costs.

    The objectives are a vector to maximize: the env's reward first, then the negative of each cost. Their sums over an
    episode are the program's reward and its costs. `info["objectives"]` holds them, as a tuple, at each step that
    evaluates a program or ends the episode. `scalarisation` turns them into the reward:

    * "linear": the weighted sum.
    * "chebyshev": `-(max(d) + 0.001 * sum(d))` with `d = weights * (ideal - objectives)`, the augmented weighted
      Chebyshev distance from an ideal point (Steuer and Choo, 1983). The ideal point is `ideal_reward` with costs of 0.
    * "none": the vector itself, `(objectives,)` float64, for methods that learn from vectors, such as those of
      MO-Gymnasium. `reward_space` is its space, set also on the innermost env, where MO-Gymnasium reads it. Code that
      expects a number (Gymnasium's checker, other wrappers, stable-baselines3) can't be used around it.

    Failed programs have costs too. Choose `failure_reward` so low that a cheap failure is worth less than the empty
    program, which costs nothing.

    **Optimal policy:** changed. Without discounting (gamma 1) and with positive weights, the best program is on the
    Pareto front: no other is better in one objective and nowhere worse. "linear" reaches only the convex part of the
    front. "chebyshev" has weights for each point of it, if none is as good as `ideal_reward` and they differ by more
    than the small sum can offset. A weight of 0 leaves an objective out. With "none" the policy depends on the method.

    Args:
        env: The environment.
        costs: Names in `COSTS`: "memory" (floats of state per parameter), "operations" (per parameter and step),
            "instructions" (of the simplified program).
        weights: Weights >= 0 of the reward and of each cost. None means 1 for the reward, 0.02 for a float of memory,
            0.005 for an operation and 0.005 for an instruction. Not for "none".
        scalarisation: "linear", "chebyshev" or "none".
        ideal_reward: Only for "chebyshev", which needs it: a reward above that of any program, such as 1 on the PFN
            task (a loss of -1).

    Raises:
        ValueError: If an argument is invalid, or the scalarisation is "chebyshev" and the env pays more than once in an
            episode (`NOSBenchEdit-v0` with `evaluate="step"`).

    Attributes:
        reward_space: A `Box`, the space of the vector.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        costs: Sequence[str] = ("memory", "operations"),
        weights: Sequence[float] | None = None,
        scalarisation: Scalarisation = "linear",
        ideal_reward: float | None = None,
    ) -> None:
        self.costs = _check_costs(costs)
        RecordConstructorArgs.__init__(
            self,
            costs=list(self.costs),
            weights=None if weights is None else list(weights),
            scalarisation=scalarisation,
            ideal_reward=ideal_reward,
        )
        super().__init__(env)
        if scalarisation not in get_args(Scalarisation):
            raise ValueError(f"scalarisation must be 'linear', 'chebyshev' or 'none', got {scalarisation!r}")
        if (ideal_reward is None) == (scalarisation == "chebyshev"):
            raise ValueError(
                f"ideal_reward must be given for 'chebyshev' and for nothing else, "
                f"got {ideal_reward!r} for {scalarisation!r}"
            )
        if ideal_reward is not None and not math.isfinite(ideal_reward):
            raise ValueError(f"ideal_reward must be a finite number, got {ideal_reward!r}")
        if weights is not None and scalarisation == "none":
            raise ValueError(f"weights are for 'linear' and 'chebyshev', got {weights!r} for 'none'")
        if scalarisation == "chebyshev":
            check_pays_once(env, "MultiObjectiveReward with 'chebyshev'")
        self.scalarisation = scalarisation
        self.weights = _check_weights(weights, self.costs)
        self._ideal = np.zeros(1 + len(self.costs))
        self._ideal[0] = ideal_reward or 0.0
        self.reward_space = self._space()
        if scalarisation == "none":
            env.unwrapped.reward_space = self.reward_space  # type: ignore[attr-defined]  # MO-Gymnasium reads it there

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes a step; the last one of an episode pays the costs."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        objectives = np.zeros(len(self._ideal))
        objectives[0] = reward
        if terminated:
            program = self.get_wrapper_attr("program")
            objectives[1:] -= [COSTS[name](program) for name in self.costs]
        if terminated or "status" in info:
            info["objectives"] = tuple(objectives.tolist())
        return observation, self._reward(objectives, terminated), terminated, truncated, info

    def _reward(self, objectives: NDArray[np.float64], terminated: bool) -> Any:
        if self.scalarisation == "none":
            return objectives
        if self.scalarisation == "linear" or not terminated:
            return float(self.weights @ objectives)
        distances = self.weights * (self._ideal - objectives)
        return -float(distances.max() + _AUGMENTATION * distances.sum())

    def _space(self) -> spaces.Box:
        space = self.get_wrapper_attr("search_space")
        most = {
            "memory": space.memory_size - FIRST_WRITABLE_SLOT,
            "operations": _MOST_OPERATIONS * space.max_instructions + 1,  # and the subtraction of the update
            "instructions": space.max_instructions,
        }
        low = np.array([-math.inf, *(-most[name] for name in self.costs)])
        high = np.array([math.inf, *(0.0 for _ in self.costs)])
        return spaces.Box(low, high, dtype=np.float64)


def _check_costs(costs: Sequence[str]) -> tuple[str, ...]:
    valid = not isinstance(costs, str) and len(costs) > 0 and all(name in COSTS for name in costs)
    if not valid or len(set(costs)) < len(costs):
        raise ValueError(f"costs must be a list with some of {', '.join(COSTS)}, each once, got {costs!r}")
    return tuple(costs)


def _check_weights(weights: Sequence[float] | None, costs: Sequence[str]) -> NDArray[np.float64]:
    if weights is None:
        return np.array([1.0, *(_USUAL_WEIGHTS[name] for name in costs)])
    numbers = np.array(weights, dtype=np.float64)
    if numbers.shape != (1 + len(costs),) or not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.any():
        raise ValueError(
            f"weights must be {1 + len(costs)} finite numbers >= 0, not all 0, of the reward and of "
            f"{', '.join(costs)}, got {weights!r}"
        )
    return numbers
