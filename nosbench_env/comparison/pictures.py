"""The pictures of a comparison: anytime curves, and every run's loss at the budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nosbench_env.comparison.comparison import AXIS_NAMES, Comparison, spent
from nosbench_env.comparison.pareto import pareto_front
from nosbench_env.comparison.runs import Axis
from nosbench_env.language.costs import COSTS
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.plotting import COLOURS, DASHES, MARKERS, empty_figure, png, with_unit, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COST_LABELS = {
    "memory": "state per parameter (floats)",
    "operations": "operations per parameter and step",
    "instructions": "instructions, simplified",
}
_FIRST_SHARE = 0.1  # of the axis, in which curves may leave the picture at its top: all start high


def draw_curves(comparison: Comparison, axis: Axis) -> bytes:
    """Draws the anytime curves of all methods against what was spent, as a PNG file's content."""
    labels = [wrapped(f"{method.label} ({_runs(len(method.runs))})", 43) for method in comparison.methods]
    columns = 1 if len(labels) < 4 else 2
    legend_lines = sum(label.count("\n") + 1 for label in labels) / columns + 1
    figure, (panel,) = empty_figure(6.6, 3.6 + 0.2 * legend_lines)
    end = max((curve.x[-1] for curve in comparison.curves[axis] if len(curve.x)), default=1.0)
    for place, curve in enumerate(comparison.curves[axis]):
        colour = COLOURS[place % len(COLOURS)]
        panel.step(
            curve.x,
            curve.iqm,
            where="post",
            color=colour,
            linestyle=DASHES[place % len(DASHES)],
            linewidth=1.8,
            label=labels[place],  # the legend names methods that have no curve, too
        )
        panel.plot(
            curve.x[-1:], curve.iqm[-1:], MARKERS[place % len(MARKERS)], color=colour, markersize=5, clip_on=False
        )
        panel.fill_between(curve.x, curve.low, curve.high, step="post", color=colour, alpha=0.15, linewidth=0)
    _draw_reference(panel, comparison, horizontal=True)
    if axis == comparison.axis and comparison.budget < end:
        panel.axvline(comparison.budget, color="gray", linewidth=1, linestyle=(0, (1, 3)))
    loss = with_unit("lowest loss so far", comparison.conditions["task"])
    panel.set(xlabel=AXIS_NAMES[axis], ylabel=loss, xlim=(0, end))
    panel.xaxis.set_major_formatter("{x:,.0f}" if end > 5 else "{x:g}")
    _limit_height(panel, comparison, axis, end)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return png(figure)


