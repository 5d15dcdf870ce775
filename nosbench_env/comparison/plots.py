"""The plots of a comparison: anytime curves, losses at the budget, trade-offs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nosbench_env.comparison.comparison import AXIS_NAMES, Comparison, spent
from nosbench_env.comparison.pareto import pareto_front
from nosbench_env.comparison.runs import Axis
from nosbench_env.language.costs import COSTS
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.plotting import GRAY, empty_figure, legend, plot_steps, style, with_unit, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COST_LABELS = {
    "memory": "state per parameter (floats)",
    "operations": "operations per parameter and step",
    "instructions": "instructions, simplified",
}
_FIRST_SHARE = 0.1  # of the axis, where curves may exceed the panel: all start high
_LEGEND_WIDTH = 43  # in characters


def plot_curves(comparison: Comparison, axis: Axis) -> Figure:
    """Plots the anytime curves of all methods over an axis."""
    labels = [f"{group.label} ({_runs(len(group.runs))})" for group in comparison.groups]
    figure, (panel,), labels, columns = _figure_with_legend(6.6, 3.6, labels)
    end = max((curve.x[-1] for curve in comparison.curves[axis] if len(curve.x)), default=1.0)
    for place, curve in enumerate(comparison.curves[axis]):
        plot_steps(panel, style(place), curve.x, curve.iqm, curve.low, curve.high, labels[place])
    _plot_reference(panel, comparison, horizontal=True)
    if axis == comparison.axis and comparison.budget < end:
        panel.axvline(comparison.budget, color=GRAY, linewidth=1, linestyle=(0, (1, 3)))
    loss = with_unit("lowest loss so far", comparison.conditions["task"])
    panel.set(xlabel=AXIS_NAMES[axis], ylabel=loss, xlim=(0, end))
    panel.xaxis.set_major_formatter("{x:,.0f}" if end > 5 else "{x:g}")
    _limit_height(panel, comparison, axis, end)
    legend(figure, columns)
    return figure


def plot_losses(comparison: Comparison) -> Figure:
    """Plots the lowest loss of each run within the budget.

    A bar above the runs of a method shows the interquartile mean and its interval.
    """
    figure, (panel,) = empty_figure(6.6, 1.6 + 0.5 * len(comparison.groups))
    rng = np.random.default_rng(0)
    for place, (group, row) in enumerate(zip(comparison.groups, comparison.table, strict=True)):
        look = style(place)
        losses = [run["loss"] for run in comparison.runs if run["method"] == group.label and run["loss"] is not None]
        heights = place + 0.2 + rng.uniform(-0.06, 0.06, len(losses))  # separates runs of equal loss
        panel.plot(losses, heights, look.marker, color=look.colour, markersize=5, alpha=0.6, markeredgewidth=0)
        if math.isfinite(row["iqm"]):
            ends = [row["iqm_low"], row["iqm_high"]]
            panel.plot(ends, [place - 0.12] * 2, color=look.colour, linewidth=5, alpha=0.35)
            panel.plot(row["iqm"], place - 0.12, "|", color=look.colour, markersize=13, markeredgewidth=2.5)
    _plot_reference(panel, comparison, horizontal=False)
    loss = f"lowest loss within {spent(comparison.axis, comparison.budget)}"
    panel.set(
        xlabel=with_unit(loss, comparison.conditions["task"]),
        ylim=(len(comparison.groups) - 0.5, -0.5),
    )
    panel.set_yticks(range(len(comparison.groups)), [wrapped(group.label, 28) for group in comparison.groups])
    if panel.get_legend_handles_labels()[0]:
        legend(figure)
    return figure


def plot_trade_offs(comparison: Comparison) -> Figure:
    """Plots the fronts of all methods, loss against each cost.

    Lines show the lowest loss at a cost or less. Marks off their line are cheaper in another cost.
    """
    trade_offs, reference = comparison.trade_offs, comparison.reference
    assert trade_offs is not None
    costs = trade_offs.costs
    labels = [group.label for group in comparison.groups]
    figure, panels, labels, columns = _figure_with_legend(3.3 * max(2, len(costs)), 3.2, labels, panels=len(costs))
    for column, (cost, panel) in enumerate(zip(costs, panels, strict=True), start=1):
        paid = [program.point[column] for front in trade_offs.fronts for program in front]
        if reference is not None and reference.loss is not None:
            paid.append(COSTS[cost](KNOWN_PROGRAMS[reference.name]))
            label = f"{reference.name}, for reference" if column == 1 else None
            panel.plot(paid[-1], reference.loss, "*", color=GRAY, markersize=11, label=label)
        end = max(paid, default=0.0) + 0.5
        for place, front in enumerate(trade_offs.fronts):
            points = np.array([(program.point[column], program.point[0]) for program in front]).reshape(len(front), 2)
            best = points[pareto_front(points)]
            look = style(place)
            panel.step(
                [*best[:, 0], *([end] if len(best) else [])],
                [*best[:, 1], *best[-1:, 1]],
                where="post",
                color=look.colour,
                linestyle=look.dashes,
                linewidth=1.8,
                marker=look.marker,
                markersize=5,
                markevery=range(len(best)),
                label=labels[place] if column == 1 else None,
            )
            panel.plot(*points.T, look.marker, color=look.colour, markersize=5, alpha=0.3, markeredgewidth=0)
        panel.set(xlabel=_COST_LABELS[cost], xlim=(-0.03 * end, end))
        panel.locator_params(axis="x", integer=True)
        if column > 1:
            panel.sharey(panels[0])
            panel.tick_params(labelleft=False)
    losses = [trade_offs.ideal[0], trade_offs.reference[0]]
    if reference is not None and reference.loss is not None:
        losses.append(reference.loss)
    margin = 0.04 * (max(losses) - min(losses))
    loss = with_unit("loss", comparison.conditions["task"])
    panels[0].set(ylabel=loss, ylim=(min(losses) - margin, max(losses) + margin))
    legend(figure, columns)
    return figure


def _figure_with_legend(
    width: float, height: float, labels: list[str], panels: int = 1
) -> tuple[Figure, list[Axes], list[str], int]:
    """Makes a figure with room for a legend below its panels.

    Returns:
        The figure, its panels, the labels in lines that fit, and the number of columns of the legend.
    """
    labels, columns = [wrapped(label, _LEGEND_WIDTH) for label in labels], 1 if len(labels) < 4 else 2
    lines = sum(label.count("\n") + 1 for label in labels) / columns + 1
    return *empty_figure(width, height + 0.2 * lines, panels), labels, columns


def _plot_reference(panel: Axes, comparison: Comparison, *, horizontal: bool) -> None:
    reference = comparison.reference
    if reference is None or reference.loss is None:
        return
    plot = panel.axhline if horizontal else panel.axvline
    label = f"{reference.name}, for reference"
    plot(reference.loss, color=GRAY, linewidth=1.2, linestyle=(0, (5, 1, 1, 1)), label=label)


def _limit_height(panel: Axes, comparison: Comparison, axis: Axis, end: float) -> None:
    """Cuts off the high beginning of curves, which would flatten the rest."""
    lows, highs = [], []
    for curve in comparison.curves[axis]:
        if len(curve.x):
            late = max(int(np.searchsorted(curve.x, _FIRST_SHARE * end, side="right")) - 1, 0)
            lows.append(np.where(np.isnan(curve.low), curve.iqm, curve.low)[late:].min())
            highs.append(np.where(np.isnan(curve.high), curve.iqm, curve.high)[late:].max())
    if comparison.reference is not None and comparison.reference.loss is not None:
        lows.append(comparison.reference.loss)
        highs.append(comparison.reference.loss)
    if highs:
        margin = 0.06 * (max(highs) - min(lows)) or 0.1
        panel.set_ylim(min(lows) - margin, max(highs) + margin)


def _runs(count: int) -> str:
    return f"{count}\u00a0run" if count == 1 else f"{count}\u00a0runs"
