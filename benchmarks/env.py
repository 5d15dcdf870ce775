"""The speed of the env: steps a second, and episodes a second that end in a store hit.

Both use the default wrappers of gymnasium.make, in one process and one thread, and count resets.

Steps: whole episodes of random actions, drawn beforehand, with an oracle that answers at once. This counts all of the
env's own work, including that of an episode's last step (making the program and its text), and no evaluation.

Cached episodes: each writes a random program of the search space on the toy task, whose result another process has
stored. "repeated" plays a few programs repeatedly; "distinct" plays each program once.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from harness import arguments, interleaved, median, record
from numpy.typing import NDArray

from nosbench_env import Evaluation, Oracle, Program, SearchSpace

ENV = "nosbench_env:NOSBench-v0"
STEPS = 20_000  # in a round
REPEATED, EPISODES = 20, 200  # repeated programs; episodes in a round
SPACE = SearchSpace()


class FreeOracle:
    """Answers every query at once, with the same evaluation."""

    answer = Evaluation(Program(), "toy", 1, 0, 1.0, "ok", (1.0,), "key", True, "store")

    def query(
        self, program: Program, epochs: int | None = None, seed: int = 0, *, last_epoch_only: bool = False
    ) -> Evaluation:
        """See `Oracle.query`."""
        return self.answer


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "results.sqlite")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other_process:
            count = EPISODES * (options.rounds + 1)  # with a warm-up round
            programs = other_process.submit(fill_store, store, count + REPEATED).result()
        working_set, distinct = programs[:REPEATED], iter(programs[REPEATED:])
        cached = gymnasium.make(ENV, task="toy", epochs=1, device="cpu", store=store)
        sides = {
            "steps": random_play(),
            "cached episodes, repeated": lambda: write(cached, working_set * (EPISODES // REPEATED)),
            "cached episodes, distinct": lambda: write(cached, [next(distinct) for _ in range(EPISODES)]),
        }
        seconds = interleaved(sides, options.rounds)
        cached.close()
    figures = {
        f"{name} a second": round((STEPS if name == "steps" else EPISODES) / median(taken))
        for name, taken in seconds.items()
    }
    for name, rate in figures.items():
        print(f"{rate:10,}  {name}")
    if not options.no_record:
        record("env", figures)


def random_play() -> Callable[[], None]:
    """Returns a function that takes `STEPS` random steps, with resets."""
    env = gymnasium.make(ENV, oracle=FreeOracle())
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(STEPS)]

    def play() -> None:
        env.reset()
        for action in actions:
            if env.step(action)[2]:
                env.reset()

    return play


def write(env: gymnasium.Env[Any, Any], programs: Sequence[list[NDArray[np.int64]]]) -> None:
    """Plays an episode for each program; each must end in a store hit."""
    for actions in programs:
        env.reset()
        for action in actions:
            terminated = env.step(action)[2]
        if not terminated or env.unwrapped.last_evaluation.source != "store":
            sys.exit("an episode did not end in a store hit")


def fill_store(store: str, count: int) -> list[list[NDArray[np.int64]]]:
    """Trains `count` distinct random programs; returns the actions that write them."""
    oracle, rng = Oracle("toy", store, "cpu"), np.random.default_rng(0)
    trained: dict[Program, list[NDArray[np.int64]]] = {}
    while len(trained) < count:
        program = SPACE.sample(rng)
        if program not in trained and oracle.query(program, epochs=1).source != "probe":
            stop = [SPACE.stop_action] if len(program) < SPACE.max_instructions else []
            trained[program] = [SPACE.encode(instruction) for instruction in program] + stop
    oracle.store.close()
    return list(trained.values())


if __name__ == "__main__":
    main()
