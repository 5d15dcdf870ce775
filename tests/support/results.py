"""Made-up results in the oracle's form, for tests of export, import and upkeep."""

import math
import random
from typing import Any

import numpy as np

from nosbench_env import SearchSpace
from nosbench_env.store import Record


def key(value: str = "0x1.8p-2", seed: int = 0, task: str = "toy-1", identity: str = "paper-1") -> str:
    return f"{task}/seed={seed}/float32/{identity}:{value}"


def record(*means: float, stopped_at: int | None = None, first_epoch: int = 0, **provenance: Any) -> Record:
    return Record(tuple(means), stopped_at, provenance, first_epoch)


def full_provenance(**others: Any) -> dict[str, Any]:
    """Returns a provenance as the oracle writes it, with changes."""
    return {
        "device": "cpu (x86_64)",
        "nosbench_env": "0.1.0",
        "torch": "2.13.0",
        "python": "3.11.7",
        "program": [["mul", [1, 6], 9]],
        "canonical": "canonical-1:aac2f1f4fe7bd3a7d20bb4b8f7aa1b5e",
        "seconds": 1.25,
        "date": "2026-01-31T12:00:00+00:00",
    } | others


def random_results(count: int, seed: int = 0, epochs: int = 20) -> list[tuple[str, Record]]:
    """Draws results under distinct keys; some are stopped or hold only the last epoch."""
    rng, generator, space = random.Random(seed), np.random.default_rng(seed), SearchSpace()
    results = []
    for _ in range(count):
        made = full_provenance(program=space.sample(generator).to_json())
        means = [rng.gauss(1.5, 0.1) for _ in range(epochs)]
        kind = rng.random()
        if kind < 0.1:
            result = Record((*means[: epochs // 2], *[math.nan] * (epochs - epochs // 2)), 50, made)
        elif kind < 0.5:
            result = Record((means[-1],), None, made, epochs - 1)
        else:
            result = Record(tuple(means), None, made)
        results.append((key(rng.random().hex(), task="pfn-1"), result))
    return results
