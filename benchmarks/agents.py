"""The study of the agents: every search method at equal budgets, over several seeds.

    python benchmarks/agents.py --folder studies/agents --seeds 0 1 2 3 4 --distinct 100 --jobs 2
    nosbench compare studies/agents/runs/*

Budgets count distinct programs. Runs are those of `nosbench search`, by default at one epoch of the PFN task, and share
a store: a program that several runs ask for is trained once, and counts in each of them. After Ctrl-C the same command
resumes the study; a greater budget or more seeds prolong it. The agents' defaults were tuned on other seeds, from 100
on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from nosbench_env import KNOWN_PROGRAMS, Oracle, SearchSpace
from nosbench_env.agents import AGENTS, Budget, search

# Leaves out programs with instructions that change nothing, and those that never read the gradient.
CONSTRAINED: dict[str, Any] = {"space": SearchSpace(constraints=("used", "gradient"))}
QUERIES_PER_DISTINCT = 100  # limits runs that find no new programs any more


# By name: a key of `AGENTS`, the arguments of the agent, and the batch size.
METHODS: Mapping[str, tuple[str, Mapping[str, Any], int]] = {
    "rs": ("rs", {}, 1),
    "rs-constrained": ("rs", CONSTRAINED, 1),
    "re-adamw": ("re", {"start": KNOWN_PROGRAMS["AdamW"]}, 1),
    "re-random": ("re", {}, 1),
    "ppo": ("ppo", {}, 16),
    "maskable-ppo": ("maskable-ppo", {}, 16),
    "maskable-ppo-constrained": ("maskable-ppo", CONSTRAINED, 16),
    "reinforce": ("reinforce", {}, 16),
    "reinforce-constrained": ("reinforce", CONSTRAINED, 16),
    "risk-seeking-constrained": ("risk-seeking", CONSTRAINED, 16),
    "untrained-constrained": ("reinforce", CONSTRAINED | {"learning_rate": 0.0}, 16),  # the initial policy
    "smac-nos": ("smac-nos", {}, 1),
    "smac-hpo": ("smac-hpo", {"initial_configs": 25}, 1),  # the share that SMAC takes of a budget of 100
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("studies/agents"), help="runs and, by default, the store")
    parser.add_argument("--store", help="the shared store; default: one in the folder")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--distinct", type=int, default=100, help="distinct programs a run")
    parser.add_argument("--task", default="pfn")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, a process each")
    options = parser.parse_args()
    store = options.store or str(options.folder / "results.sqlite")
    # Seed by seed, so an interrupted study has equally many seeds of each method.
    runs = [(method, seed) for seed in options.seeds for method in options.methods]
    started = time.monotonic()
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), _ignore_interrupts) as pool:
        pending = {
            pool.submit(run, method, seed, options.folder, store, options.task, options.epochs, options.distinct): (
                f"{method}, seed {seed}"
            )
            for method, seed in runs
        }
        try:
            for done in as_completed(pending):
                print(f"{time.monotonic() - started:7.0f} s  {pending[done]:34} {done.result()}", flush=True)
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():
                process.kill()  # a run can be stopped at any moment
            sys.exit("\nStopped; finished queries are kept. Run the same command to resume.")


def run(method: str, seed: int, folder: Path, store: str, task: str, epochs: int, distinct: int) -> str:
    """Does a run, or the rest of it; returns a summary."""
    agent, arguments, batch_size = METHODS[method]
    result = search(
        AGENTS[agent](seed=seed, **arguments),
        Oracle(task, store, workers=1),
        Budget(queries=QUERIES_PER_DISTINCT * distinct, distinct=distinct),
        epochs=epochs,
        folder=folder / "runs" / f"{method}-s{seed}",
        batch_size=batch_size,
    )
    best = "none" if result.best is None else f"{result.best.loss:.4f} at query {result.best.number}"
    return f"{result.queries} queries, {result.distinct} distinct, best {best}"


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes


if __name__ == "__main__":
    main()
