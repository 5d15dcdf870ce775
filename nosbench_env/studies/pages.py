"""The tables of the paper's figures, as text and Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from scipy.stats import spearmanr

from nosbench_env.candidates.baselines import PAPER_EPOCHS
from nosbench_env.comparison.report import interval_text, loss_text
from nosbench_env.identity.paper_proxy import PROXY_STEPS
from nosbench_env.studies.baselines import score_rows
from nosbench_env.studies.figure1 import Figure1
from nosbench_env.studies.figure5 import Figure5Settings
from nosbench_env.studies.study_folder import Row

_FIGURE5_DETAILS = ("update norm", "first epoch's", "last epoch's", "proxy after 10", "proxy at the end")


def figure1_page(figure: Figure1) -> str:
    """Returns the page of Figure 1."""
    settings = figure.settings
    return _page(
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
        rank_text(figure),
        *(f"Left out: {name}, which {reason}." for name, reason in figure.left_out.items()),
        *(["## Notes"] if figure.comparison.notes else []),
        *(f"* {note}" for note in figure.comparison.notes),
    )


def figure5_page(settings: Figure5Settings, summary: Sequence[Row]) -> str:
    """Returns the page of Figure 5."""
    return _page(
        "# Figure 5: update norms, and curves on the proxy and on the task",
        f"Task `{settings.task}`, {counted(settings.epochs, 'epoch')}, {counted(settings.seeds, 'seed')}; "
        f"{counted(settings.proxy_steps, 'step')} on the proxy.",
        "![Figure 5](figure5.png)",
        "The update norm is the Euclidean norm of the change of all parameters in a step, as one vector. The table "
        "has its mean over all steps, over those of the first epoch and over those of the last. On the proxy "
        f"(Appendix B) it has the loss after {PROXY_STEPS - 1} updates, the last that the paper's fingerprint uses, "
        "and the last loss. All values are means over the seeds.",
        table(summary_cells(summary)),
    )


def method_cells(figure: Figure1) -> list[dict[str, str]]:
    """Returns the table of the search methods in Figure 1."""
    return [
        {
            "method": row["method"],
            "runs": str(row["runs"]),
            "best": loss_text(row["best"]),
            "IQM": loss_text(row["iqm"]),
            "95 % interval": interval_text(loss_text(row["iqm_low"]), loss_text(row["iqm_high"])),
            "distinct": f"{row['distinct']:,.1f}",
            "failed": f"{row['failed_rate']:.0%}",
        }
        for row in figure.method_rows
    ]


def baseline_cells(figure: Figure1) -> list[dict[str, str]]:
    """Returns the table of the baselines in Figure 1, the best first.

    It has the losses of the paper's code if there are any, and the differences if the trainings are as long.
    """
    rows = score_rows(figure.scores)
    with_paper = any(row["paper"] is not None for row in rows)
    cells = []
    for row in rows:
        mean = f"{row['failed']} of {row['seeds']} fail" if row["failed"] else loss_text(row["mean"])
        cell = {"optimizer": row["name"], "mean": mean, "sd": loss_text(row["sd"])}
        if with_paper:
            cell["paper's code"] = loss_text(row["paper"])
        if with_paper and figure.settings.epochs == PAPER_EPOCHS:
            known = row["mean"] is not None and row["paper"] is not None
            cell["difference"] = f"{row['mean'] - row['paper']:+.3f}" if known else "-"
        cells.append(cell)
    return cells


def rank_text(figure: Figure1) -> str:
    """Returns the rank correlation of our baselines with the paper's.

    The text is empty for fewer than three baselines with both.
    """
    rows = [row for row in score_rows(figure.scores) if row["paper"] is not None and row["mean"] is not None]
    if len(rows) < 3:
        return ""
    rank = float(spearmanr([row["mean"] for row in rows], [row["paper"] for row in rows]).statistic)
    return (
        f"Rank correlation (Spearman) of {len(rows)} baselines with the paper's code after {PAPER_EPOCHS} epochs: "
        f"{rank:.2f}"
    )


def summary_cells(summary: Sequence[Row]) -> list[dict[str, str]]:
    """Returns the table of Figure 5."""
    return [
        {
            "optimizer": row["candidate"],
            "final loss": loss_text(row["final loss"]),
            "sd": loss_text(row["final loss std"]),
            **{name: loss_text(row[name]) for name in _FIGURE5_DETAILS},
        }
        for row in summary
    ]


def table(cells: Sequence[Mapping[str, str]]) -> str:
    """Returns rows as a Markdown table, with numbers to the right."""
    names = list(cells[0])
    right = [name for name in names if all(_is_number(cell[name]) for cell in cells)]
    lines: Iterable[list[str]] = [
        names,
        ["---:" if name in right else "---" for name in names],
        *([cell[name].replace("|", r"\|") for name in names] for cell in cells),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def counted(number: int, one: str, several: str | None = None) -> str:
    """Returns a number with its noun.

    >>> counted(1, "query", "queries"), counted(1500, "query", "queries"), counted(2, "run")
    ('1 query', '1,500 queries', '2 runs')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _page(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-|[-+]?[\d.,]+(e[-+]?\d+)?%?|\d+ of \d+ fail", text) is not None
