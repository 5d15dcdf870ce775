"""The command `nosbench`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import sys
import time
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm

from nosbench_env.cli import completion
from nosbench_env.cli.arguments import read_program
from nosbench_env.cli.baselines import baselines, plot
from nosbench_env.cli.candidate_argument import read_candidate
from nosbench_env.cli.compare import compare
from nosbench_env.cli.export import export
from nosbench_env.cli.options import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_WRONG,
    ArithmeticOption,
    DeviceOption,
    EpochsOption,
    IdentityOption,
    JsonOption,
    ProgramArgument,
    QuietOption,
    ShippedOption,
    StoreOption,
    TaskOption,
    interruptible,
    make_oracle,
    on_terminal,
)
from nosbench_env.cli.program import program_app
from nosbench_env.cli.store import store_app
from nosbench_env.cli.study import study_app
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.agents import Agent, HistoryEntry, SearchResult
    from nosbench_env.evaluation import Evaluation
    from nosbench_env.oracles.oracle import Oracle
    from nosbench_env.tasks.task import Progress

# Commands import torch and what needs it when they run, so that --help answers at once.

_REFERENCE = "AdamW"  # every search shows this program's loss beside its own

app = typer.Typer(
    name="nosbench",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Neural optimizer search: evaluate optimizers that are short programs, and search for better ones.\n\n"
    "Start with `nosbench doctor`, then `nosbench evaluate Adam --task toy`, "
    "then `nosbench search --task toy --budget 200`.",
    rich_markup_mode="markdown",
)


class AgentName(StrEnum):
    """The search methods."""

    re = "re"
    rs = "rs"
    ppo = "ppo"
    maskable_ppo = "maskable-ppo"
    reinforce = "reinforce"
    risk_seeking = "risk-seeking"
    smac_nos = "smac-nos"
    smac_hpo = "smac-hpo"


# Agents that learn from many programs at a time play episodes side by side, and worker processes train their programs.
_BATCHES = {AgentName.re: 1, AgentName.rs: 1, AgentName.smac_nos: 1, AgentName.smac_hpo: 1}
_BATCH = 16


@app.command()
def evaluate(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seed: Annotated[int, typer.Option(help="Seed of the training; 0 is the paper's.")] = 0,
    device: DeviceOption = "auto",
    arithmetic: ArithmeticOption = "float32",
    identity: IdentityOption = "fingerprint",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also show which instructions make no difference, and why.")
    ] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Trains with a program, or looks its result up, and prints the learning curve and the final loss.

    On the pfn task 20 epochs take a minute or two on a CPU. A second time it is a hit and takes none.

    For example:

    * `nosbench evaluate AdamW`
    * `nosbench evaluate 'r9 = mul(grad, 0.01)' --task toy --epochs 5`
    * `nosbench evaluate 'torch.optim.SGD(lr=0.1, momentum=0.9)' --task toy`
    * `nosbench evaluate runs/my-run/best.txt --seed 1 --json`
    * `nosbench evaluate runs/my-run/best.txt --explain`
    """
    with interruptible(lambda: "Interrupted; this training is not kept."):
        found = read_candidate(program)
        oracle = make_oracle(task, store, device, arithmetic, identity, shipped)
        explained = found if explain and isinstance(found, Program) else None
        if explain and explained is None:
            raise ValueError(f"--explain is for programs, got the optimizer {found}")
        if explained is not None and not as_json:
            print(f"{_explanation_text(explained)}\n", flush=True)
        total = (epochs or oracle.task.default_epochs) * oracle.task.steps_per_epoch
        with tqdm(total=total, unit="step", leave=False, disable=quiet or as_json or not on_terminal()) as bar:

            def on_step(progress: Progress) -> None:
                bar.update(progress.step - bar.n)
                bar.set_postfix_str(f"loss {progress.loss:.4f}", refresh=False)

            evaluation = oracle.query(found, epochs, seed, on_step=on_step)
    if as_json:
        print(json.dumps(evaluation.to_json() | ({} if explained is None else _explanation_json(explained))))
    else:
        print(_evaluation_text(evaluation, oracle))


