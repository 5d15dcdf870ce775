"""The commands `nosbench program`: shortening, ablation, sweeps, tuning and cost of one program."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    with_options,
)
from nosbench_env.cli.program_cost import cost
from nosbench_env.language.known_programs import KNOWN_PROGRAMS

if TYPE_CHECKING:
    from nosbench_env.oracles.oracle import Oracle
    from nosbench_env.postprocessing import Ablation, Evaluator, Shortening, Sweep, Tuning

# The commands import torch when they run, so that --help answers at once.

program_app = typer.Typer(
    name="program",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Analyses one program: its parts, its constants and its cost.",
    rich_markup_mode="markdown",
)

SeedsOption = Annotated[int, typer.Option(min=1, help="Number of training seeds: 0, 1, ...")]
WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes that train on the CPU. Default: one for each core; 1 trains in this process."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder for data and plots. Default: one in postprocessing/, named after program, task and epochs."
    ),
]
PlotOption = Annotated[bool, typer.Option(help="Draw a plot. Needs the extra `plot`.")]
FactorOption = Annotated[
    list[float] | None, typer.Option(help="A factor to try; may be repeated. Replaces the default factors, except 1.")
]


@dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """The options of all commands that train variants of a program."""

    program: ProgramArgument
    task: TaskOption = "pfn"
    epochs: EpochsOption = None
    seeds: SeedsOption = 3
    workers: WorkersOption = None
    device: DeviceOption = "auto"
    store: StoreOption = None
    shipped: ShippedOption = True
    output: OutputOption = None
    as_json: JsonOption = False
    quiet: QuietOption = False


@program_app.callback()
def _program() -> None:
    """Analyses one program: its parts, its constants and its cost."""


program_app.command()(cost)


@program_app.command()
@with_options
def shorten(
    options: ProgramOptions,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Also remove instructions that raise the mean loss by at most this: an approximation."),
    ] = None,
) -> None:
    """Removes instructions that a program does not need.

    First go instructions that certainly make no difference, by the canonical form. Then go those without which the
    fingerprint on the task stays the same; training confirms it (losses equal to the last bit, or as near as rounding
    explains). With --tolerance, instructions that change the loss little go too.

    For example:

    * `nosbench program shorten Incumbent --epochs 1`
    * `nosbench program shorten runs/my-run/best.txt --task toy --tolerance 0.01`
    """
    with _looking(options) as look:
        from nosbench_env.postprocessing import shorten as shorten_program

        shortening = shorten_program(look.program, look.evaluator("canonical"), tolerance)
        look.write("shortening", shortening.to_json())
    if not options.as_json:
        print(_shortening_text(shortening, look, tolerance))


@program_app.command()
@with_options
def ablate(
    options: ProgramOptions,
    plot: PlotOption = True,
) -> None:
    """Measures the change of the loss without each instruction.

    Each of its inputs replaces its value once, and it is left out once; the least harmful variant counts. Changes are
    differences between trainings of one seed; ± is the 95 % interval of their mean.

    For example:

    * `nosbench program ablate AdamW --task toy`
    * `nosbench program ablate Incumbent --epochs 2 --seeds 2 --no-plot`
    """
    with _looking(options, plot) as look:
        from nosbench_env.plotting import save
        from nosbench_env.postprocessing import ablate as ablate_program
        from nosbench_env.postprocessing.plots import plot_ablation

        ablation = ablate_program(look.program, look.evaluator())
        if plot and ablation.effects:
            save(plot_ablation(ablation, f"{look.title}: without each instruction"), look.plot_file("ablation"))
        look.write("ablation", ablation.to_json())
    if not options.as_json:
        print(_ablation_text(ablation, look))


@program_app.command()
@with_options
def sensitivity(
    options: ProgramOptions,
    factor: FactorOption = None,
    plot: PlotOption = True,
) -> None:
    """Measures the loss with each constant multiplied by 0.1, 0.3, 3 and 10.

    Each use of a constant is a constant of its own. There is a training for each constant, factor and seed.

    For example:

    * `nosbench program sensitivity AdamW --task toy`
    * `nosbench program sensitivity Incumbent --epochs 1 --factor 0.5 --factor 2`
    """
    with _looking(options, plot) as look:
        from nosbench_env.plotting import save
        from nosbench_env.postprocessing import sensitivity as sweep_constants
        from nosbench_env.postprocessing.plots import plot_sweeps
        from nosbench_env.postprocessing.sensitivity import CONSTANT_FACTORS

        sweeps = sweep_constants(look.program, look.evaluator(), factor or CONSTANT_FACTORS)
        if plot and sweeps:
            save(
                plot_sweeps(look.program, sweeps, f"{look.title}: each constant, multiplied"),
                look.plot_file("sensitivity"),
            )
        look.write("sensitivity", {"sweeps": [sweep.to_json() for sweep in sweeps]})
    if not options.as_json:
        print(_sweeps_text(sweeps, look))


@program_app.command()
@with_options
def lr(
    options: ProgramOptions,
    factor: FactorOption = None,
    plot: PlotOption = True,
) -> None:
    """Measures the loss with the update multiplied by 0.01 to 100.

    For example:

    * `nosbench program lr AdamW --task toy`
    * `nosbench program lr 'r9 = mul(grad, 0.01)' --task toy --factor 0.5 --factor 2`
    """
    with _looking(options, plot) as look:
        from nosbench_env.plotting import save
        from nosbench_env.postprocessing import lr_scale
        from nosbench_env.postprocessing.plots import plot_sweeps
        from nosbench_env.postprocessing.sensitivity import LR_FACTORS

        sweep = lr_scale(look.program, look.evaluator(), factor or LR_FACTORS)
        if plot:
            save(plot_sweeps(look.program, [sweep], f"{look.title}: the update, multiplied"), look.plot_file("lr"))
        look.write("lr", sweep.to_json() | {"reading": _lr_reading(sweep)})
    if not options.as_json:
        print(_lr_text(sweep, look))


@program_app.command()
@with_options
def tune(
    options: ProgramOptions,
    test_seeds: Annotated[
        int, typer.Option(min=1, help="Number of further seeds that judge the result and take no part in tuning.")
    ] = 3,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, the program's own included.")] = 50,
    reach: Annotated[float, typer.Option(help="Largest factor between a tuned constant and the program's.")] = 10.0,
    use: Annotated[
        list[str] | None,
        typer.Option(
            help="Tune only this constant, as LINE.INPUT, both counted from 1; may be repeated. Default: all."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampler.")] = 0,
) -> None:
    """Tunes constants with Optuna; compares with the original at further seeds.

    Tuned constants can be any numbers, so the result is no program of the search space; `TunedProgram.from_json` reads
    its JSON form in tuning.json. The command needs the extra `tune`. Ctrl-C keeps finished trials; the same command
    continues, and a greater --trials extends it.

    For example:

    * `nosbench program tune AdamW --task toy --trials 30`
    * `nosbench program tune Incumbent --epochs 1 --seeds 2 --use 5.2 --use 11.1`
    """
    with _looking(options) as look:
        from nosbench_env.candidates.tuned_program import ConstantUse
        from nosbench_env.postprocessing import tune as tune_constants
        from nosbench_env.postprocessing.tuning import check_optuna

        check_optuna()
        tuning = tune_constants(
            look.program,
            look.evaluator(),
            range(options.seeds, options.seeds + test_seeds),
            trials=trials,
            reach=reach,
            uses=[ConstantUse.parse(text) for text in use] if use else None,
            seed=seed,
            storage=look.folder / "tuning.journal",
        )
        look.write("tuning", tuning.to_json())
    if not options.as_json:
        print(_tuning_text(tuning, look))


class _Look:
    """A program under study, its evaluator, and the output folder."""

    def __init__(self, options: ProgramOptions, bar: tqdm[Any]) -> None:
        from nosbench_env.execution.settings import check_epochs

        self.program = read_program(options.program)
        self.task, self.seeds = options.task, range(options.seeds)
        self._options, self._bar = options, bar
        self._name = next((name for name, known in KNOWN_PROGRAMS.items() if known == self.program), None)
        self.epochs = check_epochs(options.epochs) or self._oracle("fingerprint").task.default_epochs
        label = self._name.lower() if self._name else hashlib.sha256(str(self.program).encode()).hexdigest()[:8]
        self.folder = options.output or Path("postprocessing") / f"{label}-{self.task}-e{self.epochs}"

    @property
    def title(self) -> str:
        """The program, the task, and the length and seeds of its trainings."""
        last = self.seeds[-1]
        return (
            f"{self._name or f'A program of {len(self.program)} instructions'}, {self.task} task, "
            f"{self.epochs} epoch{'s' * (self.epochs != 1)}, seed{'s 0 to' * (last > 0)} {last}"
        )

    def evaluator(self, identity: str = "fingerprint") -> Evaluator:
        """Returns an evaluator that shows its progress."""
        from nosbench_env.postprocessing import Evaluator

        def show(done: int, asked: int) -> None:
            self._bar.total = asked
            self._bar.update(done - self._bar.n)

        return Evaluator(self._oracle(identity), self.epochs, self.seeds, show)

    def plot_file(self, name: str) -> Path:
        """Returns the file of a plot, in a folder that exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}.png"

    def write(self, name: str, data: dict[str, Any]) -> None:
        """Writes data to the folder, and with `--json` prints them."""
        asked = {"program": self.program.to_json(), "task": self.task, "epochs": self.epochs, "seeds": [*self.seeds]}
        text = json.dumps(asked | data, allow_nan=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        if self._options.as_json:
            self._bar.close()
            print(text)

    def _oracle(self, identity: str) -> Oracle:
        options = self._options
        return make_oracle(
            options.task, options.store, options.device, "float32", identity, options.shipped, options.workers
        )


@contextmanager
def _looking(options: ProgramOptions, plot: bool = False) -> Iterator[_Look]:
    """Opens a program under study, with a progress bar, until Ctrl-C."""
    with interruptible(lambda: "Stopped. Finished trainings are kept. Run the same command again to continue."):
        from nosbench_env.plotting import check_matplotlib

        if plot:
            check_matplotlib()
        silent = options.as_json or options.quiet or not on_terminal()
        with tqdm(total=0, unit="training", leave=False, disable=silent) as bar:
            yield _Look(options, bar)


def _shortening_text(shortening: Shortening, look: _Look, tolerance: float | None) -> str:
    lines = [
        look.title,
        "",
        f"{len(shortening.original):>4} instructions as written",
        f"{len(shortening.canonical):>4} make a difference; the rest certainly makes none (canonical form)",
    ]
    if shortening.behaviour != "ok":
        lines.append(f"     The probe shows that training diverges ({shortening.behaviour}): no more can be removed.")
    elif shortening.training is not None:
        lines.append(
            f"{len(shortening.probed):>4} give the same fingerprint, and in training losses "
            f"{_proof_text(shortening.training)}:"
        )
        lines += _step_lines(shortening)
    else:
        lines.append("     Without any further instruction the fingerprint or the training differs.")
    for step, proof in reversed(shortening.refused):
        lines.append(f"     kept though the fingerprint is the same without it: {step.replacement.instruction}")
        lines.append(f"         in training losses {_proof_text(proof)}")
    if tolerance is not None:
        lines.append(
            f"{len(shortening.approximated):>4} left approximately: not equal, the loss at most {tolerance:g} higher"
        )
        lines += [
            f"         {step.replacement.instruction}  ->  {step.replacement.by}    change {step.change}"
            for step in shortening.approximate
        ]
    lines += ["", *(f"    {line}" for line in (str(shortening.approximated) or "# the empty program").splitlines())]
    return "\n".join([*lines, "", f"Data: {look.folder / 'shortening.json'}"])


def _step_lines(shortening: Shortening) -> list[str]:
    return [f"         {step.replacement.instruction}  ->  {step.replacement.by}" for step in shortening.steps]


def _proof_text(proof: Any) -> str:
    if proof.difference == 0:
        return "are equal to the last bit"
    relation = "as rounding explains" if proof.verdict == "equal up to rounding" else "more than rounding explains"
    moved = f"a last bit in the updates moves them by {proof.rounding:.2g}"
    return f"differ by up to {proof.difference:.2g}, {relation} ({moved})"


def _ablation_text(ablation: Ablation, look: _Look) -> str:
    rows = [["line", "instruction", "best replaced by", "change of loss", ""]]
    for effect in ablation.effects:
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
    lines = [look.title, _own_text(ablation.losses), ""]
    lines += aligned(rows, left=(1, 2, 4)) if ablation.effects else ["    no instruction reaches an update"]
    return "\n".join([*lines, "", f"Written to {look.folder}"])


def _sweeps_text(sweeps: Sequence[Sweep], look: _Look) -> str:
    if not sweeps:
        return f"{look.title}\nThe program reads no constant."
    rows = [["use", "instruction", "constant", *(f"x{factor:g}" for factor in sweeps[0].factors), "best"]]
    for sweep in sweeps:
        assert sweep.use is not None
        cells = [_mean_text(losses) for losses in sweep.losses]
        instruction = str(look.program[sweep.use.line - 1])
        rows.append([str(sweep.use), instruction, f"{sweep.value:g}", *cells, f"x{sweep.best:g}"])
    lines = [f"{look.title}: mean loss with a constant multiplied", "", *aligned(rows, left=(0, 1))]
    return "\n".join([*lines, "", f"Written to {look.folder}"])


def _lr_text(sweep: Sweep, look: _Look) -> str:
    rows = [["lr", "loss", "change", ""]]
    for factor, losses, change in zip(sweep.factors, sweep.losses, sweep.changes, strict=True):
        note = "" if factor == 1.0 or change.verdict == "diverges" else change.verdict
        rows.append([f"{factor:g}", _mean_text(losses), "" if factor == 1.0 else str(change), note])
    lines = [f"{look.title}: mean loss with the update multiplied by lr", "", *aligned(rows, left=(3,))]
    return "\n".join([*lines, "", _lr_reading(sweep), f"Written to {look.folder}"])


def _lr_reading(sweep: Sweep) -> str:
    """Compares the program's own learning rate with the best of the sweep."""
    if sweep.best == 1.0:
        return "lr = 1, the program's own, is the best of these."
    gain = f"lr = {sweep.best:g} is the best of these ({sweep.gain})"
    if sweep.gain.verdict != "better":
        return f"{gain}, but not told apart from lr = 1, the program's own, by these seeds."
    edge = sweep.best in (sweep.factors[0], sweep.factors[-1])
    return f"{gain}, clearly better than the program's own, lr = 1" + "; it may lie beyond." * edge + "." * (not edge)


def _tuning_text(tuning: Tuning, look: _Look) -> str:
    rows = [["use", "instruction", "constant", "tuned"]]
    for use, (value, best) in tuning.values.items():
        rows.append([str(use), str(look.program[use.line - 1]), f"{value:g}", f"{best:.4g}"])
    change = tuning.change
    lines = [f"{look.title}: {tuning.trials} trials", "", *aligned(rows, left=(0, 1)), ""]
    lines += [f"    {line}" for line in str(tuning.tuned).splitlines()]
    tests = f"at seeds {', '.join(map(str, tuning.test_seeds))}, which took no part"
    lines += [
        "",
        f"loss {_mean_text(tuning.losses)} -> {_mean_text(tuning.tuned_losses)} {tests}: {change} ({change.verdict})",
        f"({tuning.tuning_change} at the seeds it was tuned by)",
        f"Data: {look.folder / 'tuning.json'}; trials: {look.folder / 'tuning.journal'}",
    ]
    return "\n".join(lines)


def _own_text(losses: Sequence[float]) -> str:
    return f"loss {_mean_text(losses)} ({', '.join(f'{loss:.4f}' for loss in losses)})"


def _mean_text(losses: Sequence[float]) -> str:
    """Returns the mean, or "diverges" if a loss is not finite."""
    return f"{sum(losses) / len(losses):.4f}" if all(map(math.isfinite, losses)) else "diverges"
