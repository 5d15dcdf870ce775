"""`RelativeReward`: pays how much better a program is than a known one."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.envs.edit_env import NOSBenchEditEnv
from nosbench_env.envs.program_env import value
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.program import Program
from nosbench_env.wrappers.evaluation_reward import EvaluationReward


class RelativeReward(EvaluationReward):
    """Subtracts from an episode's final reward what `reference` would be paid: 0 is as good as it, above 0 better.

    The reference is evaluated when the first episode ends, by the env's oracle and under the env's conditions; that is
    one query more in the oracle's statistics, and a training if the store does not know it.

    **Optimal policy:** kept without discounting (gamma 1), since all rewards change by the same amount. With a smaller
    gamma it changes: short programs lose the advantage, or disadvantage, that the subtracted amount had.

    Args:
        env: The environment; no wrapper in it may have changed the reward, for the reference's is not changed.
        reference: A name in `KNOWN_PROGRAMS`, or a program's text.

    Raises:
        ValueError: If the reference is no program, or the env `NOSBenchEdit-v0`, which already pays how much better a
            program is than the one it started from; at the first step, if the reference's loss is not finite.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reference: str = "AdamW") -> None:
        RecordConstructorArgs.__init__(self, reference=reference)
        super().__init__(env)
        if isinstance(env.unwrapped, NOSBenchEditEnv):
            raise ValueError(
                "RelativeReward is not for NOSBenchEdit-v0, whose rewards are relative to its start already"
            )
        self.reference = KNOWN_PROGRAMS[reference] if reference in KNOWN_PROGRAMS else Program.parse(reference)
        self._reference_reward: float | None = None

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the env's, with the reward changed; the first step of all evaluates the reference."""
        if self._reference_reward is None:  # before the env's step, which stands once it is taken
            self._reference_reward = self._evaluate_reference()
        return super().step(action)

    def changed(self, reward: float) -> float:
        """The reward less the reference's."""
        assert self._reference_reward is not None
        return reward - self._reference_reward

    def _evaluate_reference(self) -> float:
        evaluate = self.get_wrapper_attr("evaluate")
        (evaluation,) = evaluate([self.reference])
        if evaluation.status != "ok":
            raise ValueError(f"the reference's loss must be finite, got {evaluation.loss} of\n{self.reference}")
        return value(evaluation, self.get_wrapper_attr("failure_reward"))
