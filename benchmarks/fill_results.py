"""Trains the programs whose results come with the package, and writes the results.

    python benchmarks/fill_results.py --store results.sqlite [--minutes 60] [--queries 3000] [--device auto]

It trains on the PFN task with seed 0: the search of `make search`; the known programs at 20 epochs; then the programs
of `nosbench search --agent rs` at 20 epochs, first those that read no gradient, which take one or two seconds. It stops
after the given minutes or when all are trained; a further call continues. The results in the store are then exported to
nosbench_env/results/, from where the oracle reads them. On a GPU programs are trained side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, canonical_form
from nosbench_env.agents import Budget, RandomSearch, RegularizedEvolution, search
from nosbench_env.identity.identify import fingerprint
from nosbench_env.results.key import Selection
from nosbench_env.results.shipped import RESULTS
from nosbench_env.results.transfer import export_results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", required=True, help="the store of results: a file or a URL")
    parser.add_argument("--minutes", type=float, default=60.0, help="longest run time (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=3000, help="queries of random search (default: %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=RESULTS / "pfn.jsonl.gz", help="default: %(default)s")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes

    oracle = Oracle("pfn", options.store, options.device, shipped=False)
    # Small batches on a CPU, so that little is in training when the time is up.
    size = 64 if oracle.task.device.startswith("cuda") else 4
    evolution = RegularizedEvolution(start=KNOWN_PROGRAMS["AdamW"], seed=0)
    search(evolution, oracle, Budget(queries=200), epochs=1, reference=KNOWN_PROGRAMS["AdamW"])
    for name, programs, last_epoch_only in work(options.queries):
        for number, batch in enumerate(batches(programs, size)):
            if time.monotonic() > until:
                break
            oracle.query_many(batch, last_epoch_only=last_epoch_only)
            print(f"{name}: {min(size * (number + 1), len(programs))} of {len(programs)}", flush=True)
    oracle.close()

    options.output.parent.mkdir(exist_ok=True)
    identity = fingerprint(KNOWN_PROGRAMS["SGD"]).identity
    report = export_results(oracle.store, options.output, Selection("pfn", identity=identity), overwrite=True)
    print(f"{report.records:,} results in {options.output}, {options.output.stat().st_size / 1e6:.1f} MB")


def work(queries: int) -> Iterator[tuple[str, Sequence[Program], bool]]:
    """Yields the programs to train: a name, the programs, last epoch only."""
    yield "known programs", list(KNOWN_PROGRAMS.values()), False
    distinct: dict[str, Program] = {}
    for program in RandomSearch(seed=0).ask(queries):
        if (digest := fingerprint(program)).status == "ok":
            distinct.setdefault(str(digest), program)
    reads = {True: list[Program](), False: list[Program]()}
    for program in distinct.values():
        reads[canonical_form(program).behaviour == "gradient-based"].append(program)
    yield "random search, without gradient", reads[False], True
    yield "random search, with gradient", reads[True], False


def batches(programs: Sequence[Program], size: int) -> Iterator[list[Program]]:
    for start in range(0, len(programs), size):
        yield list(programs[start : start + size])


if __name__ == "__main__":
    main()
