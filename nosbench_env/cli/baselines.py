"""The commands `nosbench baselines` and `nosbench plot`: optimizers beside each other, over several seeds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm.auto import tqdm

from nosbench_env.candidates.baselines import BASELINES, GROUPS, NOISE, PAPER_EPOCHS, Baseline, differs, named_baselines
from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.cli import completion
from nosbench_env.cli.candidate_argument import named_candidates
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
    interruptible,
    make_oracle,
    on_terminal,
)
from nosbench_env.language.program import Program

if TYPE_CHECKING:
    from nosbench_env.evaluation import Evaluation
    from nosbench_env.oracles.oracle import Oracle
    from nosbench_env.studies.baselines import Score
    from nosbench_env.tasks.task import Progress

SeedsOption = Annotated[int, typer.Option(min=1, help="How many seeds to train with: 0, the paper's, 1, 2, ...")]
WorkersOption = Annotated[
    int | None, typer.Option(help="Processes that train at once, on the CPU. Default: one for each core.")
]
_PICTURE_SUFFIXES = (".png", ".pdf", ".svg")


def baselines(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Which: names that `--list` shows, or groups: {', '.join(f'`{group}`' for group in GROUPS)}. "
            "Default: all.",
            autocompletion=completion.baselines,
        ),
    ] = None,
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 3,
    out: Annotated[
        Path | None, typer.Option(help="A folder for tables (CSV) and pictures; they need the extra `plot`.")
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Only show what there is, and train nothing.")] = False,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    arithmetic: ArithmeticOption = "float32",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Trains with optimizers written by hand, and shows how good each is: what a search has to beat.

    On the pfn task the paper's values stand beside them. What is trained is stored: Ctrl-C loses at most the trainings
    in progress, and a second time takes no training. Those of a library that is not installed are left out, unless
    their results are known already.

    For example:

    * `nosbench baselines --list`
    * `nosbench baselines --task toy --out baselines`
    * `nosbench baselines torch AdamW-cosine Incumbent --seeds 5`
    """
    chosen = named_baselines(names or [])
    if list_them:
        print(json.dumps(list(map(_listed, chosen))) if as_json else _list_text(chosen))
        return
    with interruptible(_interrupted):
        from nosbench_env.studies.baselines import write_tables

        if out is not None:
            _check_matplotlib()
        oracle = make_oracle(task, store, device, arithmetic, "fingerprint", shipped, workers)
        candidates = {baseline.name: baseline.candidate for baseline in chosen}
        left_out = _not_installed(candidates, oracle, epochs, seeds)
        for name in left_out:
            del candidates[name]
        comparable = oracle.task.name == "pfn" and (epochs or oracle.task.default_epochs) == PAPER_EPOCHS
        papers = {baseline.name: baseline.paper_loss for baseline in chosen} if comparable else {}
        scores = _scored(oracle, candidates, epochs, seeds, papers, quiet or as_json)
        files = []
        if out is not None:
            from nosbench_env.studies.baseline_plots import draw_final_losses, draw_learning_curves

            files = [*write_tables(scores, out), out / "final_losses.png", out / "learning_curves.png"]
            draw_final_losses(scores, files[2])
            draw_learning_curves(scores, files[3])
    if as_json:
        print(json.dumps(_scores_json(scores, left_out), allow_nan=False))
        return
    print(_scores_text(scores))
    for name, reason in left_out.items():
        print(f"Left out: {name} ({reason})")
    for file in files:
        print(f"Written: {file}")


