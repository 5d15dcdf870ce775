"""Correctness, speed and memory on a GPU, in one call.

    python benchmarks/gpu.py [--minutes 8] [--sections NAME ...] [--no-record]
    python benchmarks/gpu.py --device cpu          # every section at a small size, not recorded, to find defects

Each section (see its function) prints its figures and records them at once as a line of its own. A section that fails
is printed with its traceback and recorded as failed; the others go on. On a GPU each section runs in a process of its
own, so a bad memory access or a hang ends with it. Sections for which `--minutes` leaves no time are reported as
skipped. At the end come the targets: a single program at most 1.5 s, the best population at most 0.25 s per program.

An evaluation is 20 epochs of 100 steps of the PFN task. If it is cut short, its seconds are those of setup, captures
and the blocks that were run, with the median block for the rest; the figures tell the number of steps run. The batches
are drawn beforehand, once per process, and timed separately.

On the CPU the same engine runs without graphs. The kernels are then compiled by g++ from their source; without g++,
torch's operations are used.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from harness import arguments, interleaved, median, record
from programs import DIES_AT_11, GRADIENT_FREE, NORMALISED, TRANSCENDENTAL, TWO_LEVELS, adamw_variants
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer
from nosbench_env.execution.gpu.bytecode import TooLarge
from nosbench_env.execution.gpu.interpreter import GpuPopulation, Kernels
from nosbench_env.execution.gpu.nvrtc import cuda_kernels
from nosbench_env.execution.gpu.without_kernels import UnfusedPopulation
from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.execution.step_code import step_codes
from nosbench_env.tasks.pfn import PFNTask
from nosbench_env.tasks.pfn_data import bucket_borders, initial_model, prepared_batch
from nosbench_env.tasks.pfn_training import CpuEngine, Engine, GpuEngine, population_limit, train_population
from nosbench_env.tasks.task import Curve

TESTS = Path(__file__).parents[1] / "tests"
EVALUATION_STEPS = PFNTask.default_epochs * PFNTask.steps_per_epoch
EVALUATION_FLOP = 3.35e12  # 1.68 GFLOP for a step's forward and backward pass, in the mean over context sizes
WEIGHT_BYTES_A_STEP = 101e6  # of AdamW: weights and gradients in the model's passes, and the program step
TARGETS = {"single program": 1.5, "best population": 0.25}  # seconds per program
TOLERANCE = 1e-6
MIN_SECONDS = 15.0  # the least time for a section
PROGRAMS: dict[str, Program] = {
    **{name: KNOWN_PROGRAMS[name] for name in ("AdamW", "Adadelta", "SGD", "Adam", "RMSprop", "Incumbent", "HeroLion")},
    "one reduction": NORMALISED,
    "two levels of reductions": TWO_LEVELS,
    "transcendental": TRANSCENDENTAL,
    "dies at 11": DIES_AT_11,
    "gradient-free": GRADIENT_FREE,
}
JUMPS = {"sign", "heaviside"}  # they turn a difference in the last bit into a large one


def main() -> None:
    options = parse()
    folder = tempfile.TemporaryDirectory()
    with folder:
        figures_file = options.figures or Path(folder.name) / "figures.jsonl"
        if options.in_process:
            for name in options.sections:
                Bench(options, figures_file).run(name)
            if options.figures:
                return
        else:
            in_processes(options, figures_file)
        print_targets(read(figures_file), small=options.small)


def parse() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0], rounds=None)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="time limit (default: %(default)s)")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="NAME")
    parser.add_argument("--small", action="store_true", help="small sizes (always on a CPU)")
    parser.add_argument("--in-process", action="store_true", help="run all sections in one process")
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.small = options.small or torch.device(options.device).type == "cpu"
    options.seconds = options.seconds or 60 * options.minutes
    return options


def in_processes(options: argparse.Namespace, figures_file: Path) -> None:
    """Runs each section in a process of its own, within the time limit."""
    end = time.monotonic() + options.seconds
    for name in options.sections:
        left = end - time.monotonic()
        if left < MIN_SECONDS:
            print(f"\n== {name}: skipped, only {left:.0f} s are left", flush=True)
            note(figures_file, name, {"status": "skipped, no time left"}, options)
            continue
        limit = min(left, SECTIONS[name].max_seconds)
        command = [sys.executable, __file__, "--device", options.device, "--in-process", "--sections", name]
        command += ["--figures", str(figures_file), "--seconds", f"{limit:.1f}"]
        command += ["--small"] * options.small + ["--no-record"] * options.no_record
        try:
            code = subprocess.run(command, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            print(f"-- {name}: stopped at its limit of {limit:.0f} s", flush=True)
            note(figures_file, name, {"status": "stopped at its time limit"}, options)
            continue
        if code != 0:  # an exception would have been caught there
            note(figures_file, name, {"status": f"failed, its process ended with {code}"}, options)


def note(file: Path, section: str, figures: Mapping[str, object], options: argparse.Namespace) -> None:
    """Keeps figures for the summary; records them unless small."""
    line = {"section": section, **figures}
    with open(file, "a") as lines:
        lines.write(json.dumps(line) + "\n")
    if not options.no_record and not options.small:
        record("gpu", line)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def print_targets(figures: Sequence[Mapping[str, Any]], *, small: bool) -> None:
    measured = {
        "single program": [line["s"] for line in figures if line["section"] == "single" and line.get("target")],
        "best population": [
            line["s a program"] for line in figures if line["section"] == "population" and line.get("case") == "AdamW"
        ],
    }
    print("\nsection       status")
    for line in figures:
        if "status" in line:
            print(f"{line['section']:13} {line['status']}")
    print(f"\n{'target':16} {'limit':>7} {'measured':>11}")
    for name, limit in TARGETS.items():
        best = min(measured[name], default=math.nan)
        if math.isnan(best):
            print(f"{name:16} {limit:5.2f} s {'':11}  not measured")
        elif small:
            print(f"{name:16} {limit:5.2f} s {best:9.3f} s  extrapolated from small sizes: not meaningful")
        else:
            print(f"{name:16} {limit:5.2f} s {best:9.3f} s  {'reached' if best <= limit else 'not reached'}")


class Bench:
    """The context of the sections: device, kernels, time limit, figures.

    Args:
        options: The command line.
        figures_file: The file for the figures of this call.
    """

    def __init__(self, options: argparse.Namespace, figures_file: Path) -> None:
        self.options, self.figures_file, self.small = options, figures_file, bool(options.small)
        self.device = torch.device(options.device)
        self.cuda = self.device.type == "cuda"
        self.end = time.monotonic() + options.seconds
        self.folder = tempfile.TemporaryDirectory()
        self.section = ""
        self._kernels: Any = None

    def run(self, name: str) -> None:
        """Runs a section; an exception counts as its failure."""
        self.section = name
        print(f"\n== {name}: {str(SECTIONS[name].call.__doc__).splitlines()[0]}", flush=True)
        started = time.monotonic()
        try:
            if self.cuda and not torch.cuda.is_available():
                raise RuntimeError("torch finds no GPU; use --device cpu")
            with exact_arithmetic():
                status = SECTIONS[name].call(self) or "ok"
        except Exception:
            traceback.print_exc()
            status = f"failed: {traceback.format_exc().splitlines()[-1]}"
        self.note(status=status, seconds=round(time.monotonic() - started, 1))
        print(f"-- {name}: {status}", flush=True)

    def note(self, **figures: object) -> None:
        """Keeps and records figures of the running section."""
        note(self.figures_file, self.section, figures, self.options)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()

    def kernels(self, threads: int = 1) -> Kernels | None:
        """Returns the kernels; on the CPU, emulated ones if g++ is there."""
        if self.cuda:
            kernels = cuda_kernels(self.device)
            assert kernels is not None, "the kernels can't be compiled; see the warning above"
            return kernels
        sys.path.insert(0, str(TESTS / "support"))
        from emulated_kernels import COMPILER, EmulatedKernels

        if self._kernels is None and COMPILER:
            self._kernels = EmulatedKernels(Path(self.folder.name))
        if self._kernels is not None:
            self._kernels.threads = threads
        return self._kernels

    def engine(self, programs: Sequence[Program], steps: int, *, fallback: bool = False, threads: int = 1) -> GpuEngine:
        """Returns an engine for a training of `steps` steps; without kernels if `fallback`."""
        return GpuEngine(programs, 0, steps, self.device, None if fallback else self.kernels(threads))

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def draw(self, steps: int) -> float:
        """Draws the batches of `steps` steps, once per process; returns the seconds."""
        started = time.perf_counter()
        bucket_borders()
        for block in range(-(-steps // 100)):
            prepared_batch(100 * block)
        return time.perf_counter() - started


def correctness(bench: Bench) -> str | None:
    """Losses of the first steps, compared with the CPU's.

    Programs run alone and in a population. Losses must agree within 1e-6 in steps 0 to 10, and programs must die at the
    same step. Some programs amplify rounding more than that: a difference is also allowed up to ten times the change of
    the CPU's losses after the initial weights are perturbed by a relative 1e-7. Programs with jumps are printed but not
    judged. Blocks are shortened, so that several are run and dead programs are dropped between them.
    """
    steps = 13
    threads = 8  # of emulated kernels: with a single one, a norm would be off by 2e-5
    programs = dict(list(PROGRAMS.items())[-5:]) if bench.small else PROGRAMS
    with_gradient = [name for name in programs if step_codes(programs[name]).reads_gradient]
    populations: dict[str, Curve] = {}
    bad = []
    engine = short_blocks(bench.engine([programs[name] for name in with_gradient], steps, threads=threads))
    for name, curve in zip(with_gradient, curves(engine, len(with_gradient), steps), strict=True):
        populations[name] = curve
    print(f"{'':26} {'device':>9} {'population':>10} {'perturbed':>10}  stopped at: CPU, device, population")
    for name, program in programs.items():
        expected = curves(CpuEngine([program], 0, steps), 1, steps)[0]
        perturbed = difference(curves(perturb(CpuEngine([program], 0, steps)), 1, steps)[0], expected)
        single = curves(short_blocks(bench.engine([program], steps, threads=threads)), 1, steps)[0]
        population = populations.get(name, single)
        differences = [difference(curve, expected) for curve in (single, population)]
        stopped = [curve.stopped_at for curve in (expected, single, population)]
        jumps = any(instruction.function in JUMPS for instruction in program)
        allowed = max(TOLERANCE, 10 * perturbed)
        wrong = not all(value <= allowed for value in differences) or len(set(stopped)) > 1
        if wrong and not jumps:
            bad.append(name)
        verdict = "jumps: not judged" if jumps else "WRONG" if wrong else f"within {allowed:.0e}"
        print(f"{name:26} {differences[0]:9.1e} {differences[1]:10.1e} {perturbed:10.1e}  {stopped}  {verdict}")
        figures = {"device": differences[0], "population": differences[1], "perturbed": perturbed, "stopped": stopped}
        bench.note(program=name, verdict=verdict, **figures)
    return f"failed: {', '.join(bad)}" if bad else None


def short_blocks(engine: GpuEngine) -> GpuEngine:
    engine.block_size = 6
    return engine


def perturb(engine: CpuEngine) -> CpuEngine:
    weights = engine._population.weights
    weights *= 1 + 1e-7 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(0))
    return engine


def curves(engine: Engine, size: int, steps: int) -> list[Curve]:
    """Trains a population for one epoch of `steps` steps."""
    by_model: dict[int, Curve] = {}
    train_population(engine, size, 1, steps, last_epoch_only=False, on_step=None, on_curve=by_model.__setitem__)
    return [by_model[model] for model in range(size)]


def difference(curve: Curve, expected: Curve) -> float:
    """Returns the largest difference of losses in steps 0 to 10.

    It is infinite if NaNs are in different places.
    """
    own, other = (torch.from_numpy(c.step_losses[0, :11]) for c in (curve, expected))
    if not torch.equal(own.isnan(), other.isnan()):
        return math.inf
    return float((own - other)[~own.isnan()].abs().max())


def task(bench: Bench) -> str | None:
    """`PFNTask.train_programs`, the users' interface, on the device and on the CPU.

    One call has programs with and without gradients, uses `last_epoch_only`, and exceeds the population's size.
    """
    names = ["SGD", "gradient-free", "dies at 11"]
    sides = []
    for device in ("cpu", str(bench.device)):
        pfn = PFNTask(device, population=1 if bench.small else 2)
        pfn.steps_per_epoch = 6 if bench.small else 20
        sides.append(pfn.train_programs([PROGRAMS[name] for name in names], epochs=2, last_epoch_only=True))
    bad = []
    for name, expected, own in zip(names, *sides, strict=True):
        first = (expected.first_epoch, own.first_epoch)
        ends = (float(expected.epoch_means[-1]), float(own.epoch_means[-1]))
        alike = first[0] == first[1] and expected.stopped_at == own.stopped_at
        close = abs(ends[0] - ends[1]) <= 1e-4 or all(map(math.isnan, ends))
        print(f"{name:14} last epoch {ends[0]:.7f} (CPU) {ends[1]:.7f} (device)  first epochs {first}")
        bench.note(program=name, cpu=repr(ends[0]), device=repr(ends[1]), stopped=[expected.stopped_at, own.stopped_at])
        if not (alike and close):
            bad.append(name)
    return f"failed: {', '.join(bad)}" if bad else None


def updates(bench: Bench) -> str | None:
    """Single updates of many programs, compared with plain execution.

    All programs of the tests' data form one population, which takes five steps. The plain side is on the CPU. Before
    each step, weights and gradients (but not memory) are set to those of the plain side. Differences are relative to
    the model's largest weight (at least 1).
    """
    data = json.loads((TESTS / "data" / "programs.json").read_text())
    rows = data["rows"][:: 8 if bench.small else 1]
    shapes, initial = [torch.Size(shape) for shape in data["shapes"]], data["initial"]
    sizes = [shape.numel() for shape in shapes]
    kernels = bench.kernels()
    named: dict[str, Program] = {}
    too_large = 0
    for row in rows:
        program = Program.from_json(row["program"])
        try:
            if kernels is not None:
                GpuPopulation([program], sizes, kernels, bench.device)
        except TooLarge:
            too_large += 1
            continue
        named[f"{len(named)}: {row['name']}"] = program
    programs = list(named.values())
    population: GpuPopulation | UnfusedPopulation = (
        UnfusedPopulation(programs, sizes, bench.device)
        if kernels is None
        else GpuPopulation(programs, sizes, kernels, bench.device)
    )
    plain = [[nn.Parameter(torch.tensor(v).reshape(s)) for v, s in zip(initial, shapes, strict=True)] for _ in programs]
    optimizers = [ProgramOptimizer(params, program) for params, program in zip(plain, programs, strict=True)]
    weights = torch.zeros(len(programs), sum(sizes), device=bench.device)
    grads = torch.zeros_like(weights)
    population.bind_rows(weights, grads)
    alive = [True] * len(programs)
    over: Counter[str] = Counter()
    elsewhere: Counter[str] = Counter()
    worst, compared = 0.0, 0
    for step in range(5):
        for params in plain:
            for k, param in enumerate(params):
                wave = torch.cos(torch.arange(param.numel()).float() + step).reshape(param.shape)
                param.grad = 0.5 * param.detach() + 0.1 * (k + 1) * wave
        weights.copy_(torch.stack([flat(params) for params in plain]))
        grads.copy_(torch.stack([flat([param.grad for param in params]) for params in plain]))
        population.prepare(step + 1)
        population.launch()
        stepped = weights.cpu()
        for number, (name, optimizer) in enumerate(zip(named, optimizers, strict=True)):
            optimizer.step()
            if not alive[number]:
                continue
            expected, own = flat(plain[number]), stepped[number]
            finite = expected.isfinite()
            compared += 1
            if not torch.equal(finite, own.isfinite()):
                elsewhere[name] += 1
            both = finite & own.isfinite()
            error = float(
                ((own - expected)[both].abs().max() / max(1.0, float(expected[both].abs().max()))) if both.any() else 0
            )
            worst = max(worst, error)
            if error > TOLERANCE:
                over[name] += 1
            alive[number] = bool(finite.all()) and name not in elsewhere
    died = population.died_at.cpu().bool().tolist()
    wrong_deaths = [
        n
        for n, (dead, lives) in zip(named, zip(died, alive, strict=True), strict=True)
        if dead == lives and n not in elsewhere
    ]
    print(f"{len(programs)} programs, {compared} updates; {too_large} programs are too large for the interpreter")
    print(f"over 1e-6 of the largest weight: {sum(over.values())} updates of {dict(over)}; the largest {worst:.1e}")
    print(f"not finite in other places: {dict(elsewhere)}; deaths missed or reported wrongly: {wrong_deaths}")
    bench.note(
        programs=len(programs),
        updates=compared,
        too_large=too_large,
        over=dict(over),
        worst=worst,
        not_finite_elsewhere=dict(elsewhere),
        wrong_deaths=wrong_deaths,
        kernels=kernels is not None,
    )
    return f"failed: deaths of {wrong_deaths}" if wrong_deaths else None


def flat(tensors: Sequence[Tensor | None]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors if tensor is not None])


def single(bench: Bench) -> None:
    """Seconds of an evaluation of a single program, by part.

    `kernels` is the compilation of the kernels, once per process. `setup` makes the engine. `captures` is the extra
    time of the blocks in which graphs are captured, compared with the median block. `steps` is the rest.
    """
    drawing = bench.draw(EVALUATION_STEPS if not bench.small else 100)
    started = time.perf_counter()
    kernels = bench.kernels()
    bench.synchronize()
    compiling = time.perf_counter() - started
    print(
        f"once per process: drawing the batches {drawing:.2f} s, "
        f"compiling the kernels {compiling:.2f} s{'' if kernels else ' (no kernels)'}"
    )
    bench.note(drawing_s=round(drawing, 3), kernels_s=round(compiling, 3))
    names = ["AdamW", "gradient-free"] if bench.small else ["AdamW", "AdamW", "SGD", "Incumbent", "gradient-free"]
    for number, name in enumerate(names):
        taken = evaluate(bench, [PROGRAMS[name]], limit=0.3 * bench.left)
        report(bench, taken, name, 1, target=name == "AdamW", again=name in names[:number])
    if bench.cuda:
        report(bench, evaluate(bench, [PROGRAMS["AdamW"]], tf32=True), "AdamW, tf32", 1)


def population(bench: Bench) -> None:
    """Seconds and memory per program of populations."""
    bench.draw(EVALUATION_STEPS if not bench.small else 100)
    bench.kernels()
    sizes = [1, 2] if bench.small else [1, 8, 32, 128, 256]
    cases: list[tuple[int, str, bool]] = [(size, "AdamW", False) for size in sizes]
    if not bench.small:
        cases += [(128, "AdamW", True), (32, "mixed", False), (16, "AdamW", False), (64, "AdamW", False)]
    elif len(sizes) > 1:
        cases += [(3, "mixed", False)]
    for number, (size, kind, tf32) in enumerate(cases):
        if bench.left < 10 and not bench.small:
            print(f"population {size}: skipped, only {bench.left:.0f} s are left")
            continue
        share = min(45.0, 0.6 * bench.left / (len(cases) - number))
        mixed = [program for name, program in PROGRAMS.items() if name not in ("dies at 11", "gradient-free")]
        programs = adamw_variants(size) if kind == "AdamW" else [mixed[i % len(mixed)] for i in range(size)]
        try:
            taken = evaluate(bench, programs, tf32=tf32, limit=share)
        except torch.OutOfMemoryError as error:
            print(f"population {size}: {error}")
            bench.note(size=size, out_of_memory=True)
            continue
        report(bench, taken, f"{kind}{', tf32' if tf32 else ''}", size)
    if bench.cuda:
        most = population_limit([PROGRAMS["AdamW"]], bench.device)
        print(f"the task's population for AdamW: {most}")
        bench.note(largest_population=most)


def fallback(bench: Bench) -> None:
    """Seconds per program without kernels, as for programs too large for the interpreter."""
    bench.draw(EVALUATION_STEPS if not bench.small else 100)
    for size in (1, 2) if bench.small else (1, 8):
        taken = evaluate(bench, adamw_variants(size), limit=max(5.0, 0.3 * bench.left), fallback=True)
        report(bench, taken, "AdamW, torch's operations", size)


def evaluate(
    bench: Bench,
    programs: Sequence[Program],
    *,
    tf32: bool = False,
    limit: float = math.inf,
    fallback: bool = False,
) -> dict[str, float]:
    """Returns the seconds of a population's evaluation, by part, and its memory.

    As in a search, only the last epoch's losses are computed if no program reads the gradient.
    """
    if bench.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    needs_training = any(step_codes(program).reads_gradient for program in programs)
    to_do = EVALUATION_STEPS if not bench.small else 4
    with exact_arithmetic(tf32=tf32) if tf32 else nullcontext():
        started = time.perf_counter()
        engine = bench.engine(programs, to_do, fallback=fallback)
        if bench.small:
            engine.block_size = 1
        bench.synchronize()
        setup = time.perf_counter() - started
        blocks: list[float] = []
        done = 0
        while done < to_do and (len(blocks) < 4 or time.perf_counter() - started < limit):
            count = min(engine.block_size, to_do - done)
            before = time.perf_counter()
            block = engine.run(done, count, losses=needs_training or done >= to_do - PFNTask.steps_per_epoch)
            blocks.append(time.perf_counter() - before)
            done += count
        if block.died_at.any():
            raise RuntimeError(f"programs died at {block.died_at[block.died_at > 0]}: the evaluation ended early")
    usual = median(blocks[len(blocks) // 2 :])
    rest = (EVALUATION_STEPS - done) / engine.block_size * usual
    taken = {
        "s": setup + sum(blocks) + rest,
        "setup": setup,
        "captures": sum(max(0.0, block - usual) for block in blocks[:4]),
        "ms a step": 1e3 * usual / engine.block_size,
        "steps run": float(done),
    }
    if bench.cuda:
        taken["MB"] = torch.cuda.max_memory_allocated(bench.device) / 1e6
        taken["MB reserved"] = torch.cuda.max_memory_reserved(bench.device) / 1e6
    return taken


def report(bench: Bench, taken: dict[str, float], case: str, size: int, **more: object) -> None:
    done = taken["steps run"]
    remark = f"; extrapolated from {done:.0f} steps" if done < EVALUATION_STEPS else ""
    memory = f", {taken['MB'] / size:.1f} MB a program" if "MB" in taken else ""
    print(
        f"{case:26} P = {size:3}: {taken['s'] / size:8.3f} s a program; {taken['s']:8.2f} s in all (setup "
        f"{taken['setup']:.2f}, captures {taken['captures']:.2f}), {taken['ms a step']:.3f} ms a step{memory}"
        f"{remark}",
        flush=True,
    )
    rounded = {name: round(value, 4) for name, value in taken.items()}
    bench.note(case=case, size=size, **{"s a program": round(taken["s"] / size, 4)}, **rounded, **more)


def optimizer(bench: Bench) -> None:
    """Milliseconds of a step: fused, plain, and torch's fused AdamW.

    The tensors are the PFN's. Also prints the largest difference from the CPU, relative to the largest weight.
    """
    for name in ("SGD", "AdamW", "two levels of reductions"):
        params = {side: on_device(bench.device) for side in ("plain", "torch", *(["fused"] if bench.cuda else []))}
        sides: dict[str, torch.optim.Optimizer] = {
            "plain": ProgramOptimizer(params["plain"], PROGRAMS[name]),
            "torch": torch.optim.AdamW(params["torch"], lr=1e-3, weight_decay=0.01, fused=True),
        }
        if bench.cuda:
            sides["fused"] = ProgramOptimizer(params["fused"], PROGRAMS[name], fused=True)
        on_cpu = on_device(torch.device("cpu"))
        expected = ProgramOptimizer(on_cpu, PROGRAMS[name])
        for _ in range(3):
            expected.step()
            for side in sides.values():
                side.step()
        error = {
            side: float(
                (flat(params[side]).cpu() - flat(on_cpu)).abs().max() / max(1.0, float(flat(on_cpu).abs().max()))
            )
            for side in sides
            if side != "torch"
        }

        def timed(side: torch.optim.Optimizer) -> None:
            for _ in range(1 if bench.small else 20):
                side.step()
            bench.synchronize()

        calls = {side: (lambda optimizer=optimizer: timed(optimizer)) for side, optimizer in sides.items()}
        seconds = interleaved(calls, 2 if bench.small else 7)
        ms = {side: 1e3 * median(taken) / (1 if bench.small else 20) for side, taken in seconds.items()}
        print(f"{name:26} ms a step: { ({k: round(v, 4) for k, v in ms.items()}) }, off by {error}")
        bench.note(program=name, ms=ms, off_by=error)


def on_device(device: torch.device) -> list[nn.Parameter]:
    """Returns the PFN's initial weights with gradients, equal on every device."""
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(param.detach().to(device)) for param in initial_model().parameters()]
    for param in params:
        param.grad = (torch.randn(param.shape, generator=generator) * 1e-3).to(device)
    return params


