"""`MultiObjectiveReward`: pays for a program's costs beside its loss, as one number or as a vector."""

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

_USUAL_WEIGHTS = {"memory": 0.02, "operations": 0.005, "instructions": 0.005}  # nats that one is worth
_MOST_OPERATIONS = 4  # of an instruction: interpolate
_AUGMENTATION = 1e-3


class MultiObjectiveReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Pays for several objectives: the reward of the env inside, and a program's costs, paid when the episode ends.

    The objectives are a vector in which more is better: the env's reward first, then each cost, negative. Over an
    episode they add up to what the program is worth and costs. `info["objectives"]` holds them, as a tuple, at each
    step that evaluates a program or ends the episode. The reward is made of them by `scalarisation`:

    * "linear": the weighted sum.
    * "chebyshev": `-(max(d) + 0.001 * sum(d))` with `d = weights * (ideal - objectives)`, the augmented weighted
      Chebyshev distance from an ideal point (Steuer and Choo, 1983). Ideal are `ideal_reward` and costs of 0.
    * "none": the vector itself, `(objectives,)` float64, for methods that learn from vectors as those of MO-Gymnasium
      do. `reward_space` is its space, also on the env inside, where MO-Gymnasium looks for it. What takes the reward
      for a number, such as Gymnasium's checker, other wrappers and stable-baselines3, can't be used around it.

    Failed programs have their costs too: let `failure_reward` be so low that failing cheaply is worth less than the
    empty program, which costs nothing.

    **Optimal policy:** changed. Without discounting (gamma 1) and with positive weights, the best program is on the
    Pareto front: none is better in one objective and nowhere worse. "linear" reaches those on its convex part alone;
    with "chebyshev" there are weights for each, if none is as good as `ideal_reward` and they differ by more than the
    small sum can make up for. A weight of 0 leaves an objective out. With "none" it is up to the method.

    Args:
        env: The environment.
        costs: Names in `COSTS`: "memory" (floats of state per parameter), "operations" (per parameter and step),
            "instructions" (of the simplified program).
        weights: Of the reward and of each cost, not negative; None for 1 and 0.02 a float, 0.005 an operation, 0.005 an
            instruction. Not for "none".
        scalarisation: "linear", "chebyshev" or "none".
        ideal_reward: For "chebyshev", and it alone: a reward that no program gets, such as 1 on the PFN task, where it
            is a loss of -1.

    Raises:
        ValueError: If an argument is not one of these, or the scalarisation "chebyshev" and the env one that pays more
            than once an episode (`NOSBenchEdit-v0` with `evaluate="step"`).

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
            env.unwrapped.reward_space = self.reward_space  # type: ignore[attr-defined]  # what MO-Gymnasium reads

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the env's; the step that ends an episode pays for the program's costs."""
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
    found = np.array(weights, dtype=np.float64)
    if found.shape != (1 + len(costs),) or not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise ValueError(
            f"weights must be {1 + len(costs)} finite numbers >= 0, not all 0, of the reward and of "
            f"{', '.join(costs)}, got {weights!r}"
        )
    return found
