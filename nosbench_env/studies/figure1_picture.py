"""The picture of Figure 1: anytime curves of search methods, and a horizontal line for each baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nosbench_env.comparison.runs import shown
from nosbench_env.plotting import COLOURS, DASHES, MARKERS, empty_figure, png, with_unit
from nosbench_env.studies.figure1 import METHODS, Figure1

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OUTLIER = 3.0  # losses this many times farther from the best than the median is are named at the edge
_LINE = 0.042  # of the panel's height, that a name takes
_INK = "#555555"


def draw_figure1(figure: Figure1) -> bytes:
    """Draws the figure as a PNG file's content.

    Curves are interquartile means over the runs of their lowest losses so far, bands 95 % bootstrap intervals; lines
    are means over the seeds.
    """
    from matplotlib.ticker import NullFormatter

    drawing, (panel,) = empty_figure(8.2, 5.4)
    end = figure.settings.queries
    panel.set_xscale("log")
    panel.set_xlim(1, max(end, 2))
    low, high = _limits(figure)
    panel.set_ylim(low, high)
    places = {method.label: place for place, method in enumerate(METHODS.values())}  # a method always looks the same
    for method in figure.comparison.methods:
        _draw_curve(panel, figure, places[method.label], f"{method.label} ({_runs(len(method.runs))})", method.label)
    _draw_baselines(panel, figure, low, high)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    task = figure.settings.task
    panel.set(xlabel="queries", ylabel=with_unit("lowest loss so far", task))
    drawing.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return png(drawing)


def _draw_curve(panel: Axes, figure: Figure1, place: int, label: str, method: str) -> None:
    rows = [row for row in figure.curve_rows if row["method"] == method]
    colour, dashes, marker = (looks[place % len(looks)] for looks in (COLOURS, DASHES, MARKERS))
    x, iqm, low, high = (np.array([row[name] for row in rows], dtype=float) for name in ("x", "iqm", "low", "high"))
    if len(x):  # each value holds until the next, the last to the end
        x = np.append(x, figure.settings.queries)
        iqm, low, high = (np.append(values, values[-1]) for values in (iqm, low, high))
    panel.step(x, iqm, where="post", color=colour, linestyle=dashes, linewidth=1.9, label=label, zorder=3)
    panel.plot(x[-1:], iqm[-1:], marker, color=colour, markersize=6, clip_on=False, zorder=4)
    panel.fill_between(x, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def _draw_baselines(panel: Axes, figure: Figure1, low: float, high: float) -> None:
    """A line for each baseline in sight, its name at the right; those above are named at the top."""
    inside = sorted((found for found in figure.scores if found.mean <= high), key=lambda found: found.mean)
    above = [found for found in figure.scores if not found.mean <= high]
    for found in inside:
        panel.axhline(found.mean, color="gray", linewidth=0.9, linestyle=(0, (6, 2)), zorder=1)
    heights = spread([(found.mean - low) / (high - low) for found in inside], _LINE)
    for found, height in zip(inside, heights, strict=True):
        panel.annotate(
            _drawn(found.name),
            (1.0, (found.mean - low) / (high - low)),
            (1.05, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize="small",
            color=_INK,
            arrowprops={
                **{"arrowstyle": "-", "color": "gray", "linewidth": 0.6},
                **{"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
            },
            annotation_clip=False,
        )
    if above:
        names = ", ".join(
            f"{_drawn(found.name)} ({f'{found.mean:.3g}' if math.isfinite(found.mean) else 'fails'})" for found in above
        )
        panel.set_title(f"above: {names}", loc="right", fontsize="small", color=_INK)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights from 0 to 1, moved apart to at least `gap` as little as neighbours and ends let them.

    >>> spread([0.0, 0.5, 0.5], 0.25)
    [0.125, 0.375, 0.625]
    """
    groups: list[tuple[float, int]] = []  # centre and size of those that touch
    for height in heights:
        centre, size = _within(height, gap), 1
        while groups and centre - groups[-1][0] < gap * (size + groups[-1][1]) / 2:
            below, others = groups.pop()
            centre, size = (below * others + centre * size) / (others + size), others + size
            centre = _within(centre, gap * size)
        groups.append((centre, size))
    return [centre + gap * (place - (size - 1) / 2) for centre, size in groups for place in range(size)]


def _within(centre: float, size: float) -> float:
    """The centre of something of that size, moved so that it lies from 0 to 1 if it fits."""
    return max(min(centre, 1 - size / 2), size / 2)


def _limits(figure: Figure1) -> tuple[float, float]:
    """The heights between which most of it lies: some baselines are so bad that all others would look alike."""
    means = [found.mean for found in figure.scores if math.isfinite(found.mean)]
    ends = [row["iqm"] for row in figure.method_rows if math.isfinite(row["iqm"])]
    known = means + ends
    if not known:
        return 0.0, 1.0
    best, median = min(known), float(np.median(known))
    edge = median + _OUTLIER * (median - best)
    lows = [row["low"] for row in figure.curve_rows if math.isfinite(row["low"])]
    low, high = min(known + lows), max((value for value in known if value <= edge), default=median)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _runs(count: int) -> str:
    return f"{count}\u00a0run" if count == 1 else f"{count}\u00a0runs"


def _drawn(name: str) -> str:
    return shown(name, 30).replace("$", r"\$")
