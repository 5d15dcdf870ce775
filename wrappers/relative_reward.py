"""`RelativeReward`: the difference from the reward of a reference program."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from nosbench_env.envs.edit_env import NOSBenchEditEnv
from nosbench_env.envs.program_env import final_reward
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.program import Program
from nosbench_env.wrappers.evaluation_reward import EvaluationReward


class RelativeReward(EvaluationReward):
    """Subtracts the reward of a reference program from an episode's final reward.

    A reward above 0 means better than the reference. The first step evaluates the reference with the env's oracle and
    settings. That is an additional query in the oracle's statistics, and a training if the store lacks its result.

    **Optimal policy:** kept without discounting (gamma 1), since all rewards change by the same amount. With a smaller
    gamma it changes: the subtracted amount is discounted less for short programs than for long ones.

    Args:
        env: The environment. No inner wrapper may change the reward, since the reference's would not be changed.
        reference: A name in `KNOWN_PROGRAMS`, or a program's text.

    Raises:
        ValueError: If the reference is no program, or the env is `NOSBenchEdit-v0`, whose rewards are already relative
            to its start. At the first step, if the reference's loss is not finite.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], reference: str = "AdamW") -> None:
        RecordConstructorArgs.__init__(self, reference=reference)
        super().__init__(env)
        if isinstance(env.unwrapped, NOSBenchEditEnv):
            raise ValueError(
                "RelativeReward is not for NOSBenchEdit-v0, whose rewards are already relative to its start"
            )
        self.reference = KNOWN_PROGRAMS[reference] if reference in KNOWN_PROGRAMS else Program.parse(reference)
        self._reference_reward: float | None = None

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Takes a step, and changes its reward. The first evaluates the reference."""
        if self._reference_reward is None:  # first, since the env's step can't be undone
            self._reference_reward = self._evaluate_reference()
        return super().step(action)

    def changed(self, reward: float) -> float:
        """Returns the reward less the reference's."""
        assert self._reference_reward is not None
        return reward - self._reference_reward

    def _evaluate_reference(self) -> float:
        evaluate = self.get_wrapper_attr("evaluate")
        (evaluation,) = evaluate([self.reference])
        if evaluation.status != "ok":
            raise ValueError(f"the reference's loss must be finite, got {evaluation.loss} of\n{self.reference}")
        return final_reward(evaluation, self.get_wrapper_attr("failure_reward"))
