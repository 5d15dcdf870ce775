"""Training time of a program that reads no gradient, against AdamW's.

    python benchmarks/gradient_free.py [--epochs 2] [--rounds 3] [--no-record]

PFN task, CPU, one thread: `train_programs([AdamW])` against `train_programs([r9 = mul(param, 0.001)],
last_epoch_only=True)` at the same number of epochs. The second needs no backward pass, and no forward pass before the
last epoch. The batches of all steps are drawn beforehand, since a process draws them once.

At the paper's 20 epochs the program without gradient is always measured. AdamW's time there is extrapolated from the
time of one more epoch, unless `--epochs 20` is given (minutes per round).
"""

from __future__ import annotations

from functools import partial

from harness import arguments, interleaved, median, ratio, record
from programs import GRADIENT_FREE

from nosbench_env import KNOWN_PROGRAMS
from nosbench_env.tasks.pfn import PFNTask
from nosbench_env.tasks.pfn_data import bucket_borders, prepared_batch

PAPERS_EPOCHS = PFNTask.default_epochs


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--epochs", type=int, default=2, help="length of both trainings (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=PFNTask.steps_per_epoch, help="steps of an epoch (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be at least 2: a single epoch needs the losses of all its steps")
    task = PFNTask("cpu")
    task.steps_per_epoch = options.steps
    bucket_borders()
    for block in range(-(-PAPERS_EPOCHS * options.steps // 100)):
        prepared_batch(100 * block)

    adamw = partial(task.train_programs, [KNOWN_PROGRAMS["AdamW"]])
    free = partial(task.train_programs, [GRADIENT_FREE], last_epoch_only=True)
    short = options.epochs < PAPERS_EPOCHS
    sides = {"AdamW": partial(adamw, options.epochs), "gradient-free": partial(free, options.epochs)}
    if short:
        sides |= {"AdamW, an epoch less": partial(adamw, options.epochs - 1), "at 20": partial(free, PAPERS_EPOCHS)}
    seconds = interleaved(sides, options.rounds, warmup=0)

    measured = ratio(seconds, "gradient-free", "AdamW")
    figures: dict[str, object] = {"epochs": options.epochs, "steps an epoch": options.steps, "rounds": options.rounds}
    figures |= {f"{side}, s": round(median(seconds[side]), 3) for side in ("AdamW", "gradient-free")}
    figures["ratio"] = round(measured, 2)
    print(f"{options.epochs} epochs of {options.steps} steps, medians")
    print(f"AdamW         {median(seconds['AdamW']):8.3f} s")
    print(f"gradient-free {median(seconds['gradient-free']):8.3f} s  {measured:.2f}x")
    if short:
        more = [a - b for a, b in zip(seconds["AdamW"], seconds["AdamW, an epoch less"], strict=True)]
        extrapolated = median(seconds["AdamW"]) + (PAPERS_EPOCHS - options.epochs) * median(more)
        at_20 = median(seconds["at 20"])
        print(f"{PAPERS_EPOCHS} epochs: AdamW extrapolated {extrapolated:.2f} s, gradient-free measured {at_20:.3f} s,")
        print(f"so {extrapolated / at_20:.1f}x")
        figures["at 20 epochs"] = {
            "AdamW s, extrapolated": round(extrapolated, 2),
            "gradient-free s, measured": round(at_20, 3),
            "ratio": round(extrapolated / at_20, 1),
        }
    if not options.no_record:
        record("gradient_free", figures)


if __name__ == "__main__":
    main()
