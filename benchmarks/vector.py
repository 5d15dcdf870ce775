"""The speed of the vector envs: steps a second, and their share of an oracle's time.

All in one process and one thread, with 64 sub-envs and random allowed actions; drawing them and resets are counted.

Steps: with an oracle that answers at once. This counts all of the envs' own work, including that of an episode's last
step (making the program and its text), and no evaluation. "ours" is this package's vector env, "sync" Gymnasium's
SyncVectorEnv; "sb3" is this package's bridge to stable-baselines3, "dummy" its DummyVecEnv. All are made as users do.

Batches: with an oracle that takes 1 ms for a program. "share" is its time for the same batches alone, divided by that
of the envs. On a busy machine read the processor's time, which is all that the envs add.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from harness import arguments, interleaved, median, ratio, record
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env

from nosbench_env import Evaluation, Program
from nosbench_env.language.draft import STOP
from nosbench_env.sb3 import make_sb3_env

ENVS = {"tokens": "nosbench_env:NOSBenchToken-v0", "instructions": "nosbench_env:NOSBench-v0"}
COUNT = 64
SECONDS_A_PROGRAM = 0.001


class FreeOracle:
    """Answers every query at once, with the same evaluation."""

    answer = Evaluation(Program(), "toy", 1, 0, 1.0, "ok", (1.0,), "key", True, "store")

    def query(self, program: Program, *arguments: Any, **options: Any) -> Evaluation:
        """See `Oracle.query`."""
        return self.answer

    def query_many(self, programs: Sequence[Program], *arguments: Any, **options: Any) -> list[Evaluation]:
        """See `Oracle.query_many`."""
        return [self.answer] * len(programs)


class SlowOracle(FreeOracle):
    """Takes a millisecond for each distinct program; records their count in each call."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def query(self, program: Program, *arguments: Any, **options: Any) -> Evaluation:
        """See `Oracle.query`."""
        return self.query_many([program])[0]

    def query_many(self, programs: Sequence[Program], *arguments: Any, **options: Any) -> list[Evaluation]:
        """See `Oracle.query_many`."""
        self.batches.append(len(set(programs)))
        self.work(self.batches[-1])
        return super().query_many(programs)

    def work(self, programs: int) -> None:
        """Takes the time of a call for this many programs."""
        time.sleep(SECONDS_A_PROGRAM * programs)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500, help="steps of all sub-envs a round (default: %(default)s)")
    options = parser.parse_args()
    figures = steps_a_second(options.rounds, options.steps) | shares(options.rounds, options.steps // 2)
    for name, figure in figures.items():
        print(f"{figure:10,}  {name}")
    if not options.no_record:
        record("vector", figures)


def steps_a_second(rounds: int, steps: int) -> dict[str, float]:
    """Returns steps a second by kind of env, and ratios to Gymnasium's and SB3's."""
    sides: dict[str, Play] = {}
    for kind, env_id in ENVS.items():
        sync = gymnasium.make_vec(env_id, COUNT, vectorization_mode="sync", oracle=FreeOracle())
        dummy = make_vec_env(env_id, COUNT, env_kwargs={"oracle": FreeOracle(), "render_mode": None})
        sides |= {
            f"{kind}, ours": Play(gymnasium.make_vec(env_id, COUNT, oracle=FreeOracle()), steps),
            f"{kind}, sync": Play(sync, steps),
            f"{kind}, sb3": Play(make_sb3_env(env_id, COUNT, oracle=FreeOracle()), steps),
            f"{kind}, dummy": Play(dummy, steps),
        }
    seconds = interleaved(sides, rounds)
    figures = {f"steps a second: {name}": round(COUNT * steps / median(taken)) for name, taken in seconds.items()}
    for kind in ENVS:
        for ours in ("ours", "sb3"):
            processor_seconds = median(sides[f"{kind}, {ours}"].processor_seconds)
            figures[f"steps a processor second: {kind}, {ours}"] = round(COUNT * steps / processor_seconds)
        figures[f"times faster: {kind}, ours than sync"] = round(ratio(seconds, f"{kind}, ours", f"{kind}, sync"), 1)
        figures[f"times faster: {kind}, sb3 than dummy"] = round(ratio(seconds, f"{kind}, sb3", f"{kind}, dummy"), 1)
    return figures


def shares(rounds: int, steps: int) -> dict[str, float]:
    """Returns, by kind of env, the oracle's time for the same batches alone as a share."""
    figures = {}
    for kind, env_id in ENVS.items():
        oracle = SlowOracle()
        played = Play(gymnasium.make_vec(env_id, COUNT, oracle=oracle), steps)
        played()  # the same each time
        batches = oracle.batches.copy()
        seconds = interleaved(
            {"envs": played, "oracle": lambda batches=batches, oracle=oracle: [oracle.work(n) for n in batches]}, rounds
        )
        figures[f"share: {kind}"] = round(1 / ratio(seconds, "oracle", "envs"), 3)
        figures[f"programs a second: {kind}"] = round(sum(batches) / median(seconds["envs"]))
        processor_ms = 1000 * median(played.processor_seconds) / sum(batches)
        figures[f"processor milliseconds a program: {kind}"] = round(processor_ms, 3)
    return figures


class Play:
    """Plays the same random steps at each call, in envs of Gymnasium or stable-baselines3.

    Attributes:
        processor_seconds: Processor time of each call, which other processes on the machine disturb less.
    """

    def __init__(self, envs: Any, steps: int) -> None:
        self.processor_seconds: list[float] = []
        self._envs, self._steps, self._masks = envs, steps, masks_of(envs)
        space = getattr(envs, "single_action_space", envs.action_space)
        tokens = isinstance(space, gymnasium.spaces.Discrete)
        self._draw = draw_tokens if tokens else partial(draw_instructions, space.nvec)

    def __call__(self) -> None:
        """Plays the steps."""
        rng, started = np.random.default_rng(0), time.process_time()
        self._envs.reset()
        for _ in range(self._steps):
            self._envs.step(self._draw(self._masks(), rng))
        self.processor_seconds.append(time.process_time() - started)


def masks_of(envs: Any) -> Callable[[], NDArray[np.bool_]]:
    """Returns a user's way to the action masks of all sub-envs."""
    if hasattr(envs, "env_method"):
        return lambda: np.stack(envs.env_method("action_masks"))
    if hasattr(envs, "action_masks"):
        return envs.action_masks
    return lambda: np.stack(envs.call("action_masks"))


def draw_tokens(masks: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws an allowed token for each row."""
    return (rng.random(masks.shape, dtype=np.float32) * masks).argmax(axis=1)


def draw_instructions(
    sizes: NDArray[np.int64], masks: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draws an allowed instruction, or STOP, for each row."""
    actions = rng.integers(sizes, size=(len(masks), len(sizes)))
    actions[:, 0] = np.where(masks[:, STOP], actions[:, 0], actions[:, 0] % STOP)
    return actions


if __name__ == "__main__":
    main()
