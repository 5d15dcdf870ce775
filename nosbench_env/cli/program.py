"""The commands `nosbench program`: what a program is made of, which of it matters, and whether it can be tuned."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm

from nosbench_env.cli.arguments import read_program
from nosbench_env.cli.options import (
    DeviceOption,
    EpochsOption,
    JsonOption,
    ProgramArgument,
    QuietOption,
    ShippedOption,
    StoreOption,
    TaskOption,
    aligned,
    interruptible,
    make_oracle,
    on_terminal,
)
from nosbench_env.cli.program_cost import cost
from nosbench_env.language.known_programs import KNOWN_PROGRAMS

if TYPE_CHECKING:
    from nosbench_env.postprocessing import Ablation, Evaluator, Shortening, Sweep, Tuning

# The commands import torch and what needs it when they run, so that --help answers at once.

program_app = typer.Typer(
    name="program",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look closer at one program: what of it matters, and how finely it is tuned.",
    rich_markup_mode="markdown",
)

SeedsOption = Annotated[int, typer.Option(min=1, help="How many seeds to train with: 0, 1, ...")]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes that train, on the CPU. Default: one for each core. 1 trains in this process."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(help="Where data and picture go. Default: postprocessing/, named after program, task and epochs."),
]
PlotsOption = Annotated[bool, typer.Option(help="Draw a picture; it needs the extra `plot`.")]
FactorOption = Annotated[
    list[float] | None, typer.Option(help="A factor to try; may be given several times, and replaces all others but 1.")
]


@program_app.callback()
def _program() -> None:
    """Look closer at one program: what of it matters, and how finely it is tuned."""


program_app.command()(cost)


@program_app.command()
def simplify(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 3,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Also take out what raises the mean loss by no more than this: an approximation."),
    ] = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Takes out what a program does not need, and says of each part how that is known.

    In this order: what falls away for certain, by the canonical form; instructions without which the fingerprint on the
    task is the same, which is then proven by training (losses equal to the last bit, or as near as rounding explains);
    with --tolerance, what changes the loss by little.

    For example:

    * `nosbench program simplify Incumbent --epochs 1`
    * `nosbench program simplify runs/my-run/best.txt --task toy --tolerance 0.01`
    """
    with _looking(program, task, epochs, seeds, workers, device, store, shipped, out, as_json or quiet) as look:
        from nosbench_env.postprocessing import shorten

        found = shorten(look.program, look.evaluator("canonical"), tolerance)
        look.write("simplification", found.to_json(), as_json)
    if not as_json:
        print(_shortening_text(found, look, tolerance))


