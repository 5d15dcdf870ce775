"""The plot of Figure 1: methods' anytime curves, baselines as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nosbench_env.agents.history import shown
from nosbench_env.plotting import GRAY, INK, empty_figure, escaped, legend, plot_steps, style, with_unit
from nosbench_env.studies.figure1 import METHODS, Figure1

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OUTLIER = 3.0  # losses this many times farther from the best than the median is are named at the edge
_LINE = 0.042  # height of a name, in heights of the panel


def plot_figure1(figure1: Figure1) -> Figure:
    """Plots the figure.

    Curves are interquartile means over the runs of their lowest losses so far, bands their 95 % bootstrap intervals.
    Horizontal lines are means over the seeds.
    """
    from matplotlib.ticker import NullFormatter

    figure, (panel,) = empty_figure(8.2, 5.4)
    panel.set_xscale("log")
    panel.set_xlim(1, max(figure1.settings.queries, 2))
    low, high = _limits(figure1)
    panel.set_ylim(low, high)
    places = {method.label: place for place, method in enumerate(METHODS.values())}  # fixed styles of methods
    for group in figure1.comparison.groups:
        _plot_curve(panel, figure1, group.label, places[group.label], len(group.runs))
    _plot_baselines(panel, figure1, low, high)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set(xlabel="queries", ylabel=with_unit("lowest loss so far", figure1.settings.task))
    legend(figure, 3)
    return figure


def _plot_curve(panel: Axes, figure1: Figure1, method: str, place: int, runs: int) -> None:
    rows = [row for row in figure1.curve_rows if row["method"] == method]
    x, iqm, low, high = (np.array([row[name] for row in rows], dtype=float) for name in ("x", "iqm", "low", "high"))
    if len(x):  # the last value holds to the end
        x = np.append(x, figure1.settings.queries)
        iqm, low, high = (np.append(values, values[-1]) for values in (iqm, low, high))
    plot_steps(panel, style(place), x, iqm, low, high, f"{method} ({runs}\u00a0run{'s' * (runs != 1)})")


def _plot_baselines(panel: Axes, figure1: Figure1, low: float, high: float) -> None:
    """Plots a line and the name of each baseline in the panel.

    The title names the baselines above the panel.
    """
    inside = sorted((score for score in figure1.scores if score.mean <= high), key=lambda score: score.mean)
    above = [score for score in figure1.scores if not score.mean <= high]
    for score in inside:
        panel.axhline(score.mean, color=GRAY, linewidth=0.9, linestyle=(0, (6, 2)), zorder=1)
    heights = spread([(score.mean - low) / (high - low) for score in inside], _LINE)
    for score, height in zip(inside, heights, strict=True):
        panel.annotate(
            escaped(shown(score.name, 30)),
            (1.0, (score.mean - low) / (high - low)),
            (1.05, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            color=INK,
            arrowprops={
                **{"arrowstyle": "-", "color": GRAY, "linewidth": 0.6},
                **{"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
            },
            annotation_clip=False,
        )
    if above:
        names = ", ".join(
            f"{escaped(shown(score.name, 30))} ({f'{score.mean:.3g}' if math.isfinite(score.mean) else 'fails'})"
            for score in above
        )
        panel.set_title(f"above: {names}", loc="right", fontsize="small", color=INK)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Separates ascending heights in 0 to 1 by at least `gap`, minimally.

    >>> spread([0.0, 0.5, 0.5], 0.25)
    [0.125, 0.375, 0.625]
    """
    groups: list[tuple[float, int]] = []  # centre and size of each group of touching heights
    for height in heights:
        centre, size = _within(height, gap), 1
        while groups and centre - groups[-1][0] < gap * (size + groups[-1][1]) / 2:
            below, others = groups.pop()
            centre, size = (below * others + centre * size) / (others + size), others + size
            centre = _within(centre, gap * size)
        groups.append((centre, size))
    return [centre + gap * (place - (size - 1) / 2) for centre, size in groups for place in range(size)]


def _within(centre: float, size: float) -> float:
    """Moves an interval into 0 to 1, if possible; returns its centre."""
    return max(min(centre, 1 - size / 2), size / 2)


def _limits(figure1: Figure1) -> tuple[float, float]:
    """Returns limits of the panel without outliers, which would flatten the rest."""
    means = [score.mean for score in figure1.scores if math.isfinite(score.mean)]
    known = means + [row["iqm"] for row in figure1.method_rows if math.isfinite(row["iqm"])]
    if not known:
        return 0.0, 1.0
    best, median = min(known), float(np.median(known))
    edge = median + _OUTLIER * (median - best)
    lows = [row["low"] for row in figure1.curve_rows if math.isfinite(row["low"])]
    low, high = min(known + lows), max((value for value in known if value <= edge), default=median)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin
