"""What Figure 1 shows in words and tables: where ours differs from the paper's is computed, not written by hand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from scipy.stats import spearmanr

from nosbench_env.candidates.baselines import BASELINES, NOISE, PAPER_EPOCHS, differs
from nosbench_env.comparison.report import loss_text
from nosbench_env.studies.baselines import score_rows
from nosbench_env.studies.figure1 import METHODS, Figure1

_INCUMBENT, _COSINE = "Incumbent", "AdamW-cosine"


def markdown(figure: Figure1) -> str:
    """The tables and the reading, as a page beside the picture."""
    settings = figure.settings
    parts = [
        "# Figure 1: baselines and anytime curves",
        f"Task `{settings.task}`, {counted(settings.epochs, 'epoch')}; {counted(settings.seeds, 'run')} of each method "
        f"with {counted(settings.queries, 'query', 'queries')}, trained with seed 0; "
        f"{counted(settings.seeds, 'training')} with each baseline. Programs have up to {settings.max_instructions} "
        "instructions.",
        "![Figure 1](figure1.png)",
        "Curves: interquartile means over the runs of their lowest losses so far, with 95 % bootstrap intervals. "
        "Horizontal lines: means of the baselines.",
        "## Search methods",
        table(method_cells(figure)),
        "## Baselines",
        table(baseline_cells(figure)),
        *(f"Left out: {name}, which {reason}." for name, reason in figure.left_out.items()),
        "## Reading",
        *(f"* {sentence}" for sentence in reading(figure)),
        table(statement_cells(figure)),
    ]
    if figure.comparison.notes:
        parts += ["## Notes", *(f"* {note}" for note in figure.comparison.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def method_cells(figure: Figure1) -> list[dict[str, str]]:
    """The table of the methods, as text."""
    return [
        {
            "method": row["method"],
            "runs": str(row["runs"]),
            "best": loss_text(row["best"]),
            "IQM": loss_text(row["iqm"]),
            "95 % interval": f"{loss_text(row['iqm_low'])} to {loss_text(row['iqm_high'])}"
            if math.isfinite(row["iqm_low"])
            else "-",
            "distinct": f"{row['distinct']:,.1f}",
            "failed": f"{row['failed_rate']:.0%}",
        }
        for row in figure.method_rows
    ]


def baseline_cells(figure: Figure1) -> list[dict[str, str]]:
    """The table of the baselines, as text, the best first."""
    cells = []
    for row in score_rows(figure.scores):
        cell = {"optimizer": row["name"], "mean": f"{row['failed']} of {row['seeds']} fail"}
        if not row["failed"]:
            cell["mean"] = loss_text(row["mean"])
        cell |= {"sd": loss_text(row["sd"]), "paper's code": loss_text(row["paper"])}
        if _is_papers(figure):
            known = row["mean"] is not None and row["paper"] is not None
            cell["difference"] = f"{row['mean'] - row['paper']:+.3f}" if known else "-"
        cells.append(cell)
    if all(cell["paper's code"] == loss_text(None) for cell in cells):
        for cell in cells:
            del cell["paper's code"]
    return cells


def reading(figure: Figure1) -> Iterator[str]:
    """What the baselines show beside the paper's, as sentences."""
    rows = [row for row in score_rows(figure.scores) if row["paper"] is not None]
    if not rows:
        yield "The paper has no values for this task."
        return
    if _is_papers(figure):
        apart = [f"{row['name']} ({_difference(row)})" for row in rows if differs(row["mean"], row["paper"])]
        yield (
            f"The paper's code trained with each baseline once; one training is noisy by {NOISE}. "
            + (f"Farther from it than that: {', '.join(apart)}." if apart else "All our means agree within that.")
        )
    else:
        yield (
            f"The paper's values are those of {PAPER_EPOCHS} epochs, here it is "
            f"{counted(figure.settings.epochs, 'epoch')}: only their order can be compared."
        )
    finite = [row for row in rows if row["mean"] is not None]
    if len(finite) > 2:
        rank = float(spearmanr([row["mean"] for row in finite], [row["paper"] for row in finite]).statistic)
        yield f"Spearman's rank correlation of our {len(finite)} baselines with the paper's: {rank:.2f}."
    swapped = [
        f"{first['name']} is ahead of {second['name']}"
        for first, second in combinations(finite, 2)  # the better first, here
        if first["paper"] - second["paper"] > NOISE and second["mean"] - first["mean"] > _spread(first, second)
    ]
    yield (
        f"In the other order than the paper's, by more than the noise of both: {'; '.join(swapped)}."
        if swapped
        else "No two baselines are in the other order than the paper's by more than the noise of both."
    )