def launches(bench: Bench) -> None:
    """Operations of a step; on a GPU, kernels in and out of a graph."""
    bench.draw(100)
    for name in ("AdamW", "two levels of reductions"):
        for executor, without in (("kernels", False), ("torch's operations", True)):
            engine = bench.engine([PROGRAMS[name]], 100, fallback=without)
            engine.run(0, 3, losses=True)
            context = engine._contexts[3]
            with torch.cuda.stream(engine._stream), Dispatches() as counted:
                engine._step(context)
            figures: dict[str, Any] = {"dispatched operations, views left out": counted.count}
            if bench.cuda:
                engine.run(4, 50, losses=True)
                steps = 40
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    engine.run(54, steps, losses=True)
                on_gpu = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
                host = Counter(e.name for e in profile.events() if e.name.startswith(("cudaGraphLaunch", "cudaLaunch")))
                if not on_gpu:
                    raise RuntimeError("the profiler saw nothing on the GPU")
                figures |= {"device activities a step": round(len(on_gpu) / steps, 1), "host calls": dict(host)}
                longest: Counter[str] = Counter()
                for event in on_gpu:
                    longest[event.name[:60]] += event.time_range.elapsed_us()
                figures["us a step by kernel"] = {n: round(t / steps, 1) for n, t in longest.most_common(12)}
            print(f"{name}, {executor}, {context} context points: {figures}")
            bench.note(program=name, by=executor, **figures)


