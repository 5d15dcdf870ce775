"""Speed and memory of a large store: hits, misses, aliases and opening.

    python benchmarks/store.py [--records 1000000] [--queries 20000] [--keep FILE] [--no-record]

Fills a SQLite store with records like the oracle's (20 epoch means, a provenance with a program). Each figure is from
a fresh process: opening until the first answer, without and with the imports; random hits, one per key, so that none is
answered from memory; hits on a few keys, which are answered from memory; random misses; aliases; the peak of memory.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from harness import arguments, record

PROGRAM = ["r9 = square(grad)", "r10 = interpolate(r10, grad, 0.1)", "r11 = sqrt(r9)", "r10 = div(r10, r11)"]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=None)
    parser.add_argument("--records", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--queries", type=int, default=20_000, help="of each kind (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="use this file, and keep it for the next time")
    parser.add_argument("--measure", help="for this script itself")
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.keep, options.records, options.queries)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = options.keep or Path(folder) / "results.sqlite"
        figures: dict[str, object] = {"records": options.records, "queries": options.queries}
        if not path.exists():
            figures["records filled in a second"] = round(fill(path, options.records))
        figures["MB on disk"] = round(path.stat().st_size / 1e6)
        for kind in ("start", "hits", "repeated hits", "misses", "aliases"):
            command = [sys.executable, __file__, "--measure", kind, "--keep", str(path)]
            command += ["--records", str(options.records), "--queries", str(options.queries)]
            figures |= json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, value in figures.items():
        print(f"{name:44} {value}")
    if not options.no_record:
        record("store", figures)


def key(number: int) -> str:
    return f"pfn-1/seed=0/float32/fingerprint-1/{sha256(str(number).encode()).hexdigest()}"


def fill(path: Path, count: int) -> float:
    """Fills a new store; returns records per second."""
    from nosbench_env.store import Record, ResultStore

    rng = random.Random(0)
    provenance = {"device": "cpu (x86_64)", "nosbench_env": "0.1.0", "torch": "2.13.0", "python": "3.11.7"}
    provenance |= {"seconds": 12.345, "date": "2026-01-01T00:00:00+00:00", "program": PROGRAM}

    def items() -> Iterator[tuple[str, Record]]:
        for number in range(count):
            yield key(number), Record(tuple(rng.random() for _ in range(20)), None, provenance)

    store, started = ResultStore(path), time.perf_counter()
    store.add_many(items())
    seconds = time.perf_counter() - started
    step = max(1, count // 100_000)
    store.add_aliases({f"alias of {number}": key(number) for number in range(0, count, step)})
    store.close()
    return count / seconds


def measure(kind: str, path: Path, records: int, queries: int) -> dict[str, object]:
    """Measures in a fresh process."""
    started = time.perf_counter()
    from nosbench_env.store import ResultStore

    imported = time.perf_counter()
    store = ResultStore(path)
    if store.get(key(0), 20) is None:
        sys.exit("a record is missing")
    opened = time.perf_counter()
    rng = random.Random(1)
    if kind == "start":
        return {
            "ms to open, first answer included": round(1000 * (opened - imported), 1),
            "ms to open, imports included": round(1000 * (opened - started), 1),
        }
    if kind == "hits":
        asked = [key(number) for number in rng.sample(range(records), min(queries, records))]
        seconds = timed(lambda name: store.get(name, 20), asked, known=True)
    elif kind == "repeated hits":
        asked = [key(rng.randrange(min(1000, records))) for _ in range(queries)]
        seconds = timed(lambda name: store.get(name, 20), asked, known=True)
    elif kind == "misses":
        asked = [key(records + number) for number in range(queries)]
        seconds = timed(lambda name: store.get(name, 20), asked, known=False)
    else:
        step = max(1, records // 100_000)
        asked = [f"alias of {number}" for number in rng.sample(range(0, records, step), min(queries, records // step))]
        seconds = timed(store.resolve, asked, known=True)
    figures: dict[str, object] = {}
    for clock, taken in seconds.items():
        for share in (50, 99):
            microseconds = 1e6 * taken[min(len(taken) - 1, int(len(taken) * share / 100))]
            figures[f"{kind}, p{share}, microseconds{clock}"] = round(microseconds)
    if kind == "hits":
        figures["MB of memory, the most"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return figures


def timed(ask: Callable[[str], object], asked: Sequence[str], known: bool) -> dict[str, list[float]]:
    """Returns the sorted seconds of each query, by the wall clock and of this processor."""
    seconds: list[float] = []
    processor: list[float] = []
    for name in asked:
        started, used = time.perf_counter(), time.thread_time()
        answer = ask(name)
        processor.append(time.thread_time() - used)
        seconds.append(time.perf_counter() - started)
        if (answer is not None) != known:
            sys.exit(f"{name} should {'' if known else 'not '}be known")
    return {"": sorted(seconds), " of processor": sorted(processor)}


if __name__ == "__main__":
    main()
