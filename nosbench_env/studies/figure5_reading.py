"""What Figure 5 shows, in a table and beside what the paper says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nosbench_env.comparison.report import loss_text
from nosbench_env.identity.paper_proxy import PROXY_STEPS
from nosbench_env.studies.figure1_reading import counted, table
from nosbench_env.studies.figure5 import PAPER_CANDIDATES, Figure5Settings
from nosbench_env.studies.study_folder import Row

_DETAILS = ("update norm", "first epoch's", "last epoch's", "proxy after 10", "proxy at the end")
_EXPLANATION = f"""\
The update norm is the Euclidean norm of what a step changes, of all parameters as one vector: the mean of all steps,
and of those of the first and of the last epoch. On the proxy (Appendix B): the loss after {PROXY_STEPS - 1} updates,
which is the last that the paper's fingerprint looks at, and the last of all. Means over the seeds."""


def markdown(settings: Figure5Settings, summary: Sequence[Row]) -> str:
    """The table and the reading, as a page beside the picture."""
    return (
        "\n\n".join(
            part
            for part in (
                "# Figure 5: update norms, and curves on the proxy and on the task",
                f"Task `{settings.task}`, {counted(settings.epochs, 'epoch')}, {counted(settings.seeds, 'seed')}; "
                f"{counted(settings.proxy_steps, 'step')} on the proxy.",
                "![Figure 5](figure5.png)",
                _EXPLANATION,
                table(summary_cells(summary)),
                table(statement_cells(summary)),
            )
            if part
        )
        + "\n"
    )


def summary_cells(summary: Sequence[Row]) -> list[dict[str, str]]:
    """The table, as text."""
    return [
        {
            "optimizer": row["candidate"],
            "final loss": loss_text(row["final loss"]),
            "sd": loss_text(row["final loss std"]),
            **{name: loss_text(row[name]) for name in _DETAILS},
        }
        for row in summary
    ]


def statement_cells(summary: Sequence[Row]) -> list[dict[str, str]]:
    """What the paper states about its figure (Appendix E), and what is so here; nothing for other optimizers."""
    rows: dict[str, Any] = {row["candidate"]: row for row in summary}
    if not set(PAPER_CANDIDATES) <= set(rows):
        return []
    incumbent, *others = PAPER_CANDIDATES
    cells = []
    for text, column in (
        ("the incumbent's updates are more conservative than {}'s", "update norm"),
        ("the incumbent is better on the proxy than {}", "proxy after 10"),
        ("the incumbent is better on the proxy than {}", "proxy at the end"),
        ("the incumbent is better on the task than {}", "final loss"),
    ):
        for other in others:
            ours, theirs = rows[incumbent][column], rows[other][column]
            cells.append(
                {
                    "the paper": text.format(other),
                    "by": column,
                    "here": f"{loss_text(ours)} against {loss_text(theirs)}",
                    "so": "yes" if ours < theirs else "no",
                }
            )
    return cells
