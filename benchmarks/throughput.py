"""Evaluations per minute: one process against one worker per core.

    python benchmarks/throughput.py [--programs N] [--epochs 1] [--rounds 2] [--no-record]

Calls `Oracle.query_many` on the PFN task on the CPU with `workers=1` and `workers=<cores>`, with an empty store each
time. All programs cost as much as AdamW. None is equivalent to another, so each is trained. Worker processes start and
train once before the measurement, so their start is not counted.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from harness import arguments, interleaved, median, ratio, record
from programs import adamw_variants

from nosbench_env import Oracle, ResultStore
from nosbench_env.tasks.worker_pool import available_cores


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=2)
    parser.add_argument("--programs", type=int, help="programs per round (default: two per core)")
    parser.add_argument("--epochs", type=int, default=1, help="length of the trainings (default: %(default)s)")
    parser.add_argument("--task", default="pfn", help="(default: %(default)s)")
    options = parser.parse_args()
    cores = available_cores()
    programs = adamw_variants(options.programs or 2 * cores)
    with tempfile.TemporaryDirectory() as folder:
        oracles = {
            f"{workers} workers" if workers > 1 else "1 worker": Oracle(
                task=options.task, store=f"{folder}/{workers}.sqlite", device="cpu", workers=workers
            )
            for workers in sorted({1, cores})
        }
        stores = iter(range(10**9))

        def evaluate(oracle: Oracle) -> None:
            oracle.store.close()
            oracle.store = ResultStore(Path(folder) / f"{next(stores)}.sqlite")
            evaluations = oracle.query_many(programs, epochs=options.epochs)
            if any(evaluation.source != "trained" for evaluation in evaluations):
                sys.exit("not all programs were trained: two count as equivalent")

        sides = {name: partial(evaluate, oracle) for name, oracle in oracles.items()}
        seconds = interleaved(sides, options.rounds, warmup=1)
        for oracle in oracles.values():
            oracle.store.close()

    rates = {name: 60 * len(programs) / median(taken) for name, taken in seconds.items()}
    print(f"{len(programs)} programs, {options.epochs} epochs of the {options.task} task, medians")
    for name, rate in rates.items():
        print(f"{name:10} {rate:8.2f} evaluations a minute")
    figures: dict[str, object] = {
        "task": options.task,
        "programs": len(programs),
        "epochs": options.epochs,
        "rounds": options.rounds,
    }
    figures |= {f"evaluations a minute, {name}": round(rate, 2) for name, rate in rates.items()}
    if cores > 1:
        gain = ratio(seconds, f"{cores} workers", "1 worker")
        figures[f"{cores} workers against one"] = round(gain, 2)
        print(f"{cores} workers against one: {gain:.2f}x")
    if not options.no_record:
        record("throughput", figures)


if __name__ == "__main__":
    main()