@app.command()
def search(
    agent: Annotated[
        AgentName,
        typer.Option(
            help="Search method: `re` (regularized evolution), `rs` (random search), or reinforcement learning: `ppo` "
            "(an instruction an action), `maskable-ppo` (a token an action, exact masks; needs sb3-contrib), "
            "`reinforce` and `risk-seeking` (policy gradients of a recurrent network). With SMAC (needs smac): "
            "`smac-nos` (Bayesian optimization over programs) and `smac-hpo` (over PyTorch's optimizers and their "
            "hyperparameters)."
        ),
    ] = AgentName.re,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    budget: Annotated[int, typer.Option(help="Programs to ask about, hits included.")] = 1000,
    distinct: Annotated[
        int | None, typer.Option(help="Stop also after so many distinct programs (no two taken to be equivalent).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search method.")] = 0,
    training_seed: Annotated[int, typer.Option(help="Seed of the trainings; 0 is the paper's.")] = 0,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only among programs that keep it; may be given several times. `written`: no slot is read that "
            "no instruction writes. `used`: the last instruction depends on all others. `gradient`: one reads the "
            "gradient.",
            autocompletion=completion.constraints,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="What `re` starts from: a known name, a text, a file (as in `evaluate`), or `random`. Default: AdamW.",
            autocompletion=completion.start_programs,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Programs asked for and evaluated together. `rs` proposes the same programs whatever it is; `re` is "
            "the paper's algorithm with 1, and its asynchronous variant with more. Default: 1 for these two, 16 for "
            "others, but for those of SMAC."
        ),
    ] = None,
    initial: Annotated[
        int | None,
        typer.Option(
            help="How many proposals the agents of SMAC begin with before they learn: about a quarter of a small "
            "budget. Default, as in the paper: 10 (`smac-nos`), 90 (`smac-hpo`)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train the programs of a batch, on the CPU. Default: one for each core. 1 trains them "
            "one after the other. Results are the same."
        ),
    ] = None,
    device: DeviceOption = "auto",
    arithmetic: ArithmeticOption = "float32",
    identity: IdentityOption = "fingerprint",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Run folder: history and state, for resuming. Default: runs/, named after the options.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Searches for an optimizer, and prints the best program found with its loss beside AdamW's.

    Ctrl-C stops it with nothing lost; the same command goes on from there. A greater --budget prolongs a finished
    search. The first 100 queries of `re` are its first population: copies of the start program, of which one is
    trained.

    For example:

    * `nosbench search --task toy --budget 300`
    * `nosbench search --agent rs --epochs 1 --budget 100 --seed 3`
    * `nosbench search --start Adadelta --epochs 2 --run runs/from-adadelta`
    * `nosbench search --agent rs --batch 16 --workers 8`
    * `nosbench search --agent maskable-ppo --constraint written --constraint used --epochs 1`
    * `nosbench search --agent smac-hpo --budget 100 --initial 25 --epochs 1`
    """
    display = _SearchDisplay(budget, as_json or quiet)
    with interruptible(display.interrupted):
        from nosbench_env.agents import Budget
        from nosbench_env.agents import search as run_search
        from nosbench_env.execution.settings import check_epochs

        constraints = tuple(sorted(set(constraint or ())))
        method, label = _make_agent(agent, seed, start, constraints, initial)
        usual_batch = _BATCHES.get(agent, _BATCH)
        batch = usual_batch if batch is None else batch
        limits = Budget(queries=budget, distinct=distinct)
        oracle = make_oracle(task, store, device, arithmetic, identity, shipped, workers)
        epochs = check_epochs(epochs) or oracle.task.default_epochs
        suffix = "".join(
            part
            for part, differs in (
                (f"-{arithmetic}", arithmetic != "float32"),
                (f"-{identity}", identity != "fingerprint"),
                (f"-t{training_seed}", training_seed),
                (f"-b{batch}", batch != usual_batch),
                (f"-i{initial}", initial is not None),
                *((f"-{name}", True) for name in constraints),
            )
            if differs
        )
        folder = run or Path("runs") / f"{label}-{task}-e{epochs}-s{seed}{suffix}"
        display.folder = folder
        try:
            result = run_search(
                method,
                oracle,
                limits,
                epochs=epochs,
                training_seed=training_seed,
                folder=folder,
                batch_size=batch,
                reference=KNOWN_PROGRAMS[_REFERENCE],
                on_query=display.on_query,
                on_step=display.on_step,
            )
        finally:
            display.close()
    if as_json:
        print(json.dumps(_search_json(result, folder)))
    else:
        print(_search_text(result, folder))


for _command in (compare, baselines, plot, export):
    app.command()(_command)


@app.command()
def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Checks the installation: versions, devices, the store, and that optimizers do what they should.

    Exits with 0 if all is well, else with 2.
    """
    from nosbench_env.cli.doctor import examine

    findings = examine(store)
    if as_json:
        print(json.dumps([{"what": f.what, "ok": f.ok, "found": f.found} for f in findings]))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what:<18} {finding.found}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_WRONG)


for _group in (program_app, study_app, store_app):
    app.add_typer(_group)


@app.callback(invoke_without_command=True)
def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version

        print(installed_version("nosbench_env"))
        raise typer.Exit


