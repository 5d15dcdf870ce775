"""Processes that train and store, killed at random, and a check of the store."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from nosbench_env.store import Record, ResultStore

TTL_S = 3.0
LONG_S = 4.0  # some trainings outlast a lease, which must be renewed
KEYS_A_SECOND, WINDOW = 40, 200  # which keys are asked for moves on with time, more slowly than leases end


def result(key: str) -> Record:
    """Returns the result of a training of this key."""
    rng = random.Random(key)
    means = (rng.random(), rng.expovariate(1e5), math.nan if rng.random() < 0.2 else rng.uniform(-1e300, 1e300))
    return Record(means, None, {"key": key, "seconds": rng.random()})


def work(location: str, log: Path, begun: float, until: float, seed: int) -> None:
    """Works as an oracle does, and logs each training and each record."""
    rng, store = random.Random(seed), ResultStore(location)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def say(event: str, key: str) -> None:
        os.write(file, (json.dumps([event, key, time.monotonic()]) + "\n").encode())

    while time.monotonic() < until:
        first = int((time.monotonic() - begun) * KEYS_A_SECOND)
        asked = [f"key-{first + rng.randrange(WINDOW)}" for _ in range(rng.randrange(1, 5))]
        unknown = [key for key in dict.fromkeys(asked) if store.get(key, 3) is None]
        if not unknown:
            time.sleep(0.01)
            continue
        with store.leases(TTL_S) as leases:
            for key in leases.take(unknown):
                if store.get(key, 3) is not None:  # another has just finished
                    leases.release([key])
                    continue
                say("start", key)
                time.sleep(LONG_S if rng.random() < 0.01 else rng.uniform(0, 0.2))
                say("end", key)
                store.add(key, result(key), aliases=[f"alias of {key}"], leases=leases)
                say("stored", key)
    store.close()


def run(
    location: str, folder: Path, kills: int, workers: int = 8, seed: int = 0, pause_s: float = 0.3
) -> dict[str, int]:
    """Kills processes that work on a store, and then checks it.

    Returns:
        Counts of processes, trainings and records.
    """
    context, rng = multiprocessing.get_context("fork"), random.Random(seed)
    begun = time.monotonic()
    until = begun + 3600
    logs: dict[Path, float] = {}  # when each process was dead; infinite while it lives

    def start() -> tuple[multiprocessing.process.BaseProcess, Path]:
        log = folder / f"log-{len(logs)}"
        logs[log] = math.inf
        process = context.Process(target=work, args=(location, log, begun, until, rng.randrange(2**32)))
        process.start()
        return process, log

    ResultStore(location).close()
    alive = [start() for _ in range(workers)]
    for _ in range(kills):
        time.sleep(rng.uniform(0, 2 * pause_s))
        number = rng.randrange(workers)
        process, log = alive[number]
        assert process.is_alive(), f"a worker ended by itself, with {process.exitcode}"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        logs[log] = time.monotonic()
        alive[number] = start()
    time.sleep(1.0)
    for process, log in alive:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        logs[log] = time.monotonic()
    time.sleep(TTL_S + 0.5)  # until the leases of the dead have ended
    return check(location, logs)


def check(location: str, logs: dict[Path, float]) -> dict[str, int]:
    """Checks that no stored record is missing and no key was trained twice at once."""
    trainings: dict[str, list[tuple[float, float, Path]]] = defaultdict(list)
    stored: list[str] = []
    for log, died in logs.items():
        begun: dict[str, float] = {}
        for line in log.read_text().splitlines() if log.exists() else []:
            event, key, when = json.loads(line)
            if event == "start":
                begun[key] = when
            elif event == "end":
                trainings[key].append((begun.pop(key), when, log))
            else:
                stored.append(key)
        for key, when in begun.items():
            trainings[key].append((when, died, log))
    twice = [key for key, spans in trainings.items() for one, other in pairwise(sorted(spans)) if other[0] < one[1]]
    assert not twice, f"trained by two at once: {twice}"

    store = ResultStore(location)
    rows: dict[str, int] = defaultdict(int)
    for stored_record in store.records():
        key = stored_record.key
        assert repr(stored_record.record) == repr(result(key)), f"another record than was stored: {stored_record}"
        rows[key] += 1
    again = [key for key, number in rows.items() if number > 1]
    assert not again, f"trained again after it was stored: {again}"
    lost = [key for key in stored if key not in rows]
    assert not lost, f"stored and lost: {lost}"
    for key in rows:
        assert repr(store.get(key, 3)) == repr(result(key))
        assert store.resolve(f"alias of {key}") == key
    with store.leases() as leases:
        stuck = leases.busy(trainings)
        assert not stuck, f"leases that stayed: {stuck}"
        assert leases.take(trainings) == set(trainings)
    if store.path is not None:
        with sqlite3.connect(store.path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    store.close()
    return {
        "processes": len(logs),
        "keys": len(trainings),
        "trainings": sum(map(len, trainings.values())),
        "cut short": sum(end == logs[log] for spans in trainings.values() for _, end, log in spans),
        "stored": len(rows),
        "taken over": sum(len(spans) > 1 for spans in trainings.values()),
        "longer than a lease": sum(end - start > TTL_S for spans in trainings.values() for start, end, _ in spans),
    }
