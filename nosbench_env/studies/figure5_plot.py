"""The plot of Figure 5: update norms and learning curves."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nosbench_env.identity.paper_proxy import PROXY_STEPS
from nosbench_env.plotting import GRAY, INK, empty_figure, legend, style, with_unit, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = dict[str, NDArray[np.float64]]  # (seeds, steps) for each optimizer

_MARKED = 60  # longest curve whose points all have a marker and that is not smoothed
_WINDOWS = 40  # number of windows of the running mean in a curve


def plot_figure5(folder: Path, task: str) -> Figure:
    """Plots the three panels from `figure5_*.csv` in a folder.

    On the task, lines are means over the seeds and bands their range; norms are smoothed (see `_plot_mean`). On the
    proxy each seed begins at another loss. There the thick line has the paper's seed, and thin lines have others.
    """
    from matplotlib.ticker import MaxNLocator

    norms = _read(folder / "figure5_update_norms.csv", "update_norm")
    proxy = _read(folder / "figure5_proxy_curves.csv", "loss")
    curves = _read(folder / "figure5_task_curves.csv", "loss")
    figure, (left, middle, right) = empty_figure(11.0, 3.9, columns=3)
    for place, values in enumerate(norms.values()):
        _plot_mean(left, place, values)
    for place, (name, values) in enumerate(curves.items()):
        _plot_mean(right, place, values, wrapped(name, 40))
    for place, values in enumerate(proxy.values()):
        _plot_seeds(middle, place, values)
    for panel in (left, middle, right):
        panel.margins(x=0.02)
    window = max(smoothed_over(values.shape[1]) for values in norms.values())
    title = f"update norms (mean of {window} steps)" if window > 1 else "update norms"
    left.set(title=title, xlabel="step", ylabel="norm of the update of all parameters")
    left.set_yscale("log")
    middle.set(title="proxy (thick: the paper's seed)", xlabel="step", ylabel="loss before the step's update")
    if any(values.shape[1] > PROXY_STEPS for values in proxy.values()):
        middle.axvline(PROXY_STEPS, color=GRAY, linewidth=1, linestyle=(0, (1, 2)))
        middle.annotate(
            " end of the paper's\n fingerprint",
            (PROXY_STEPS, 0.99),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize="x-small",
            color=INK,
        )
    right.set(title="task", xlabel="epoch", ylabel=with_unit("training loss, mean of the epoch", task))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in (left, middle):
        panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        panel.xaxis.set_major_formatter("{x:,.0f}")
    legend(figure, 4)
    return figure


def _plot_mean(panel: Axes, place: int, values: NDArray[np.float64], label: str | None = None) -> None:
    """Plots the seeds' mean and range, where no seed failed.

    Long curves are noisy: the line is a running mean, with the mean of each step pale behind it.
    """
    look = style(place)
    steps, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    window = smoothed_over(len(steps))
    panel.plot(
        steps[window - 1 :],
        np.convolve(mean, np.ones(window) / window, mode="valid"),
        look.dashes,
        color=look.colour,
        linewidth=1.7,
        marker=look.marker if len(steps) <= _MARKED else None,
        markersize=3.5,
        label=label,
        zorder=3,
    )
    if window > 1:
        panel.plot(steps, mean, color=look.colour, linewidth=0.5, alpha=0.3)
    elif len(values) > 1:
        panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=look.colour, alpha=0.15, linewidth=0)


def smoothed_over(steps: int) -> int:
    """Returns the window of the running mean for a number of steps.

    >>> smoothed_over(20), smoothed_over(200), smoothed_over(2000)
    (1, 5, 50)
    """
    return max(1, steps // _WINDOWS) if steps > _MARKED else 1


def _plot_seeds(panel: Axes, place: int, values: NDArray[np.float64]) -> None:
    """Plots the first seed thick and the others thin."""
    look = style(place)
    for seed, losses in enumerate(values):
        panel.plot(
            np.arange(1, len(losses) + 1),
            losses,
            look.dashes if seed == 0 else "-",
            color=look.colour,
            linewidth=1.9 if seed == 0 else 0.7,
            alpha=1.0 if seed == 0 else 0.6,
        )


def _read(table: Path, column: str) -> Curves:
    """Reads the curves of a table, by optimizer."""
    curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            curves[row["candidate"]][int(row["seed"])].append(float(row[column]))
    return {name: np.array(list(seeds.values())) for name, seeds in curves.items()}
