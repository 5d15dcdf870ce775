"""Pictures of optimizers over several seeds: their learning curves, and their final losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nosbench_env.plotting import COLOURS, DASHES, empty_figure, with_unit
from nosbench_env.studies.baselines import Score

_MAX_CURVES = 12  # more can't be told apart
_OUTLIER = 3.0  # losses this many times farther from the best than the median is are drawn at the edge


def draw_learning_curves(scores: Sequence[Score], path: Path) -> None:
    """Draws the mean loss of each epoch, averaged over the seeds, with the range over them; at most 12 optimizers.

    The format is that of the file's suffix: png, pdf, svg.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (panel,) = empty_figure(7.0, 4.6)
    shown = scores[:_MAX_CURVES]
    for place, found in enumerate(shown):
        curves = found.curves
        # Where a seed failed there is no mean, and where all did there is nothing to draw.
        mean = curves.mean(axis=0)
        epochs = np.arange(1, curves.shape[1] + 1)
        colour = COLOURS[place % len(COLOURS)]
        panel.plot(
            epochs,
            mean,
            DASHES[place % len(DASHES)],
            color=colour,
            linewidth=1.7,
            marker="o" if len(epochs) == 1 else None,
            label=f"{found.name}{'' if math.isfinite(found.mean) else ' (fails)'}",
        )
        if len(curves) > 1:
            panel.fill_between(epochs, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.13, linewidth=0)
    ends = [value for found in shown for value in found.losses if math.isfinite(value)]
    starts = [value for found in shown for value in found.curves[:, 0] if math.isfinite(value)]
    if ends and starts:
        low, high = min(ends), _highest(ends, starts)
        panel.set_ylim(low - 0.06 * (high - low or 1.0), high + 0.06 * (high - low or 1.0))
    panel.set(xlabel="epoch", ylabel=with_unit("training loss, mean of the epoch", _task(scores)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(shown) < len(scores):
        panel.set_title(f"the best {len(shown)} of {len(scores)}", fontsize="medium", loc="left")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=180)


def draw_final_losses(scores: Sequence[Score], path: Path) -> None:
    """Draws each optimizer's final loss with each seed, their mean, and the paper's where it is known."""
    figure, (panel,) = empty_figure(7.0, 1.2 + 0.26 * len(scores))
    finite = [value for found in scores for value in found.losses if math.isfinite(value)]
    known = finite + [found.paper_loss for found in scores if found.paper_loss is not None]
    low, high = (min(known), _highest(finite, known)) if finite else (0.0, 1.0)
    margin = 0.05 * (high - low or 1.0)
    right = high + 2 * margin
    for place, found in enumerate(scores):
        inside = [loss for loss in found.losses if loss <= high]
        panel.plot(inside, [place] * len(inside), "o", color="#0072B2", alpha=0.55, markersize=5, markeredgewidth=0)
        if found.mean <= high:
            panel.plot(found.mean, place, "|", color="#0072B2", markersize=14, markeredgewidth=2.5)
        else:
            failed = int((~np.isfinite(found.losses)).sum())
            text = f"{failed} of {len(found.losses)} fail" if failed else f"{found.mean:.3g}"
            panel.annotate(f"{text} ▸", (right, place), ha="right", va="center", fontsize="small")
        if found.paper_loss is not None and found.paper_loss <= high:
            panel.plot(found.paper_loss, place, "D", color="none", markeredgecolor="#D55E00", markersize=7)
    panel.plot([], [], "o", color="#0072B2", alpha=0.55, markersize=5, markeredgewidth=0, label="a seed")
    panel.plot([], [], "|", color="#0072B2", markersize=12, markeredgewidth=2.5, label="mean")
    if any(found.paper_loss is not None for found in scores):
        panel.plot([], [], "D", color="none", markeredgecolor="#D55E00", markersize=7, label="the paper's code")
    panel.set(
        xlabel=with_unit("final training loss", _task(scores)),
        xlim=(low - margin, right),
        ylim=(len(scores) - 0.4, -0.6),
    )
    panel.set_yticks(range(len(scores)), [found.name.replace("$", r"\$") for found in scores], fontsize="small")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.savefig(path, dpi=180)


def _highest(losses: Sequence[float], others: Sequence[float]) -> float:
    """The highest that a picture has room for: some losses are so high that all others would look alike."""
    best, median = min(losses), float(np.median(losses))
    edge = median + _OUTLIER * max(median - best, 1e-6 * abs(median))
    return max(loss for loss in (*losses, *others) if loss <= edge)


def _task(scores: Sequence[Score]) -> str:
    return scores[0].evaluations[0].task
