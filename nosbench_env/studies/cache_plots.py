"""The plots of the cache study: the paper's Figures 3 and 4."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nosbench_env.plotting import GRAY, empty_figure, legend, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {"rs": "random search", "re": "regularized evolution"}

Curves = dict[str, NDArray[np.float64]]  # (runs, queries and cache sizes, points) for each method


def plot_growth(table: Path, *, runs: int) -> Figure:
    """Plots cache sizes and cumulative speed-ups, in a row for each identity.

    Args:
        table: A CSV file of the study's growth.
        runs: Number of successive runs on one cache; lines mark the start of each.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    identities = _read(table)
    figure, panels = empty_figure(10, 0.3 + 3.4 * max(1, len(identities)), 2, max(1, len(identities)))
    for row, (identity, methods) in enumerate(identities.items()):
        left, right = panels[2 * row : 2 * row + 2]
        last = max(curves[0, 0, -1] for curves in methods.values())
        for method, curves in methods.items():
            _plot_runs(left, method, curves[:, 0], curves[:, 1], labelled=row == 0)
            _plot_runs(right, method, curves[:, 0], curves[:, 0] / curves[:, 1])
        left.plot([0, last], [0, last], "--", color=GRAY, linewidth=1, label="no cache" if row == 0 else None)
        top = max(curves[:, 1, -1].max() for curves in methods.values())
        left.set(title=f"{identity}: cache size", xlabel="queries", ylabel="results in the cache", ylim=(0, 1.15 * top))
        left.yaxis.set_major_formatter("{x:,.0f}")
        right.set(title=f"{identity}: cumulative speed-up", xlabel="queries", ylabel="queries / cache size")
        right.set_yscale("log")
        right.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_formatter(NullFormatter())
        for panel in (left, right):
            panel.set_xlim(0, last)
            panel.xaxis.set_major_formatter("{x:,.0f}")
            for run in range(1, runs):
                panel.axvline(run * last / runs, color=GRAY, linewidth=1, linestyle=":")
    legend(figure, 3)
    return figure


def _plot_runs(
    panel: Axes, method: str, queries: NDArray[np.float64], values: NDArray[np.float64], *, labelled: bool = False
) -> None:
    """Plots each run thin and their mean thick."""
    look = style(list(_NAMES).index(method))
    for x, y in zip(queries, values, strict=True):
        panel.plot(x, y, color=look.colour, linewidth=0.6, alpha=0.5)
    label = _NAMES[method] if labelled else None
    panel.plot(queries[0], values.mean(axis=0), color=look.colour, linewidth=2.2, label=label)


def _read(table: Path) -> dict[str, Curves]:
    """Reads the curves of a table, by identity and method."""
    runs: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            run = row["identity"], row["method"], row.get("seed") or row["seeds"]
            runs[run].append((float(row["queries"]), float(row["cache_size"])))
    grouped: dict[str, dict[str, list[list[tuple[float, float]]]]] = defaultdict(lambda: defaultdict(list))
    for (identity, method, _), points in runs.items():
        grouped[identity][method].append(points)
    return {
        identity: {method: np.array(curves).swapaxes(1, 2) for method, curves in methods.items()}
        for identity, methods in grouped.items()
    }