def main() -> None:
    """Runs the command line. Whatever goes wrong is said in one message: exit code 2 if the user can mend it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path that the terminal can't show is no reason to fail
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `nosbench ... | head`
        _discard_output()
        sys.exit(EXIT_BUG)
    except OSError as error:
        if sys.stdout is not None and not sys.stdout.isatty():
            _discard_output()
        _fail(f"{error}. What was finished before is kept", EXIT_WRONG)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        from nosbench_env.store import StoreError
        from nosbench_env.tasks.worker_pool import WorkerError

        if isinstance(error, (ValueError, StoreError, WorkerError)):
            _fail(str(error), EXIT_WRONG)
        if os.environ.get("NOSBENCH_DEBUG"):
            traceback.print_exc()
        _fail(
            f"{type(error).__name__}: {error}\n"
            "This should not happen. NOSBENCH_DEBUG=1 shows where it did; please report it.",
            EXIT_BUG,
        )


def _discard_output() -> None:
    """Lets what is still to be printed go nowhere: Python would try once more at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    print(f"nosbench: {message}", file=sys.stderr)
    sys.exit(code)


def _make_agent(
    agent: AgentName, seed: int, start: str | None, constraints: tuple[str, ...], initial: int | None
) -> tuple[Agent[Any], str]:
    """The search method, and what to call it in the run folder's name."""
    from nosbench_env.agents import AGENTS, RegularizedEvolution
    from nosbench_env.language.search_space import SearchSpace

    if start is not None and agent is not AgentName.re:
        raise ValueError("--start is for --agent re; the others start from nothing")
    if agent in (AgentName.smac_nos, AgentName.smac_hpo):
        if constraints:
            raise ValueError(f"--constraint is not for --agent {agent.value}: its configurations can't express any")
        return AGENTS[agent.value](seed=seed, **({} if initial is None else {"initial_configs": initial})), agent.value
    if initial is not None:
        raise ValueError("--initial is for --agent smac-nos and smac-hpo; the others have no initial design")
    space = SearchSpace(constraints=constraints)
    if agent is not AgentName.re:
        return AGENTS[agent.value](space=space, seed=seed), agent.value
    start = _REFERENCE if start is None else start
    if start.lower() == "random":
        return RegularizedEvolution(space=space, seed=seed), "re-random"
    program = read_program(start)
    known = {known: name.lower() for name, known in KNOWN_PROGRAMS.items()}
    label = known.get(program) or hashlib.sha256(str(program).encode()).hexdigest()[:8]
    return RegularizedEvolution(space=space, seed=seed, start=program), f"re-{label}"


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"


class _SearchDisplay:
    """The progress of a search on the terminal: a bar of queries, and a line for every new best program."""

    def __init__(self, budget: int, silent: bool) -> None:
        self.result: SearchResult | None = None
        self.folder: Path | None = None
        self._silent = silent
        # In a log, where a bar would be drawn over and over, plain lines tell the same.
        self._bar = tqdm(
            total=budget,
            leave=False,
            disable=silent or not on_terminal(),
            bar_format="{n_fmt}/{total_fmt} queries [{elapsed}<{remaining}{postfix}]",
        )
        self._every = 0.2 if on_terminal() else 10.0  # seconds
        self._best: HistoryEntry | None = None
        self._training = ""
        self._shares: dict[int, float] = {}  # how much of each training of the batch is done
        self._drawn = time.monotonic()

    def note(self, text: str) -> None:
        if not self._silent:
            self._bar.write(text, file=sys.stderr)

    def on_step(self, progress: Progress) -> None:
        self._training = f"training {progress.step}/{progress.steps}"
        if progress.programs > 1:
            self._shares[progress.index] = progress.step / progress.steps
            self._training = (
                f"training {progress.programs} programs, {sum(self._shares.values()) / progress.programs:.0%} done"
            )
        self._draw()

    def on_query(self, entry: HistoryEntry, result: SearchResult) -> None:
        self.result = result
        self._training = ""
        self._shares.clear()
        if result.best is entry and entry is not self._best:
            self._best = entry
            self.note(f"query {entry.number:>5}  loss {entry.loss:.4f}, the best so far")
        self._bar.update()
        self._draw()

    def interrupted(self) -> str:
        if self.result is None or self.folder is None:
            return "Stopped; queries done before are kept. To go on, run the same command again."
        return (
            f"Stopped after {self.result.queries} of {self._bar.total} queries; all are kept in {self.folder}.\n"
            "To go on, run the same command again."
        )

    def close(self) -> None:
        """Takes the bar from the screen."""
        self._bar.close()

    def _draw(self) -> None:
        if self._silent or time.monotonic() - self._drawn < self._every:
            return
        self._drawn = time.monotonic()
        parts = []
        if self._best is not None:
            parts.append(f"best {self._best.loss:.4f}")
        if self.result is not None:
            if self.result.reference is not None:
                parts.append(f"{_REFERENCE} {self.result.reference.loss:.4f}")
            parts.append(f"trained {self.result.trained}")
        if self._training:
            parts.append(self._training)
        if self._bar.disable:
            done = self.result.queries if self.result else 0
            self.note(f"{done}/{self._bar.total} queries, {', '.join(parts)}")
        else:
            self._bar.set_postfix_str(", ".join(parts))