def plot(
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="PROGRAM...",
            help="Programs as in `nosbench evaluate`; baselines (`nosbench baselines --list`); optimizers such as "
            "'torch.optim.AdamW(lr=0.003)'; or run folders, which stand for the best program they found.",
            autocompletion=completion.candidates,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help=f"The picture: a file that ends in {', '.join(_PICTURE_SUFFIXES)}.")
    ] = Path("learning_curves.png"),
    task: TaskOption = "pfn",
    epochs: EpochsOption = None,
    seeds: SeedsOption = 1,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    arithmetic: ArithmeticOption = "float32",
    store: StoreOption = None,
    shipped: ShippedOption = True,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draws the learning curves of programs and other optimizers into one picture.

    What is not known yet is trained. With several seeds a line is the mean, and the band around it the range.

    For example:

    * `nosbench plot AdamW Incumbent AdamW-cosine`
    * `nosbench plot runs/my-run torch.Adam --task toy --seeds 3 --out my-run.pdf`
    """
    with interruptible(_interrupted):
        if out.suffix.lower() not in _PICTURE_SUFFIXES:
            raise ValueError(f"--out must end in {', '.join(_PICTURE_SUFFIXES)}, got {str(out)!r}")
        _check_matplotlib()
        named = named_candidates(candidates)
        oracle = make_oracle(task, store, device, arithmetic, "fingerprint", shipped, workers)
        scores = _scored(oracle, named, epochs, seeds, {}, quiet or as_json)
        from nosbench_env.studies.baseline_plots import draw_learning_curves

        out.parent.mkdir(parents=True, exist_ok=True)
        draw_learning_curves(scores, out)
    if as_json:
        print(json.dumps(_scores_json(scores, {}) | {"picture": str(out)}, allow_nan=False))
        return
    print(_scores_text(scores))
    print(f"Written: {out}")


def _scored(
    oracle: Oracle,
    candidates: Mapping[str, Candidate],
    epochs: int | None,
    seeds: int,
    papers: Mapping[str, float | None],
    silent: bool,
) -> list[Score]:
    """The scores, with a bar of trainings on a terminal and lines in a log."""
    from nosbench_env.studies.baselines import score

    if not candidates:
        raise ValueError("none of these optimizers is installed: pip install 'nosbench_env[optimizers]'")
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
            epochs=epochs,
            seeds=range(seeds),
            paper_losses=papers,
            on_step=on_step if on_bar else None,
            on_scored=on_scored,
        )


def _not_installed(
    candidates: Mapping[str, Candidate], oracle: Oracle, epochs: int | None, seeds: int
) -> dict[str, str]:
    """Which can be neither trained nor looked up, and why."""
    found = {}
    for name, candidate in candidates.items():
        if isinstance(candidate, OptimizerConfig) and (reason := candidate.missing()) is not None:
            known = (oracle.look_up(candidate, epochs, seed) for seed in range(seeds))
            if any(evaluation is None for evaluation in known):
                found[name] = reason
    return found


def _check_matplotlib() -> None:
    from nosbench_env.plotting import check_matplotlib

    check_matplotlib()


def _interrupted() -> str:
    return "Stopped; finished trainings are kept. To go on, run the same command again."


def _listed(baseline: Baseline) -> dict[str, Any]:
    return {
        "name": baseline.name,
        "group": baseline.group,
        "paper_loss": baseline.paper_loss,
        "candidate": baseline.candidate.to_json(),
    }


def _list_text(chosen: Sequence[Baseline]) -> str:
    lines = [["name", "group", "what it is"]]
    for baseline in chosen:
        found = baseline.candidate
        what = f"a program of {len(found)} instructions" if isinstance(found, Program) else str(found)
        lines.append([baseline.name, baseline.group, what])
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
    title = (
        f"{first.task} task, {first.epochs} epoch{'s' * (first.epochs != 1)}, {rows[0]['seeds']} seed{'s' * several}"
    )
    names = ["rank", "optimizer", "mean loss", *["sd", "lowest", "highest"] * several, *["paper's code"] * with_paper]
    lines = [names]
    for row in rows:
        mean = f"{row['failed']} failed" if row["failed"] else _loss(row["mean"])
        spread = [_loss(row["sd"]), _loss(row["lowest"]), _loss(row["highest"])] if several else []
        lines.append([str(row["rank"]), row["name"], mean, *spread, *([_loss(row["paper"])] * with_paper)])
    parts = [title, "", *aligned(lines, left=(1,)), ""]
    if with_paper:
        apart = [row["name"] for row in rows if row["paper"] is not None and differs(row["mean"], row["paper"])]
        parts.append(
            f"The paper's code trained each once, with seed 0, and one training's loss is noisy by {NOISE}. "
            + (f"Our mean is farther from it than that: {', '.join(apart)}." if apart else "All agree within that.")
        )
    return "\n".join(parts).rstrip()


def _scores_json(scores: Sequence[Score], left_out: Mapping[str, str]) -> dict[str, Any]:
    from nosbench_env.studies.baselines import score_rows

    first = scores[0].evaluations[0]
    evaluations = {found.name: [evaluation.to_json() for evaluation in found.evaluations] for found in scores}
    return {
        "task": first.task,
        "epochs": first.epochs,
        "scores": [row | {"evaluations": evaluations[row["name"]]} for row in score_rows(scores)],
        "left_out": dict(left_out),
    }
