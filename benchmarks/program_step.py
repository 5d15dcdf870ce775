"""Speed of a program's step on the PFN's tensors, on one CPU thread.

    python benchmarks/program_step.py [--rounds N] [--programs AdamW SGD ...] [--no-record]

The sides have weights and gradients of their own: `ProgramOptimizer(fused=True)`, `ProgramOptimizer`, and
`torch.optim.AdamW(fused=True)` as the reference for every program. "Hot" runs steps back to back. "In training" reads
and writes a buffer of 64 MB before every step, untimed, because the forward and the backward pass would also evict
weights and memory from the caches.

The first two steps, in which programs are compiled, are timed once for each program. The floor of AdamW's step is its
memory traffic (reads weights, gradients and both moments; writes weights and both moments). The bandwidth it implies is
printed beside that of a torch copy of as many bytes, timed in the same rounds.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from harness import arguments, interleaved, median, ratio, record
from programs import NORMALISED, TRANSCENDENTAL
from torch import Tensor, nn

from nosbench_env import KNOWN_PROGRAMS, ProgramOptimizer
from nosbench_env.tasks.pfn_data import initial_model

NAMED = ("AdamW", "Adadelta", "HeroLion", "SGD", "Incumbent")
PROGRAMS = {name: KNOWN_PROGRAMS[name] for name in NAMED} | {
    "normalised momentum (norm)": NORMALISED,
    "sin, exp, arctan": TRANSCENDENTAL,
}
HOT_STEPS = 5  # back to back, per round
COLD_ROUNDS_A_ROUND = 3
EVICTION_BYTES = 64 << 20
ADAMW_ARRAYS = 7  # w, g, m, v are read; w, m, v are written
Sides = dict[str, torch.optim.Optimizer]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=9)
    parser.add_argument("--programs", nargs="+", choices=list(PROGRAMS), default=list(PROGRAMS), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    num_bytes = ADAMW_ARRAYS * sum(param.numel() * param.element_size() for param in initial_model().parameters())
    header = f"{'fused':>8} {'plain':>8} {'torch':>8}  {'plain/fused':>11} {'torch/fused':>11}"
    print(f"{'ms a step, medians':28} {'':11} {header}")
    figures: dict[str, object] = {"in": "ms a step", "rounds": options.rounds}
    for name in options.programs:
        sides = optimizers(name)
        first = first_steps(sides["fused"])
        measured = {"hot": hot(sides, options.rounds), "in training": in_training(sides, options.rounds, num_bytes)}
        rows: dict[str, object] = {"first two steps, compiled": [round(1e3 * taken, 2) for taken in first]}
        for how, seconds in measured.items():
            row = {side: round(1e3 * median(seconds[side]), 3) for side in sides}
            row |= {f"{side}/fused": round(ratio(seconds, "fused", side), 2) for side in ("plain", "torch")}
            print(f"{name:28} {how:11} " + line(row))
            rows[how] = row
        print(f"{'':28} first two steps, with compilation: {1e3 * first[0]:.1f} and {1e3 * first[1]:.1f} ms")
        if name == "AdamW":
            rows["floor"] = print_floor(measured, num_bytes)
        if not all(param.isfinite().all() for side in sides.values() for param in params_of(side)):
            raise SystemExit(f"{name}: parameters are not finite, so the figures are not representative")
        figures[name] = rows
    if not options.no_record:
        record("program_step", figures)


def warm_up() -> None:
    """Initialises LLVM and torch."""
    param = nn.Parameter(torch.zeros(64))
    param.grad = torch.ones(64)
    for program in PROGRAMS.values():
        optimizer = ProgramOptimizer([param], program)
        optimizer.step()
    started = time.perf_counter()
    ProgramOptimizer([param], KNOWN_PROGRAMS["SignSGD"], fused=True).step()
    print(f"first compilation in the process: {1e3 * (time.perf_counter() - started):.1f} ms")


def optimizers(name: str) -> Sides:
    program = PROGRAMS[name]
    return {
        "fused": ProgramOptimizer(fresh_params(), program, fused=True),
        "plain": ProgramOptimizer(fresh_params(), program),
        "torch": torch.optim.AdamW(fresh_params(), lr=1e-3, weight_decay=0.01, fused=True),
    }


def fresh_params() -> list[nn.Parameter]:
    """Returns the PFN's initial weights, with gradients of norm 1 (about)."""
    params = list(initial_model().parameters())
    scale = sum(param.numel() for param in params) ** -0.5
    generator = torch.Generator().manual_seed(0)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator) * scale
    return params


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def first_steps(optimizer: torch.optim.Optimizer) -> list[float]:
    """Times the first and the second step, whose code may differ."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        optimizer.step()
        taken.append(time.perf_counter() - started)
    return taken


def hot(sides: Sides, rounds: int) -> dict[str, list[float]]:
    """Times steps that follow each other."""

    def several(optimizer: torch.optim.Optimizer) -> None:
        for _ in range(HOT_STEPS):
            optimizer.step()

    seconds = interleaved({name: partial(several, side) for name, side in sides.items()}, rounds)
    return {name: [of_round / HOT_STEPS for of_round in taken] for name, taken in seconds.items()}


def in_training(sides: Sides, rounds: int, num_bytes: int) -> dict[str, list[float]]:
    """Times steps with cold caches, and a copy that moves `num_bytes`."""
    evicted = torch.zeros(EVICTION_BYTES // 4)
    source = torch.zeros(num_bytes // 8)
    target = torch.zeros_like(source)
    calls = {name: side.step for name, side in sides.items()} | {"copy": lambda: target.copy_(source)}
    return interleaved(calls, COLD_ROUNDS_A_ROUND * rounds, before=lambda: evicted.add_(1.0))


def print_floor(measured: dict[str, dict[str, list[float]]], num_bytes: int) -> dict[str, float]:
    """Prints and returns the bandwidths of AdamW's step and of the copy."""
    seconds = {
        "fused step, hot": median(measured["hot"]["fused"]),
        "fused step, in training": median(measured["in training"]["fused"]),
        "torch fused AdamW, in training": median(measured["in training"]["torch"]),
        "copy": median(measured["in training"]["copy"]),
    }
    floor = {f"GB/s, {name}": round(num_bytes / taken / 1e9, 1) for name, taken in seconds.items()}
    print(f"{'':28} memory traffic of a step: {num_bytes / 1e6:.1f} MB")
    for name, taken in seconds.items():
        print(f"{'':28} {name:31} {1e3 * taken:7.2f} ms {num_bytes / taken / 1e9:7.1f} GB/s")
    return {"MB moved": round(num_bytes / 1e6, 1), "copy ms": round(1e3 * seconds["copy"], 3)} | floor


def line(row: dict[str, float]) -> str:
    times = " ".join(f"{row[side]:8.3f}" for side in ("fused", "plain", "torch"))
    return f"{times}  {row['plain/fused']:10.2f}x {row['torch/fused']:10.2f}x"


if __name__ == "__main__":
    main()
