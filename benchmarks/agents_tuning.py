"""The agents on the toy task: the best loss against the number of distinct programs.

The toy task answers in milliseconds, so hyperparameters can be compared on it. Its figures say little about the PFN
task. Seeds count from 100 on, so they are not those of a study. All runs share a store, which does not change figures.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import arguments, median, record

from nosbench_env import Oracle, SearchSpace
from nosbench_env.agents import Agent, Budget, PolicyGradient, RandomSearch, RegularizedEvolution, search

SPACE = SearchSpace(constraints=("gradient", "used", "written"))
FIRST_SEED, DISTINCT, EPOCHS, BATCH = 100, 200, 5, 16
READ_AT = (25, 50, 100, 150, 200)  # distinct programs
SIDES: dict[str, Callable[[int], Agent]] = {
    "random search, no constraints": lambda seed: RandomSearch(seed=seed),
    "random search": lambda seed: RandomSearch(SPACE, seed),
    "evolution from random programs": lambda seed: RegularizedEvolution(
        SPACE, seed, population_size=25, tournament_size=5
    ),
    "untrained policy": lambda seed: PolicyGradient(SPACE, seed, learning_rate=0),
    "REINFORCE": lambda seed: PolicyGradient(SPACE, seed),
    "risk-seeking": lambda seed: PolicyGradient(SPACE, seed, risk_seeking=True),
    "risk-seeking with evolution": lambda seed: PolicyGradient(
        SPACE, seed, risk_seeking=True, evolution=0.5, population_size=25, tournament_size=5
    ),
}


def main() -> None:
    options = arguments(__doc__.splitlines()[0], rounds=None)
    options.add_argument("--seeds", type=int, default=5, help="runs of each agent (default: %(default)s)")
    options.add_argument("--distinct", type=int, default=DISTINCT, help="length of a run (default: %(default)s)")
    given = options.parse_args()
    read_at = [count for count in READ_AT if count <= given.distinct] or [given.distinct]
    figures = {}
    print(f"{'best loss after distinct programs':40}" + "".join(f"{count:>9}" for count in read_at) + "   failed")
    with tempfile.TemporaryDirectory() as folder:
        oracle = Oracle("toy", store=str(Path(folder) / "results.sqlite"), workers=1)
        for name, make in SIDES.items():
            runs = [run(make(FIRST_SEED + number), oracle, given.distinct) for number in range(given.seeds)]
            best = {count: median(curve[count - 1] for curve, _ in runs) for count in read_at}
            failed = median(share for _, share in runs)
            print(f"{name:40}" + "".join(f"{loss:9.3f}" for loss in best.values()) + f"{failed:9.2f}", flush=True)
            figures[name] = {"best": best, "failed": failed, "last": [curve[-1] for curve, _ in runs]}
        oracle.store.close()
    if not given.no_record:
        record("agents_tuning", {"seeds": given.seeds, "epochs": EPOCHS, "batch": BATCH, **figures})


def run(agent: Agent, oracle: Oracle, distinct: int) -> tuple[list[float], float]:
    """Returns the best loss after each distinct program, and the share of failed queries."""
    curve, failed = [np.inf], []
    budget = Budget(distinct=distinct, queries=30 * distinct)  # an agent may find no new programs any more

    search(
        agent,
        oracle,
        budget,
        epochs=EPOCHS,
        batch_size=BATCH,
        on_query=lambda entry, result: (
            failed.append(entry.loss is None),
            curve.append(min(curve[-1], np.inf if entry.loss is None else entry.loss)) if entry.new else None,
        ),
    )
    return curve[1:] + [curve[-1]] * (distinct - len(curve) + 1), float(np.mean(failed))


if __name__ == "__main__":
    main()
