"""Playing the envs in tests: allowed actions at random, and an oracle that answers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from nosbench_env import Evaluation, Program, canonical_form

IDS = ("NOSBench-v0", "NOSBenchToken-v0", "NOSBenchEdit-v0")


def allowed_action(env: gymnasium.Env, rng: np.random.Generator) -> Any:
    """An action that the masks allow."""
    masks = env.get_wrapper_attr("action_masks")()
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return rng.choice(np.flatnonzero(masks))
    factors = np.split(masks, np.cumsum(env.action_space.nvec)[:-1])
    return np.array([rng.choice(np.flatnonzero(factor)) for factor in factors])


def play_at_random(env: gymnasium.Env, rng: np.random.Generator) -> list[tuple[Any, float, bool, bool, dict[str, Any]]]:
    """The steps of an episode of allowed actions."""
    env.reset()
    steps = [env.step(allowed_action(env, rng))]
    while not steps[-1][2]:
        steps.append(env.step(allowed_action(env, rng)))
    return steps


class InstantOracle:
    """An oracle that computes a loss from the program's text; NaN and infinity are failures, as they should be."""

    def __init__(self, loss: Callable[[Program], float]) -> None:
        self.loss = loss
        self.asked: list[Program] = []

    def query(
        self, program: Program, epochs: int | None = None, seed: int = 0, *, last_epoch_only: bool = False
    ) -> Evaluation:
        return self.query_many([program], epochs, seed, last_epoch_only=last_epoch_only)[0]

    def query_many(
        self, programs: list[Program], epochs: int | None = None, seed: int = 0, *, last_epoch_only: bool = False
    ) -> list[Evaluation]:
        self.asked += programs
        evaluations = []
        for program in programs:
            loss = self.loss(program)
            status = "nan" if np.isnan(loss) else "inf" if np.isinf(loss) else "ok"
            key = canonical_form(program).digest
            evaluations.append(Evaluation(program, "toy", epochs or 1, seed, loss, status, (loss,), key, True, "store"))
        return evaluations

    def __deepcopy__(self, memo: object) -> InstantOracle:
        return self


def instant_env(env_id: str, loss: Callable[[Program], float], **arguments: Any) -> gymnasium.Env:
    """An env whose oracle answers at once."""
    create = gymnasium.envs.registration.load_env_creator(gymnasium.spec(env_id).entry_point)
    return create("toy", oracle=InstantOracle(loss), **arguments)


def random_loss(program: Program) -> float:
    """Some loss of the program's own, the same in every process."""
    return float(np.random.default_rng(list(str(program).encode())).normal(1.0, 1.0))