@program_app.command()
def ablate(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 3,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    out: OutOption = None,
    plots: PlotsOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Takes each instruction out, and tells by how much the loss changes without it.

    Each of its inputs stands for its value once, and it is left out once; what does least harm is what the instruction
    is measured by. Changes are differences between trainings of one seed; ± is the 95 % interval of their mean.

    For example:

    * `nosbench program ablate AdamW --task toy`
    * `nosbench program ablate Incumbent --epochs 2 --seeds 2 --no-plots`
    """
    with _looking(program, task, epochs, seeds, workers, device, store, shipped, out, as_json or quiet, plots) as look:
        from nosbench_env.postprocessing import ablate as ablate_program
        from nosbench_env.postprocessing.pictures import draw_ablation

        found = ablate_program(look.program, look.evaluator())
        if plots and found.effects:
            draw_ablation(found, look.picture("ablation"), f"{look.title}: without each instruction")
        look.write("ablation", found.to_json(), as_json)
    if not as_json:
        print(_ablation_text(found, look))


@program_app.command()
def sensitivity(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 3,
    factor: FactorOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    out: OutOption = None,
    plots: PlotsOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Multiplies each constant, wherever one is read, by 0.1, 0.3, 3 and 10, and tells what becomes of the loss.

    That is a training for each constant, factor and seed.

    For example:

    * `nosbench program sensitivity AdamW --task toy`
    * `nosbench program sensitivity Incumbent --epochs 1 --factor 0.5 --factor 2`
    """
    with _looking(program, task, epochs, seeds, workers, device, store, shipped, out, as_json or quiet, plots) as look:
        from nosbench_env.postprocessing import sensitivity as sweep_constants
        from nosbench_env.postprocessing.pictures import draw_sweeps
        from nosbench_env.postprocessing.sensitivity import CONSTANT_FACTORS

        found = sweep_constants(look.program, look.evaluator(), factor or CONSTANT_FACTORS)
        if plots and found:
            draw_sweeps(look.program, found, look.picture("sensitivity"), f"{look.title}: each constant, multiplied")
        look.write("sensitivity", {"sweeps": [sweep.to_json() for sweep in found]}, as_json)
    if not as_json:
        print(_sweeps_text(found, look))


@program_app.command()
def lr(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 3,
    factor: FactorOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    out: OutOption = None,
    plots: PlotsOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Multiplies the program's update by 0.01 to 100, and tells whether its own learning rate is a good one.

    For example:

    * `nosbench program lr AdamW --task toy`
    * `nosbench program lr 'r9 = mul(grad, 0.01)' --task toy --factor 0.5 --factor 2`
    """
    with _looking(program, task, epochs, seeds, workers, device, store, shipped, out, as_json or quiet, plots) as look:
        from nosbench_env.postprocessing import lr_scale
        from nosbench_env.postprocessing.pictures import draw_sweeps
        from nosbench_env.postprocessing.sensitivity import LR_FACTORS

        found = lr_scale(look.program, look.evaluator(), factor or LR_FACTORS)
        if plots:
            draw_sweeps(look.program, [found], look.picture("lr"), f"{look.title}: the update, multiplied")
        look.write("lr", found.to_json() | {"reading": _lr_reading(found)}, as_json)
    if not as_json:
        print(_lr_text(found, look))


@program_app.command()
def tune(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 3,
    test_seeds: Annotated[
        int, typer.Option(min=1, help="How many further seeds to compare the result by, which tuning does not see.")
    ] = 3,
    trials: Annotated[int, typer.Option(min=1, help="Values to try, the program's own included.")] = 50,
    reach: Annotated[float, typer.Option(help="Constants stay within this factor of the program's.")] = 10.0,
    use: Annotated[
        list[str] | None,
        typer.Option(
            help="Tune only this constant, as LINE.INPUT, both counted from 1; may be given several times. "
            "Default: all."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    out: OutOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tunes the program's constants with Optuna, and compares the result with the program at seeds of its own.

    The constants become any numbers, so the result is no program of the search space; its JSON form in tuning.json
    is what `TunedProgram.from_json` reads. It needs the extra `tune`. Ctrl-C loses nothing finished; the same command
    goes on, and a greater --trials prolongs it.

    For example:

    * `nosbench program tune AdamW --task toy --trials 30`
    * `nosbench program tune Incumbent --epochs 1 --seeds 2 --use 5.2 --use 11.1`
    """
    with _looking(program, task, epochs, seeds, workers, device, store, shipped, out, as_json or quiet) as look:
        from nosbench_env.candidates.tuned_program import ConstantUse
        from nosbench_env.postprocessing import tune as tune_constants
        from nosbench_env.postprocessing.tuning import check_optuna

        check_optuna()
        found = tune_constants(
            look.program,
            look.evaluator(),
            range(seeds, seeds + test_seeds),
            trials=trials,
            reach=reach,
            uses=[ConstantUse.parse(text) for text in use] if use else None,
            seed=seed,
            storage=look.folder / "tuning.journal",
        )
        look.write("tuning", found.to_json(), as_json)
    if not as_json:
        print(_tuning_text(found, look))


class _Look:
    """A program being looked at: how it is evaluated, and where what is found goes."""

    def __init__(
        self,
        program: str,
        task: str,
        epochs: int | None,
        seeds: int,
        oracle: Callable[..., Any],
        out: Path | None,
        bar: tqdm[Any],
    ) -> None:
        from nosbench_env.execution.settings import check_epochs

        self.program = read_program(program)
        self._oracle, self._bar, self.seeds = oracle, bar, range(seeds)
        known = {known: name for name, known in KNOWN_PROGRAMS.items()}
        self._name = known.get(self.program)
        self.epochs = check_epochs(epochs) or oracle("fingerprint").task.default_epochs
        self.task = task
        label = self._name.lower() if self._name else hashlib.sha256(str(self.program).encode()).hexdigest()[:8]
        self.folder = out or Path("postprocessing") / f"{label}-{task}-e{self.epochs}"

    @property
    def title(self) -> str:
        """What is looked at, and how."""
        last = self.seeds[-1]
        return (
            f"{self._name or f'A program of {len(self.program)} instructions'}, {self.task} task, "
            f"{self.epochs} epoch{'s' * (self.epochs != 1)}, seed{'s 0 to' * (last > 0)} {last}"
        )

    def evaluator(self, identity: str = "fingerprint") -> Evaluator:
        """What trains, and shows how far it is."""
        from nosbench_env.postprocessing import Evaluator

        def show(done: int, asked: int) -> None:
            self._bar.total = asked
            self._bar.update(done - self._bar.n)

        return Evaluator(self._oracle(identity), self.epochs, self.seeds, show)

    def picture(self, name: str) -> Path:
        """Where a picture goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.png"

    def write(self, name: str, data: dict[str, Any], as_json: bool) -> None:
        """Writes what was found to the folder, and prints it if it is asked for as JSON."""
        asked = {"program": self.program.to_json(), "task": self.task, "epochs": self.epochs, "seeds": [*self.seeds]}
        text = json.dumps(asked | data, allow_nan=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        if as_json:
            self._bar.close()
            print(text)


@contextmanager
def _looking(
    program: str,
    task: str,
    epochs: int | None,
    seeds: int,
    workers: int | None,
    device: str,
    store: str | None,
    shipped: bool,
    out: Path | None,
    silent: bool,
    plots: bool = False,
) -> Iterator[_Look]:
    """What all these commands begin with, and end with."""
    with interruptible(lambda: "Stopped; trainings that were finished are kept. To go on, run the same command again."):
        from nosbench_env.plotting import check_matplotlib

        if plots:
            check_matplotlib()

        def oracle(identity: str) -> Any:
            return make_oracle(task, store, device, "float32", identity, shipped, workers)

        with tqdm(total=0, unit="training", leave=False, disable=silent or not on_terminal()) as bar:
            yield _Look(program, task, epochs, seeds, oracle, out, bar)


def _shortening_text(found: Shortening, look: _Look, tolerance: float | None) -> str:
    lines = [
        look.title,
        "",
        f"{len(found.original):>4} instructions as written",
        f"{len(found.canonical):>4} make a difference; the rest falls away for certain (canonical form)",
    ]
    if found.behaviour != "ok":
        lines.append(f"     The probe shows that training diverges ({found.behaviour}): no more can be told apart.")
    elif found.training is not None:
        lines.append(
            f"{len(found.probed):>4} give the same fingerprint, and in training losses {_proof_text(found.training)}:"
        )
        lines += _step_lines(found)
    else:
        lines.append("     Without any other the fingerprint on the task differs, or training does.")
    for step, proof in reversed(found.refused):
        lines.append(f"     kept though the fingerprint is the same without it: {step.replacement.instruction}")
        lines.append(f"         in training losses {_proof_text(proof)}")
    if tolerance is not None:
        lines.append(
            f"{len(found.approximated):>4} left approximately: not equal, the loss at most {tolerance:g} higher"
        )
        lines += [
            f"         {step.replacement.instruction}  ->  {step.replacement.by}    change {step.change}"
            for step in found.approximate
        ]
    lines += ["", *(f"    {line}" for line in (str(found.approximated) or "# the empty program").splitlines())]
    return "\n".join([*lines, "", f"Data: {look.folder / 'simplification.json'}"])


def _step_lines(found: Shortening) -> list[str]:
    return [f"         {step.replacement.instruction}  ->  {step.replacement.by}" for step in found.steps]


def _proof_text(proof: Any) -> str:
    if proof.difference == 0:
        return "are equal to the last bit"
    relation = "as rounding explains" if proof.verdict == "equal up to rounding" else "more than rounding explains"
    moved = f"a last bit in the updates moves them by {proof.rounding:.2g}"
    return f"differ by up to {proof.difference:.2g}, {relation} ({moved})"


def _ablation_text(found: Ablation, look: _Look) -> str:
    rows = [["line", "instruction", "best replaced by", "change of loss", ""]]
    for effect in found.effects:
        best = effect.variants[0]
        rows.append(
            [
                str(effect.line),
                str(effect.instruction),
                best.replacement.by,
                str(best.change),
                best.change.verdict if best.change.verdict != "diverges" else "",
            ]
        )
    lines = [look.title, _own_text(found.losses), ""]
    lines += aligned(rows, left=(1, 2, 4)) if found.effects else ["    no instruction reaches an update"]
    return "\n".join([*lines, "", f"Written to {look.folder}"])


def _sweeps_text(found: Sequence[Sweep], look: _Look) -> str:
    if not found:
        return f"{look.title}\nThe program reads no constant."
    rows = [["use", "instruction", "constant", *(f"x{factor:g}" for factor in found[0].factors), "best"]]
    for sweep in found:
        assert sweep.use is not None
        cells = [_mean_text(losses) for losses in sweep.losses]
        instruction = str(look.program[sweep.use.line - 1])
        rows.append([str(sweep.use), instruction, f"{sweep.value:g}", *cells, f"x{sweep.best:g}"])
    lines = [f"{look.title}: mean loss with a constant multiplied", "", *aligned(rows, left=(0, 1))]
    return "\n".join([*lines, "", f"Written to {look.folder}"])


def _lr_text(found: Sweep, look: _Look) -> str:
    rows = [["lr", "loss", "change", ""]]
    for factor, losses, change in zip(found.factors, found.losses, found.changes, strict=True):
        note = "" if factor == 1.0 or change.verdict == "diverges" else change.verdict
        rows.append([f"{factor:g}", _mean_text(losses), "" if factor == 1.0 else str(change), note])
    lines = [f"{look.title}: mean loss with the update multiplied by lr", "", *aligned(rows, left=(3,))]
    return "\n".join([*lines, "", _lr_reading(found), f"Written to {look.folder}"])


def _lr_reading(found: Sweep) -> str:
    """What the sweep says about the program's own learning rate."""
    if found.best == 1.0:
        return "lr = 1, the program's own, is the best of these."
    gain = f"lr = {found.best:g} is the best of these ({found.gain})"
    if found.gain.verdict != "better":
        return f"{gain}, but not told apart from lr = 1, the program's own, by these seeds."
    edge = found.best in (found.factors[0], found.factors[-1])
    return f"{gain}, clearly better than the program's own, lr = 1" + "; it may lie beyond." * edge + "." * (not edge)


def _tuning_text(found: Tuning, look: _Look) -> str:
    rows = [["use", "instruction", "constant", "tuned"]]
    for use, (value, best) in found.values.items():
        rows.append([str(use), str(look.program[use.line - 1]), f"{value:g}", f"{best:.4g}"])
    change = found.change
    lines = [f"{look.title}: {found.trials} trials", "", *aligned(rows, left=(0, 1)), ""]
    lines += [f"    {line}" for line in str(found.tuned).splitlines()]
    tests = f"at seeds {', '.join(map(str, found.test_seeds))}, which took no part"
    lines += [
        "",
        f"loss {_mean_text(found.losses)} -> {_mean_text(found.tuned_losses)} {tests}: {change} ({change.verdict})",
        f"({found.tuning_change} at the seeds it was tuned by)",
        f"Data: {look.folder / 'tuning.json'}; trials: {look.folder / 'tuning.journal'}",
    ]
    return "\n".join(lines)


def _own_text(losses: Sequence[float]) -> str:
    return f"loss {_mean_text(losses)} ({', '.join(f'{loss:.4f}' for loss in losses)})"


def _mean_text(losses: Sequence[float]) -> str:
    """The mean; or, if it diverges at some seed, that."""
    return f"{sum(losses) / len(losses):.4f}" if all(map(math.isfinite, losses)) else "diverges"
