"""Damaged copies of a SQLite store, and checks of its answers."""

from __future__ import annotations

import math
import random
from collections import Counter
from hashlib import sha256
from pathlib import Path

from nosbench_env.store import Record, ResultStore, StoreError

KEYS = [f"toy-1/seed=0/float32/{sha256(str(number).encode()).hexdigest()}" for number in range(40)]
RECORDS = {key: Record((number / 7, math.pi * number, 1e-300), None, {"n": number}) for number, key in enumerate(KEYS)}


def original(folder: Path) -> tuple[bytes, bytes, bytes]:
    """Returns the bytes of a closed store, of an open one, and of the log of that."""
    store = ResultStore(folder / "original.sqlite")
    store.add_many(RECORDS.items())
    for key in RECORDS:
        store.add_aliases({f"alias-{key}": key})
    store.add("stopped", Record((1.0, math.nan), 5))
    store.close()
    closed = (folder / "original.sqlite").read_bytes()
    store.delete(range(20, 30))
    store.add_many(RECORDS.items())
    opened = [(folder / f"original.sqlite{suffix}").read_bytes() for suffix in ("", "-wal")]
    store.close()
    return closed, opened[0], opened[1]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Returns a damaged copy."""
    changed = bytearray(data)
    kind = rng.randrange(6)
    if kind == 0:  # bits flip
        for _ in range(rng.choice([1, 1, 4, 64])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == 1:  # the end is missing
        del changed[rng.randrange(len(changed)) :]
    elif kind == 2:  # a stretch is overwritten
        start, length = rng.randrange(len(changed)), rng.choice([1, 8, 100, 4096])
        changed[start : start + length] = rng.randbytes(len(changed[start : start + length]))
    elif kind == 3:  # a page is another
        size = 4096
        pages = len(changed) // size
        one, other = rng.randrange(pages), rng.randrange(pages)
        changed[one * size : (one + 1) * size] = data[other * size : (other + 1) * size]
    elif kind == 4:  # the headers of the file and of pages, where structure is
        page = rng.randrange(len(changed) // 4096) * 4096
        changed[page + rng.randrange(120)] = rng.randrange(256)
    else:  # a stretch is gone, or is there twice
        start, length = rng.randrange(len(changed)), rng.randrange(1, 200)
        changed[start : start + length] = b"" if rng.random() < 0.5 else changed[start : start + length] * 2
    return bytes(changed)


def ask(path: Path, read_only: bool) -> Counter[str]:
    """Calls all methods of a damaged store; returns counts of the outcomes."""
    outcomes: Counter[str] = Counter()
    store = ResultStore(path, read_only)

    def attempt(question: str, outcome: str) -> None:
        outcomes[f"{question}: {outcome}"] += 1

    for key, record in [*RECORDS.items(), ("stopped", None)]:
        try:
            answer = store.get(key, 2 if record is None else 3)
        except StoreError:
            attempt("get", "reported as damaged")
            continue
        if answer is None:
            attempt("get", "unknown")
        elif record is None or answer == record:
            attempt("get", "right")
        else:
            raise AssertionError(f"wrong answer for {key}: {answer}")
    for key in RECORDS:
        try:
            named = store.resolve(f"alias-{key}")
        except StoreError:
            attempt("resolve", "reported as damaged")
            continue
        if named != key and named in RECORDS:
            raise AssertionError(f"wrong key: {named} for {key}")
        # A key with a flipped bit has no records, so it is the same as an unknown one.
        attempt("resolve", "right" if named == key else "unknown")

    def read_records() -> None:
        for stored in store.records():
            if stored.key in RECORDS and stored.record != RECORDS[stored.key]:
                raise AssertionError(f"wrong record: {stored}")

    calls = {
        "records": read_records,
        "aliases": lambda: list(store.aliases()),
        "len": lambda: len(store),
        "add": lambda: store.add("new", Record((1.0,)), aliases=["new alias"]),
        "add many": lambda: store.add_many([(KEYS[1], RECORDS[KEYS[1]]), ("newer", Record((1.0,)))]),
        "delete": lambda: store.delete([1, 2]),
    }
    for name, call in calls.items():
        try:
            call()
            attempt(name, "done")
        except StoreError:
            attempt(name, "reported as damaged")
    try:
        with store.leases() as leases:
            leases.take([KEYS[1], "other"])
        attempt("leases", "done")
    except StoreError:
        attempt("leases", "reported as damaged")
    store.close()
    return outcomes


def run(folder: Path, copies: int, seed: int = 0) -> Counter[str]:
    """Makes damaged copies, opens each in one of the possible ways, and asks it."""
    rng = random.Random(seed)
    closed, opened, log = original(folder)
    outcomes: Counter[str] = Counter()
    path = folder / "copy.sqlite"
    for _ in range(copies):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        if rng.random() < 0.8:
            path.write_bytes(mutated(closed, rng))
        else:
            path.write_bytes(mutated(opened, rng) if rng.random() < 0.5 else opened)
            path.with_name(f"{path.name}-wal").write_bytes(mutated(log, rng))
        outcomes += ask(path, read_only=rng.random() < 0.25)
    return outcomes
