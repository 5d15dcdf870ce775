"""Plots of optimizers over several seeds: learning curves and final losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nosbench_env.plotting import COLOURS, empty_figure, escaped, legend, plot_mean, style, with_unit, wrapped
from nosbench_env.studies.baselines import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_CURVES = 12  # more are indistinguishable
_OUTLIER = 3.0  # losses this many times farther from the best than the median is are plotted at the edge


def plot_learning_curves(scores: Sequence[Score]) -> Figure:
    """Plots mean losses by epoch, with their range over the seeds.

    It shows at most 12 optimizers.
    """
    from matplotlib.ticker import MaxNLocator

    shown = scores[:_MAX_CURVES]
    columns = 1 if len(shown) < 4 else 3
    figure, (panel,) = empty_figure(7.0, 4.2 + 0.2 * -(-len(shown) // columns))
    for place, score in enumerate(shown):
        label = wrapped(f"{score.name}{'' if math.isfinite(score.mean) else ' (fails)'}", 60 // columns + 8)
        plot_mean(panel, style(place), np.arange(1, score.curves.shape[1] + 1), score.curves, label)
    ends = [value for score in shown for value in score.losses if math.isfinite(value)]
    starts = [value for score in shown for value in score.curves[:, 0] if math.isfinite(value)]
    if ends and starts:
        low, high = min(ends), _highest(ends, starts)
        panel.set_ylim(low - 0.06 * (high - low or 1.0), high + 0.06 * (high - low or 1.0))
    panel.set(xlabel="epoch", ylabel=with_unit("training loss, mean of the epoch", _task(scores)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(shown) < len(scores):
        panel.set_title(f"the best {len(shown)} of {len(scores)}", fontsize="medium", loc="left")
    legend(figure, columns)
    return figure


def plot_final_losses(scores: Sequence[Score]) -> Figure:
    """Plots final losses, their means, and the paper's losses if known."""
    figure, (panel,) = empty_figure(7.0, 1.2 + 0.26 * len(scores))
    finite = [value for score in scores for value in score.losses if math.isfinite(value)]
    known = finite + [score.paper_loss for score in scores if score.paper_loss is not None]
    low, high = (min(known), _highest(finite, known)) if finite else (0.0, 1.0)
    margin = 0.05 * (high - low or 1.0)
    right = high + 2 * margin
    of_seed: dict[str, Any] = {"color": COLOURS[0], "alpha": 0.55, "markersize": 5, "markeredgewidth": 0}
    of_mean: dict[str, Any] = {"color": COLOURS[0], "markersize": 14, "markeredgewidth": 2.5}
    of_paper: dict[str, Any] = {"color": "none", "markeredgecolor": COLOURS[1], "markersize": 7}
    for place, score in enumerate(scores):
        inside = [loss for loss in score.losses if loss <= high]
        panel.plot(inside, [place] * len(inside), "o", **of_seed)
        if score.mean <= high:
            panel.plot(score.mean, place, "|", **of_mean)
        else:
            failed = int((~np.isfinite(score.losses)).sum())
            text = f"{failed} of {len(score.losses)} fail" if failed else f"{score.mean:.3g}"
            panel.annotate(f"{text} ▸", (right, place), ha="right", va="center", fontsize="small")
        if score.paper_loss is not None and score.paper_loss <= high:
            panel.plot(score.paper_loss, place, "D", **of_paper)
    panel.plot([], [], "o", **of_seed, label="a seed")
    panel.plot([], [], "|", **of_mean, label="mean")
    if any(score.paper_loss is not None for score in scores):
        panel.plot([], [], "D", **of_paper, label="the paper's code")
    panel.set(
        xlabel=with_unit("final training loss", _task(scores)),
        xlim=(low - margin, right),
        ylim=(len(scores) - 0.4, -0.6),
    )
    panel.set_yticks(range(len(scores)), [escaped(score.name) for score in scores], fontsize="small")
    legend(figure, 3)
    return figure


def _highest(losses: Sequence[float], others: Sequence[float]) -> float:
    """Returns the highest loss that is no outlier."""
    best, median = min(losses), float(np.median(losses))
    edge = median + _OUTLIER * max(median - best, 1e-6 * abs(median))
    return max(loss for loss in (*losses, *others) if loss <= edge)


def _task(scores: Sequence[Score]) -> str:
    return scores[0].evaluations[0].task
