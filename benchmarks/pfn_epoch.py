"""Speed of a PFN epoch on one CPU thread: fast, plain, paper's code.

    python benchmarks/pfn_epoch.py [--steps 100] [--program AdamW] [--no-record]

Sides:

* "fast": the engine of `PFNTask.train_programs` (`CpuEngine`).
* "plain": `PFNTask.train` with a `ProgramOptimizer`.
* "paper": a reconstruction of the paper's code: unpacked attention, in one call for the context and one for the other
  points; a `ProgramOptimizer`; `clip_grad_norm_`; pfns' loss; each step draws its batch.

The sides take turns of 10 steps: `PFNTask.train` is called once, and after every 10 of its steps its clock is stopped
while the others take theirs. All start from the same weights. The script ends with an error unless the losses of steps
0 to 10 agree within 1e-6. The fast path draws its batches once per process and keeps them, which is timed separately.
At the end, a whole `train_programs` call with its setup is timed, and the parts of a step of the fast path.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from harness import arguments, median, print_table, ratio, record
from pfns.model.bar_distribution import FullSupportBarDistribution
from torch import Tensor, nn
from torch.nn import functional as F

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer
from nosbench_env.execution.fused_cpu import FusedCpuProgram, Memory
from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.tasks.pfn import PFNTask
from nosbench_env.tasks.pfn_data import (
    bucket_borders,
    context_sizes,
    initial_model,
    prepared_batch,
    sample_batch,
)
from nosbench_env.tasks.pfn_model import PFN, standardise
from nosbench_env.tasks.pfn_population import PFNPopulation
from nosbench_env.tasks.pfn_training import CpuEngine, clip_factor
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.training import MAX_GRAD_NORM

TURN = 10  # steps before the next side continues
COMPARED, TOLERANCE = 11, 1e-6  # every faithful path has the same losses in steps 0 to 10


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=None)
    parser.add_argument("--steps", type=int, default=100, help="length of the epoch (default: %(default)s)")
    parser.add_argument("--program", choices=list(KNOWN_PROGRAMS), default="AdamW")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps must be at least 2")
    program = KNOWN_PROGRAMS[options.program]
    with exact_arithmetic():
        bucket_borders()  # all sides need them, once per process
        started = time.perf_counter()
        for block in range(-(-options.steps // 100)):
            prepared_batch(100 * block)
        drawing = time.perf_counter() - started
        seconds, losses = run(program, options.steps)
        check(losses)
        started = time.perf_counter()
        task = PFNTask("cpu")
        task.steps_per_epoch = options.steps
        task.train_programs([program], epochs=1)
        whole = time.perf_counter() - started
        parts = breakdown(program, options.steps)

    print(f"{options.program}, {options.steps} steps; medians are of a step")
    print_table(seconds, "paper")
    for side, taken in seconds.items():
        print(f"{side:6} all steps: {sum(taken):8.3f} s  {sum(seconds['paper']) / sum(taken):8.2f}x")
    print(f"drawing the batches, once per process, not counted above: {drawing:.3f} s")
    print(f"a train_programs call after that, with its setup: {whole:.3f} s")
    print("parts of a step of the fast path, medians: " + ", ".join(f"{n} {1e3 * t:.2f} ms" for n, t in parts.items()))
    if not options.no_record:
        figures: dict[str, object] = {"program": options.program, "steps": options.steps}
        for side, taken in seconds.items():
            figures[side] = {
                "ms a step": round(1e3 * median(taken), 2),
                "s in all": round(sum(taken), 3),
                "speed, median of steps": round(ratio(seconds, side, "paper"), 2),
                "speed, whole epoch": round(sum(seconds["paper"]) / sum(taken), 2),
            }
        figures |= {
            "drawing the batches s": round(drawing, 3),
            "train_programs s": round(whole, 3),
            "fast path, ms a step": {name: round(1e3 * taken, 3) for name, taken in parts.items()},
        }
        record("pfn_epoch", figures)


def run(program: Program, steps: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns the seconds and the losses of each side's steps."""
    others: dict[str, Callable[[int], float]] = {"paper": PaperTraining(program, steps), "fast": fast(program, steps)}
    seconds: dict[str, list[float]] = {"paper": [], "plain": [], "fast": []}
    losses: dict[str, list[float]] = {"paper": [], "plain": [], "fast": []}
    resumed = 0.0

    def plain_step_done(progress: Progress) -> None:
        nonlocal resumed
        seconds["plain"].append(time.perf_counter() - resumed)
        losses["plain"].append(progress.loss)
        if progress.step % TURN == 0 or progress.step == steps:
            for name in list(others) if progress.step // TURN % 2 else reversed(others):
                for step in range(len(losses[name]), progress.step):
                    started = time.perf_counter()
                    losses[name].append(others[name](step))
                    seconds[name].append(time.perf_counter() - started)
        resumed = time.perf_counter()

    task = PFNTask("cpu")
    task.steps_per_epoch = steps

    def make_optimizer(params: object) -> torch.optim.Optimizer:
        nonlocal resumed
        optimizer = ProgramOptimizer(params, program)
        resumed = time.perf_counter()  # the first step follows immediately
        return optimizer

    task.train(make_optimizer, epochs=1, on_step=plain_step_done)
    return seconds, losses


