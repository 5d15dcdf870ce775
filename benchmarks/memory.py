"""Memory growth over thousands of programs; peak of a PFN epoch.

    python benchmarks/memory.py [--programs 2000] [--no-record]

Linux only. Each part runs in a new process. The first part steps distinct random programs of the search space through
`ProgramOptimizer(fused=True)`, 3 steps each on a model of 4 small tensors, and prints the resident memory on the way.
Its first figure is taken after all imports and the steps of one program. The second part trains AdamW for an epoch of
the PFN task by `train_programs` on the CPU, and prints the resident memory before it and the peak.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
from concurrent.futures import ProcessPoolExecutor

from harness import arguments, record

STEPS = 3  # of each program


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=None)
    parser.add_argument("--programs", type=int, default=2000, help="number of programs (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="steps of the PFN epoch (default: %(default)s)")
    options = parser.parse_args()
    growth = in_fresh_process(step_programs, options.programs)
    for count, megabytes in growth.items():
        print(f"{count:6} programs {megabytes:8.1f} MB  {megabytes - growth[0]:+.1f}")
    before, peak = in_fresh_process(train_epoch, options.steps)
    print(f"PFN epoch of {options.steps} steps: peak {peak:.1f} MB, {before:.1f} MB before it")
    if not options.no_record:
        figures = {
            "resident MB by programs": {str(count): round(megabytes, 1) for count, megabytes in growth.items()},
            "growth MB": round(growth[options.programs] - growth[0], 1),
            "PFN epoch": {"steps": options.steps, "MB before": round(before, 1), "peak MB": round(peak, 1)},
        }
        record("memory", figures)


def in_fresh_process(part, number):
    """Returns `part(number)`, computed in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(part, number).result()


def step_programs(count: int) -> dict[int, float]:
    """Returns the resident megabytes by number of programs stepped."""
    import numpy as np
    import torch
    from torch import nn

    from nosbench_env import Program, ProgramOptimizer, SearchSpace

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 8), (16,), (1, 16), (1,))
    initial = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]

    def step(program: Program) -> None:
        params = [nn.Parameter(value.clone()) for value in initial]
        optimizer = ProgramOptimizer(params, program, fused=True)
        for _ in range(STEPS):
            for param, gradient in zip(params, gradients, strict=True):
                param.grad = gradient
            optimizer.step()

    space, rng = SearchSpace(), np.random.default_rng(0)
    seen: set[Program] = set()
    step(Program.parse("r9 = mul(grad, 0.1)"))
    resident = {0: resident_megabytes()}
    while len(seen) < count:
        program = space.sample(rng)
        if program not in seen:
            seen.add(program)
            step(program)
            if len(seen) % max(1, count // 4) == 0 or len(seen) == count:
                resident[len(seen)] = resident_megabytes()
    return resident


def train_epoch(steps: int) -> tuple[float, float]:
    """Returns the resident megabytes before an epoch of AdamW, and the peak."""
    from nosbench_env import KNOWN_PROGRAMS
    from nosbench_env.tasks.pfn import PFNTask

    task = PFNTask("cpu")
    task.steps_per_epoch = steps
    before = resident_megabytes()
    task.train_programs([KNOWN_PROGRAMS["AdamW"]], epochs=1)
    return before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def resident_megabytes() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
