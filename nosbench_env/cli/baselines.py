"""The commands `nosbench baselines` and `nosbench plot`: optimizers compared over several seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm

from nosbench_env.candidates.baselines import (
    BASELINES,
    GROUPS,
    NOISE,
    PAPER_EPOCHS,
    Baseline,
    differs_from_paper,
    named_baselines,
)
from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.cli import completion
from nosbench_env.cli.arguments import named_candidates
from nosbench_env.cli.options import (
    ArithmeticOption,
    DeviceOption,
    EpochsOption,
    JsonOption,
    QuietOption,
    ShippedOption,
    StoreOption,
    TaskOption,
    aligned,
    counted_epochs,
    interruptible,
    make_oracle,
    on_terminal,
    with_options,
)
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation
    from nosbench_env.oracles.oracle import Oracle
    from nosbench_env.studies.baselines import Score
    from nosbench_env.tasks.task import Progress

SeedsOption = Annotated[int, typer.Option(min=1, help="Number of seeds: 0 (the paper's), 1, 2, ...")]
_PLOT_SUFFIXES = (".png", ".pdf", ".svg")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """The options of trainings with several optimizers."""

    task: TaskOption = "pfn"
    epochs: EpochsOption = None
    workers: Annotated[
        int | None, typer.Option(help="Processes that train at once, on the CPU. Default: one for each core.")
    ] = None
    device: DeviceOption = "auto"
    arithmetic: ArithmeticOption = "float32"
    store: StoreOption = None
    shipped: ShippedOption = True
    as_json: JsonOption = False
    quiet: QuietOption = False

    def oracle(self) -> Oracle:
        """Makes the oracle."""
        return make_oracle(
            self.task, self.store, self.device, self.arithmetic, "fingerprint", self.shipped, self.workers
        )


@with_options
def baselines(
    options: TrainingOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Names that `--list` shows, or groups: {', '.join(f'`{group}`' for group in GROUPS)}. Default: all.",
            autocompletion=completion.baselines,
        ),
    ] = None,
    seeds: SeedsOption = 3,
    output: Annotated[Path | None, typer.Option(help="Folder for CSV tables and plots.")] = None,
    plot: Annotated[bool, typer.Option(help="With --output, draw plots. Needs the extra `plot`.")] = True,
    list_them: Annotated[bool, typer.Option("--list", help="Show the baselines without training.")] = False,
) -> None:
    """Trains with handwritten optimizers (baselines) and shows their losses.

    On the pfn task the paper's values stand beside them. Results are stored: Ctrl-C loses only the trainings in
    progress, and a second call needs no training. Optimizers of a library that is not installed are left out, unless
    their results are stored.

    For example:

    * `nosbench baselines --list`
    * `nosbench baselines --task toy --output baselines`
    * `nosbench baselines torch AdamW-cosine Incumbent --seeds 5`
    """
    chosen = named_baselines(names or [])
    if list_them:
        print(json.dumps(list(map(_listed, chosen))) if options.as_json else _list_text(chosen))
        return
    with interruptible(_interrupted):
        from nosbench_env.plotting import check_matplotlib, save
        from nosbench_env.studies.baseline_plots import plot_final_losses, plot_learning_curves
        from nosbench_env.studies.baselines import write_tables

        if output is not None and plot:
            check_matplotlib()
        oracle = options.oracle()
        candidates = {baseline.name: baseline.candidate for baseline in chosen}
        left_out = _not_installed(candidates, oracle, options.epochs, seeds)
        for name in left_out:
            del candidates[name]
        comparable = oracle.task.name == "pfn" and (options.epochs or oracle.task.default_epochs) == PAPER_EPOCHS
        papers = {baseline.name: baseline.paper_loss for baseline in chosen} if comparable else {}
        scores = _scored(oracle, candidates, options, seeds, papers)
        files = [] if output is None else write_tables(scores, output)
        if output is not None and plot:
            files += [output / "final_losses.png", output / "learning_curves.png"]
            save(plot_final_losses(scores), files[-2])
            save(plot_learning_curves(scores), files[-1])
    if options.as_json:
        print(json.dumps(_scores_json(scores, left_out), allow_nan=False))
        return
    print(_scores_text(scores))
    for name, reason in left_out.items():
        print(f"Left out: {name} ({reason})")
    for file in files:
        print(f"Written: {file}")


@with_options
def plot(
    options: TrainingOptions,
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="PROGRAM...",
            help="Programs as in `nosbench evaluate`; baselines (`nosbench baselines --list`); optimizers such as "
            "'torch.optim.AdamW(lr=0.003)'; or run folders, for their best programs.",
            autocompletion=completion.candidates,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"File of the plot; it ends in {', '.join(_PLOT_SUFFIXES)}.")
    ] = Path("learning_curves.png"),
    seeds: SeedsOption = 1,
) -> None:
    """Plots the learning curves of programs and other optimizers.

    Unknown optimizers are trained. With several seeds, lines are means and bands the range over the seeds.

    For example:

    * `nosbench plot AdamW Incumbent AdamW-cosine`
    * `nosbench plot runs/my-run torch.Adam --task toy --seeds 3 --output my-run.pdf`
    """
    with interruptible(_interrupted):
        from nosbench_env.plotting import check_matplotlib, save
        from nosbench_env.studies.baseline_plots import plot_learning_curves

        if output.suffix.lower() not in _PLOT_SUFFIXES:
            raise ValueError(f"--output must end in {', '.join(_PLOT_SUFFIXES)}, got {str(output)!r}")
        check_matplotlib()
        named = named_candidates(candidates)
        scores = _scored(options.oracle(), named, options, seeds, {})
        output.parent.mkdir(parents=True, exist_ok=True)
        save(plot_learning_curves(scores), output)
    if options.as_json:
        print(json.dumps(_scores_json(scores, {}) | {"plot": str(output)}, allow_nan=False))
        return
    print(_scores_text(scores))
    print(f"Written: {output}")


def _scored(
    oracle: Oracle,
    candidates: Mapping[str, Candidate],
    options: TrainingOptions,
    seeds: int,
    papers: Mapping[str, float | None],
) -> list[Score]:
    """Returns the scores; shows progress: a bar in terminals, else lines."""
    from nosbench_env.studies.baselines import score

    if not candidates:
        raise ValueError("none of these optimizers is installed: pip install 'nosbench_env[optimizers]'")
    silent = options.quiet or options.as_json
    on_bar = on_terminal() and not silent
    with tqdm(total=len(candidates) * seeds, unit="training", leave=False, disable=not on_bar) as bar:
        note: Callable[[str], None] = bar.set_postfix_str

        def on_step(progress: Progress) -> None:
            note(f"training {progress.index + 1}/{progress.programs}, step {progress.step}/{progress.steps}")

        def on_scored(name: str, evaluation: Evaluation[Any]) -> None:
            bar.update()
            if not silent and not evaluation.hit:
                bar.write(f"{name}, seed {evaluation.seed}: {_loss(evaluation.loss)}", file=sys.stderr)

        return score(
            oracle,
            candidates,
            epochs=options.epochs,
            seeds=range(seeds),
            paper_losses=papers,
            on_step=on_step if on_bar else None,
            on_scored=on_scored,
        )


def _not_installed(
    candidates: Mapping[str, Candidate], oracle: Oracle, epochs: int | None, seeds: int
) -> dict[str, str]:
    """Returns candidates neither trainable nor stored, with the reasons."""
    missing = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, OptimizerConfig) and (reason := candidate.missing()) is not None:
            known = (oracle.look_up(candidate, epochs, seed) for seed in range(seeds))
            if any(evaluation is None for evaluation in known):
                missing[name] = reason
    return missing


def _interrupted() -> str:
    return "Stopped. Finished trainings are kept. Run the same command again to continue."


def _listed(baseline: Baseline) -> dict[str, Any]:
    return {
        "name": baseline.name,
        "group": baseline.group,
        "paper_loss": baseline.paper_loss,
        "candidate": baseline.candidate.to_json(),
    }


def _list_text(chosen: Sequence[Baseline]) -> str:
    lines = [["name", "group", "optimizer"]]
    for baseline in chosen:
        candidate = baseline.candidate
        text = f"a program of {len(candidate)} instructions" if isinstance(candidate, Program) else str(candidate)
        lines.append([baseline.name, baseline.group, text])
    return "\n".join([f"{len(chosen)} of {len(BASELINES)} baselines", "", *aligned(lines, left=(0, 1, 2))])


def _loss(loss: float | None) -> str:
    from nosbench_env.comparison.report import loss_text

    return loss_text(loss)


def _scores_text(scores: Sequence[Score]) -> str:
    from nosbench_env.studies.baselines import score_rows

    rows = score_rows(scores)
    with_paper = any(row["paper"] is not None for row in rows)
    first = scores[0].evaluations[0]
    several = len(scores[0].evaluations) > 1
    title = f"{first.task} task, {counted_epochs(first.epochs)}, {rows[0]['seeds']} seed{'s' * several}"
    names = ["rank", "optimizer", "mean loss", *["sd", "lowest", "highest"] * several, *["paper's code"] * with_paper]
    lines = [names]
    for row in rows:
        mean = f"{row['failed']} failed" if row["failed"] else _loss(row["mean"])
        spread = [_loss(row["sd"]), _loss(row["lowest"]), _loss(row["highest"])] if several else []
        lines.append([str(row["rank"]), row["name"], mean, *spread, *([_loss(row["paper"])] * with_paper)])
    parts = [title, "", *aligned(lines, left=(1,)), ""]
    if with_paper:
        apart = [
            row["name"] for row in rows if row["paper"] is not None and differs_from_paper(row["mean"], row["paper"])
        ]
        parts.append(
            f"The paper's code trained each once, with seed 0; the noise of one training is {NOISE}. "
            + (f"Means that differ by more: {', '.join(apart)}." if apart else "All means agree within it.")
        )
    return "\n".join(parts).rstrip()


def _scores_json(scores: Sequence[Score], left_out: Mapping[str, str]) -> dict[str, Any]:
    from nosbench_env.studies.baselines import score_rows

    first = scores[0].evaluations[0]
    evaluations = {score.name: [evaluation.to_json() for evaluation in score.evaluations] for score in scores}
    return {
        "task": first.task,
        "epochs": first.epochs,
        "scores": [row | {"evaluations": evaluations[row["name"]]} for row in score_rows(scores)],
        "left_out": dict(left_out),
    }