def check(losses: dict[str, list[float]]) -> None:
    for side in ("plain", "fast"):
        for step, (paper, own) in enumerate(list(zip(losses["paper"], losses[side], strict=True))[:COMPARED]):
            if not abs(paper - own) <= TOLERANCE:
                sys.exit(f"step {step}: the loss is {own!r} ({side}), but {paper!r} (paper): the trainings differ")


def fast(program: Program, steps: int) -> Callable[[int], float]:
    engine = CpuEngine([program], seed=0, steps=steps)
    return lambda step: float(engine.run(step, 1, losses=True).losses[0, 0])


class PaperTraining:
    """Trains as the paper's code does."""

    def __init__(self, program: Program, steps: int) -> None:
        self.contexts = context_sizes(steps)
        self.criterion = FullSupportBarDistribution(bucket_borders(), ignore_nan_targets=True)
        self.model = initial_model()
        self.optimizer = ProgramOptimizer(self.model.parameters(), program)

    def __call__(self, step: int) -> float:
        """Runs a step; returns the loss before it."""
        x, y = sample_batch(step)
        num_context = self.contexts[step]
        losses = self.criterion(paper_forward(self.model, x, y, num_context), y[num_context:].contiguous())
        loss = losses.mean(dim=0).nanmean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.item())


def paper_forward(model: PFN, x: Tensor, y: Tensor, num_context: int) -> Tensor:
    """Computes the logits of the points after the context, by the paper's operations."""
    tokens = model.x_encoder(standardise(x))
    labelled = tokens[:num_context] + model.y_encoder(y.unsqueeze(-1))[:num_context]
    tokens = torch.cat([labelled, tokens[num_context:]])
    for layer in model.layers:
        assert isinstance(layer, nn.TransformerEncoderLayer)
        context, others = tokens[:num_context], tokens[num_context:]
        # Attention packs its products if its inputs are one object. As in the paper's code, they are not.
        of_context = layer.self_attn(context, tokens[:num_context], tokens[:num_context])[0]
        of_others = layer.self_attn(others, context, context)[0]
        tokens = layer.norm1(torch.cat([of_context, of_others]) + tokens)
        tokens = layer.norm2(layer.linear2(F.gelu(layer.linear1(tokens))) + tokens)
    logits: Tensor = model.decoder(tokens[num_context:])
    return logits


def breakdown(program: Program, steps: int) -> dict[str, float]:
    """Returns the median seconds of the parts of a fast step."""
    contexts, population = context_sizes(steps), PFNPopulation.copies(initial_model(), 1)
    compiled = FusedCpuProgram(program, scaled_gradient=True)
    params, grads = (population.tensors(rows[0]) for rows in (population.weights, population.grads))
    memories: list[Memory] = [{} for _ in params]
    step, scale = 0, torch.ones(())

    def clip() -> None:
        nonlocal scale
        scale = clip_factor(grads)

    def update() -> None:
        compiled.step(params, grads, memories, step + 1, grad_scale=scale)

    parts: dict[str, list[float]] = {"forward": [], "backward": [], "clip": [], "program step": []}
    for step in range(steps):  # the functions above read it
        forward = timed(partial(population.loss, prepared_batch(step), contexts[step]))
        both = timed(partial(population.loss_and_gradients, prepared_batch(step), contexts[step]))
        parts["forward"].append(forward)
        parts["backward"].append(both - forward)
        parts["clip"].append(timed(clip))
        parts["program step"].append(timed(update))
    return {name: median(taken) for name, taken in parts.items()}


def timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
