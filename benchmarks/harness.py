"""What the benchmarks share: sides timed in turn, so that a noisy machine disturbs all alike; a table; a record."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("torch", "numpy", "llvmlite", "gymnasium", "nosbench_env")

__all__ = ["RESULTS", "arguments", "interleaved", "median", "print_table", "ratio", "record"]


def interleaved(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    before: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Calls every side once a round, in rotating order, and returns the seconds of each call, a list per side.

    `warmup` rounds come first and are not kept. `before` is called before every call and is not timed.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if before is not None:
                before()
            started = time.perf_counter()
            sides[name]()
            taken = time.perf_counter() - started
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], side: str, baseline: str) -> float:
    """How many times faster than the baseline a side is: the median over the rounds of the ratio within a round."""
    return median(base / own for base, own in zip(seconds[baseline], seconds[side], strict=True))


def print_table(seconds: Mapping[str, Sequence[float]], baseline: str) -> None:
    """Prints each side's median and how many times faster than the baseline it is."""
    width = max(map(len, seconds))
    print(f"{'':{width}}  {'median':>12}  {'speed':>9}")
    for name, taken in seconds.items():
        print(f"{name:{width}}  {median(taken):10.6f} s  {ratio(seconds, name, baseline):8.2f}x")


def record(name: str, figures: Mapping[str, object]) -> None:
    """Appends figures, with date, device, its load and versions, as a JSON line to `results/<name>.jsonl`; says so."""
    line = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": _device(),
        "versions": _versions(),
        "figures": dict(figures),
    }
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{name}.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"recorded in benchmarks/results/{name}.jsonl")


def arguments(description: str, rounds: int | None = 5) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks take; without `--rounds` if `rounds` is None."""
    parser = argparse.ArgumentParser(description=description)
    if rounds is not None:
        parser.add_argument(
            "--rounds", type=int, default=rounds, help="how often each side is timed (default: %(default)s)"
        )
    parser.add_argument("--no-record", action="store_true", help="print the figures only")
    return parser


def _device() -> dict[str, object]:
    import torch

    device: dict[str, object] = {"cpu": _cpu_model(), "cores": os.cpu_count()}
    if hasattr(os, "getloadavg"):  # of the last minute, this benchmark included
        device["load"] = round(os.getloadavg()[0], 1)
    if torch.cuda.is_available():
        device["gpu"] = torch.cuda.get_device_name()
    return device


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # an extra, or a bare checkout
            continue
    return versions