class Dispatches(TorchDispatchMode):
    """Counts the operations that are not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def roofline(bench: Bench) -> None:
    """Peaks of the device, and the evaluations' share of them."""
    n = 512 if bench.small else 8192
    peaks = {}
    for name, tf32 in {"float32": False, **({"tf32": True} if bench.cuda else {})}.items():
        with exact_arithmetic(tf32=tf32):
            a, b = (torch.randn(n, n, device=bench.device) for _ in range(2))
            peaks[name] = 2 * n**3 / seconds_of(bench, lambda a=a, b=b: torch.mm(a, b))
    source = torch.zeros((1 << 22) if bench.small else (1 << 28), device=bench.device)
    target = torch.zeros_like(source)
    bandwidth = 2 * source.numel() * 4 / seconds_of(bench, lambda: target.copy_(source))
    said = ", ".join(f"{name} {peak / 1e12:.2f} TFLOP/s" for name, peak in peaks.items())
    print(f"matrix products of {n}: {said}; copy {bandwidth / 1e9:.0f} GB/s")
    bench.note(TFLOPs={name: round(peak / 1e12, 2) for name, peak in peaks.items()}, GB_a_s=round(bandwidth / 1e9, 1))
    floors = {name: EVALUATION_FLOP / peak for name, peak in peaks.items()}
    traffic = WEIGHT_BYTES_A_STEP * EVALUATION_STEPS / bandwidth
    for line in read(bench.figures_file):
        if line["section"] not in ("single", "population") or not str(line.get("case", "")).startswith("AdamW"):
            continue
        floor = floors["tf32" if "tf32" in line["case"] else "float32"]
        taken = line["s a program"]
        print(
            f"{line['case']:12} P = {line['size']:3}: {taken:8.3f} s a program; at peak {floor:.3f} s "
            f"({floor / taken:.0%}), weight traffic {traffic:.3f} s ({traffic / taken:.0%})"
        )
        bench.note(
            case=line["case"], size=line["size"], of_peak=round(floor / taken, 4), of_copy=round(traffic / taken, 4)
        )


def seconds_of(bench: Bench, call: Callable[[], object]) -> float:
    """Returns the median seconds of a call on the device."""
    repeats = 1 if bench.small else 10

    def several() -> None:
        for _ in range(repeats):
            call()
        bench.synchronize()

    return median(interleaved({"call": several}, 5)["call"]) / repeats


class Section(NamedTuple):
    """A part of the benchmark, and its time limit."""

    call: Callable[[Bench], str | None]
    max_seconds: float


SECTIONS = {
    "correctness": Section(correctness, 120),
    "updates": Section(updates, 90),
    "single": Section(single, 100),
    "population": Section(population, 270),
    "roofline": Section(roofline, 45),
    "launches": Section(launches, 60),
    "task": Section(task, 60),
    "fallback": Section(fallback, 60),
    "optimizer": Section(optimizer, 60),
}

if __name__ == "__main__":
    main()
