"""The command `nosbench search`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm

from nosbench_env.cli import completion
from nosbench_env.cli.arguments import read_program
from nosbench_env.cli.options import (
    ArithmeticOption,
    DeviceOption,
    EpochsOption,
    IdentityOption,
    JsonOption,
    QuietOption,
    ShippedOption,
    StoreOption,
    TaskOption,
    counted_epochs,
    interruptible,
    make_oracle,
    on_terminal,
)
from nosbench_env.language.known_programs import KNOWN_PROGRAMS

if TYPE_CHECKING:
    from nosbench_env.agents import HistoryEntry, SearchResult
    from nosbench_env.tasks.task import Progress

_REFERENCE = "AdamW"  # every search shows this program's loss beside its own


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
    budget: Annotated[int, typer.Option(help="Number of queries, hits included.")] = 1000,
    distinct: Annotated[
        int | None, typer.Option(help="Also stop after this number of distinct programs, no two of them equivalent.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search method.")] = 0,
    training_seed: Annotated[int, typer.Option(help="Seed of the trainings; 0 is the paper's.")] = 0,
    constraint: Annotated[
        list[str] | None,
        typer.Option(
            help="Restrict the search to programs that satisfy it; may be repeated. `written`: no instruction reads a "
            "slot that none writes. `used`: the last instruction depends on all others. `gradient`: an "
            "instruction reads the gradient.",
            autocompletion=completion.constraints,
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Start of `re`: a known program, a text, a file (as in `evaluate`), or `random`. Default: AdamW.",
            autocompletion=completion.start_programs,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Programs proposed and evaluated together. `rs` proposes the same programs with any batch; `re` is "
            "the paper's algorithm with 1 and its asynchronous variant with more. Default: 1 for `rs`, `re` and SMAC's "
            "agents, 16 for all others."
        ),
    ] = None,
    initial: Annotated[
        int | None,
        typer.Option(
            help="Proposals of SMAC's agents before they learn; a quarter of a small budget is about right. Default, "
            "as in the paper: 10 (`smac-nos`), 90 (`smac-hpo`)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that train a batch on the CPU. Default: one for each core; 1 trains in this process. "
            "Results are the same."
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
            help="Run folder, with history and state for resuming. Default: one in runs/, named after the options.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Searches for optimizers; prints the best, with its loss beside AdamW's.

    Ctrl-C stops the search and keeps all finished queries; the same command continues it. A greater --budget extends a
    finished search. The first 100 queries of `re` are its first population: copies of the start program, of which one
    is trained.

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
        from nosbench_env.agents import Budget, make_agent, run_name, usual_batch_size
        from nosbench_env.agents import search as run_search
        from nosbench_env.execution.settings import check_epochs

        options: dict[str, Any] = {
            "seed": seed,
            "start": start if start is None or start.lower() == "random" else read_program(start),
            "constraints": tuple(constraint or ()),
            "initial": initial,
        }
        method = make_agent(agent.value, **options)
        batch = usual_batch_size(agent.value) if batch is None else batch
        limits = Budget(queries=budget, distinct=distinct)
        oracle = make_oracle(task, store, device, arithmetic, identity, shipped, workers)
        epochs = check_epochs(epochs) or oracle.task.default_epochs
        name = run_name(
            agent.value,
            **options,
            task=task,
            epochs=epochs,
            training_seed=training_seed,
            batch_size=batch,
            arithmetic=arithmetic,
            identity=identity,
        )
        folder = run or Path("runs") / name
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


class _SearchDisplay:
    """A progress bar of queries, with lines for new best programs."""

    def __init__(self, budget: int, silent: bool) -> None:
        self.result: SearchResult | None = None
        self.folder: Path | None = None
        self._silent = silent
        # A log gets plain lines, since a bar would be drawn over and over there.
        self._bar = tqdm(
            total=budget,
            leave=False,
            disable=silent or not on_terminal(),
            bar_format="{n_fmt}/{total_fmt} queries [{elapsed}<{remaining}{postfix}]",
        )
        self._every = 0.2 if on_terminal() else 10.0  # seconds
        self._best: HistoryEntry | None = None
        self._training = ""
        self._shares: dict[int, float] = {}  # the finished share of each training of the batch
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
            return "Stopped. Finished queries are kept. Run the same command again to continue."
        return (
            f"Stopped after {self.result.queries} of {self._bar.total} queries, which are kept in {self.folder}.\n"
            "Run the same command again to continue."
        )

    def close(self) -> None:
        """Removes the bar from the screen."""
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


def _search_text(result: SearchResult, folder: Path) -> str:
    lines = [
        f"{result.queries} queries, {result.distinct} distinct programs, {result.trained} trainings (the rest: hits)",
        f"Run folder: {folder}",
    ]
    best, reference = result.best, result.reference
    if best is None or reference is None:
        return "\n".join([*lines, "No program reached a finite loss."])
    lines += [
        f"Best program (query {best.number}), {reference.task} task, {counted_epochs(reference.epochs)}:",
        "",
        *(f"    {line}" for line in str(best.program).splitlines()),
        "",
        f"    loss {best.loss:.4f}    {_REFERENCE} {reference.loss:.4f}",
        "",
        "One training's loss is noisy. Evaluate the program at full length and with other seeds:",
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