def draw_losses(comparison: Comparison) -> bytes:
    """Draws each run's lowest loss at the budget, with interquartile means and intervals, as a PNG file's content."""
    figure, (panel,) = empty_figure(6.6, 1.6 + 0.5 * len(comparison.methods))
    rng = np.random.default_rng(0)
    for place, (method, row) in enumerate(zip(comparison.methods, comparison.table, strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        losses = [run["loss"] for run in comparison.runs if run["method"] == method.label and run["loss"] is not None]
        heights = place + 0.2 + rng.uniform(-0.06, 0.06, len(losses))  # runs of equal loss stand beside each other
        panel.plot(
            losses,
            heights,
            MARKERS[place % len(MARKERS)],
            color=colour,
            markersize=5,
            alpha=0.6,
            markeredgewidth=0,
        )
        if math.isfinite(row["iqm"]):
            panel.plot([row["iqm_low"], row["iqm_high"]], [place - 0.12] * 2, color=colour, linewidth=5, alpha=0.35)
            panel.plot(row["iqm"], place - 0.12, "|", color=colour, markersize=13, markeredgewidth=2.5)
    _draw_reference(panel, comparison, horizontal=False)
    panel.set(
        xlabel=with_unit(
            f"lowest loss within {spent(comparison.axis, comparison.budget)}", comparison.conditions["task"]
        ),
        ylim=(len(comparison.methods) - 0.5, -0.5),
    )
    panel.set_yticks(range(len(comparison.methods)), [wrapped(method.label, 28) for method in comparison.methods])
    if comparison.reference is not None and comparison.reference.loss is not None:
        figure.legend(loc="outside lower center", frameon=False)
    return png(figure)


def draw_trade_offs(comparison: Comparison) -> bytes:
    """Draws the fronts of all methods, loss against each cost, as a PNG file's content.

    Lines are the lowest loss of what costs no more; marks away from them are cheaper in another cost.
    """
    found, reference = comparison.trade_offs, comparison.reference
    assert found is not None
    columns = 1 if len(comparison.methods) < 4 else 2
    labels = [wrapped(method.label, 43) for method in comparison.methods]
    legend_lines = sum(label.count("\n") + 1 for label in labels) / columns + 1
    figure, panels = empty_figure(3.3 * max(2, len(found.costs)), 3.2 + 0.2 * legend_lines, len(found.costs))
    for column, (cost, panel) in enumerate(zip(found.costs, panels, strict=True), start=1):
        costs = [one.point[column] for front in found.fronts for one in front]
        if reference is not None and reference.loss is not None:
            costs.append(COSTS[cost](KNOWN_PROGRAMS[reference.name]))
            label = f"{reference.name}, for reference" if column == 1 else None
            panel.plot(costs[-1], reference.loss, "*", color="gray", markersize=11, label=label)
        end = max(costs, default=0.0) + 0.5
        for place, front in enumerate(found.fronts):
            points = np.array([(one.point[column], one.point[0]) for one in front]).reshape(len(front), 2)
            best = points[pareto_front(points)]
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            panel.step(
                [*best[:, 0], *([end] if len(best) else [])],
                [*best[:, 1], *best[-1:, 1]],
                where="post",
                color=colour,
                linestyle=DASHES[place % len(DASHES)],
                linewidth=1.8,
                marker=marker,
                markersize=5,
                markevery=range(len(best)),
                label=labels[place] if column == 1 else None,
            )
            panel.plot(*points.T, marker, color=colour, markersize=5, alpha=0.3, markeredgewidth=0)
        panel.set(xlabel=_COST_LABELS[cost], xlim=(-0.03 * end, end))
        panel.locator_params(axis="x", integer=True)
        if column > 1:
            panel.sharey(panels[0])
            panel.tick_params(labelleft=False)
    losses = [found.ideal[0], found.reference[0]]
    if reference is not None and reference.loss is not None:
        losses.append(reference.loss)
    margin = 0.04 * (max(losses) - min(losses))
    panels[0].set(
        ylabel=with_unit("loss", comparison.conditions["task"]), ylim=(min(losses) - margin, max(losses) + margin)
    )
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize="small")
    return png(figure)


def _draw_reference(panel: Axes, comparison: Comparison, *, horizontal: bool) -> None:
    reference = comparison.reference
    if reference is None or reference.loss is None:
        return
    draw = panel.axhline if horizontal else panel.axvline
    draw(
        reference.loss,
        color="gray",
        linewidth=1.2,
        linestyle=(0, (5, 1, 1, 1)),
        label=f"{reference.name}, for reference",
    )


def _limit_height(panel: Axes, comparison: Comparison, axis: Axis, end: float) -> None:
    """Leaves out how high curves start, which would flatten all that follows."""
    lows, highs = [], []
    for curve in comparison.curves[axis]:
        if len(curve.x):
            late = max(int(np.searchsorted(curve.x, _FIRST_SHARE * end, side="right")) - 1, 0)
            upper = np.where(np.isnan(curve.high), curve.iqm, curve.high)[late:]
            lower = np.where(np.isnan(curve.low), curve.iqm, curve.low)[late:]
            highs.append(upper.max())
            lows.append(lower.min())
    if comparison.reference is not None and comparison.reference.loss is not None:
        lows.append(comparison.reference.loss)
        highs.append(comparison.reference.loss)
    if highs:
        margin = 0.06 * (max(highs) - min(lows)) or 0.1
        panel.set_ylim(min(lows) - margin, max(highs) + margin)


def _runs(count: int) -> str:
    return f"{count}\u00a0run" if count == 1 else f"{count}\u00a0runs"