def _evaluation_text(evaluation: Evaluation[Any], oracle: Oracle) -> str:
    lines = [str(evaluation.program) or "# the empty program", ""]
    lines += [
        f"epoch {epoch:>3}  loss {mean:.4f}" for epoch, mean in enumerate(evaluation.curve, evaluation.first_epoch + 1)
    ]
    made = evaluation.provenance
    origin = {
        "trained": f"trained in {evaluation.seconds:.1f} s on {oracle.task.device}",
        "store": f"a hit: trained on {made.get('date')} in {evaluation.seconds:.1f} s on {made.get('device')}",
        "shipped": f"a hit: it comes with nosbench_env, trained on {made.get('date')} on {made.get('device')}",
        "probe": "a hit: it diverges on the probe already, so it is not trained",
    }[evaluation.source]
    lines += [
        f"{evaluation.task} task, {_epochs(evaluation.epochs)}, seed {evaluation.seed}: "
        f"final loss {evaluation.loss:.4f} ({evaluation.status})",
        origin,
        f"store: {oracle.store.location}",
    ]
    return "\n".join(lines)


def _explanation_text(program: Program) -> str:
    """What each instruction of a program contributes, and what the program comes to."""
    from nosbench_env.language.canonical import canonical_form
    from nosbench_env.language.simplify import explain

    explained, form, simple = explain(program), canonical_form(program), program.simplified()
    width = max((len(str(found.instruction)) for found in explained), default=0)
    lines = [f"{sum(found.live for found in explained)} of {len(program)} instructions reach the update"]
    for number, found in enumerate(explained, start=1):
        line = f"{number:>4} {' ' if found.live else '-'} {found.instruction!s:<{width}}"
        lines.append(f"{line}  # {found.remark}" if found.remark else line.rstrip())
    lines += ["", f"Simplified, a {form.behaviour} program of {len(simple)} instruction{'s' * (len(simple) != 1)}:"]
    lines += [f"       {instruction}" for instruction in simple] or ["       # none: nothing is ever updated"]
    lines += ["", f"Canonical form {form}:"]
    return "\n".join([*lines, *(f"       {line}" for line in form.text.splitlines())])


def _explanation_json(program: Program) -> dict[str, Any]:
    from nosbench_env.language.canonical import canonical_form
    from nosbench_env.language.simplify import explain

    form = canonical_form(program)
    return {
        "explanation": {
            "instructions": [
                {"instruction": str(found.instruction), "live": found.live, "remark": found.remark}
                for found in explain(program)
            ],
            "simplified": program.simplified().to_json(),
            "behaviour": form.behaviour,
            "canonical": form.text,
            "canonical_digest": form.digest,
        }
    }


def _search_text(result: SearchResult, folder: Path) -> str:
    lines = [
        f"{result.queries} queries, {result.distinct} distinct programs, {result.trained} trainings (the rest: hits)",
        f"Run folder: {folder}",
    ]
    best, reference = result.best, result.reference
    if best is None or reference is None:
        return "\n".join([*lines, "No program reached a finite loss."])
    lines += [
        f"Best program (query {best.number}), {reference.task} task, {_epochs(reference.epochs)}:",
        "",
        *(f"    {line}" for line in str(best.program).splitlines()),
        "",
        f"    loss {best.loss:.4f}    {_REFERENCE} {reference.loss:.4f}",
        "",
        "One training's loss is noisy. Look at the task's full length and other seeds:",
        f"    nosbench evaluate {shlex.quote(str(folder / 'best.txt'))} --task {reference.task} --seed 1",
    ]
    return "\n".join(lines)


def _search_json(result: SearchResult, folder: Path) -> dict[str, Any]:
    return {
        "run": str(folder),
        "queries": result.queries,
        "distinct": result.distinct,
        "trained": result.trained,
        "simulated_seconds": result.simulated_seconds,
        "best": None if result.best is None else result.best.to_json(),
        "reference": None if result.reference is None else result.reference.to_json(),
    }