def statement_cells(figure: Figure1) -> list[dict[str, str]]:
    """What the paper states about the search methods (Section 4.1), and what is so here.

    A method's loss is the interquartile mean of its runs, a baseline's the mean over the seeds.
    """
    losses = {found.name: found.mean for found in figure.scores}
    losses |= {row["method"]: row["iqm"] for row in figure.method_rows}
    defaults = [
        found.name
        for found in figure.scores
        if BASELINES[found.name].group == "program" and found.name != _INCUMBENT and math.isfinite(found.mean)
    ]
    rs, re_adamw, re_adadelta, smac_nos, smac_hpo = (method.label for method in METHODS.values())
    cells = []
    if defaults:
        best, worst = min(defaults, key=losses.__getitem__), max(defaults, key=losses.__getitem__)
        cells += [
            _statement("RS outperforms some of the default optimizers", rs, worst, losses),
            _statement("RE from AdamW surpasses all default optimizers", re_adamw, best, losses),
            _statement("RE from Adadelta surpasses all default optimizers", re_adadelta, best, losses),
        ]
    cells += [
        _statement("RS fails to surpass AdamW with cosine annealing", rs, _COSINE, losses, higher=True),
        _statement("SMAC_NOS outperforms RS", smac_nos, rs, losses),
        _statement("RE from AdamW surpasses AdamW with cosine annealing", re_adamw, _COSINE, losses),
        _statement("SMAC_HPO surpasses the incumbent", smac_hpo, _INCUMBENT, losses),
        _statement("SMAC_HPO surpasses what RE from AdamW found", smac_hpo, re_adamw, losses),
    ]
    noise = NOISE if figure.settings.task == "pfn" else 0.0
    return [
        {
            "the paper": cell["statement"],
            "here": cell["here"],
            "so": cell["so"] + (" (within the noise)" if abs(cell["difference"]) < noise else ""),
        }
        for cell in cells
        if cell is not None
    ]


def _statement(
    text: str, one: str, other: str, losses: Mapping[str, float], *, higher: bool = False
) -> dict[str, Any] | None:
    """Whether the one's loss is lower than the other's, or higher; None if one of them is not there."""
    if one not in losses or other not in losses:
        return None
    difference = losses[one] - losses[other]
    return {
        "statement": text,
        "here": f"{one} {loss_text(losses[one])}, {other} {loss_text(losses[other])}",
        "so": "yes" if (difference > 0 if higher else difference < 0) else "no",
        "difference": difference,
    }


def table(cells: Sequence[Mapping[str, str]]) -> str:
    """Rows of equal names as a table in Markdown; numbers to the right."""
    if not cells:
        return ""
    names = list(cells[0])
    right = [name for name in names if all(_is_number(cell[name]) for cell in cells)]
    lines = [
        names,
        ["---:" if name in right else "---" for name in names],
        *([cell[name].replace("|", r"\|") for name in names] for cell in cells),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_papers(figure: Figure1) -> bool:
    """Whether losses can be compared with the paper's."""
    return (figure.settings.task, figure.settings.epochs) == ("pfn", PAPER_EPOCHS)


def _spread(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """How far apart two means must be to be told apart: the sum of their deviations; of a single seed, the noise."""
    return sum(NOISE if row["sd"] is None else row["sd"] for row in (first, second))


def _difference(row: Mapping[str, Any]) -> str:
    return "fails" if row["mean"] is None else f"{row['mean'] - row['paper']:+.3f}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with what it counts.

    >>> counted(1, "query", "queries"), counted(1500, "query", "queries"), counted(2, "run")
    ('1 query', '1,500 queries', '2 runs')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-|[-+]?[\d.,]+(e[-+]?\d+)?%?|\d+ of \d+ fail", text) is not None
