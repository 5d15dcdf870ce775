"""The pictures of the study of the cache: Figures 3 and 4 of the paper, drawn from the tables beside them."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"rs": "tab:blue", "re": "tab:orange"}
_NAMES = {"rs": "random search", "re": "regularized evolution"}

Curves = dict[str, list[tuple[list[int], list[int]]]]  # of a method: queries and cache sizes of each run


def plot_growth(table: Path, picture: Path, *, runs: int) -> None:
    """Draws cache sizes and cumulative speed-ups, a row of panels for each identity.

    Args:
        table: A CSV file of the study's growth.
        picture: The PNG file to write.
        runs: How many runs follow each other on one cache; lines mark where a new one begins.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    identities = _read(table)
    if not identities:
        return
    figure = Figure(figsize=(10, 3.4 * len(identities)), layout="constrained")
    panels = figure.subplots(len(identities), 2, squeeze=False)
    for (identity, methods), (left, right) in zip(identities.items(), panels, strict=True):
        last = max(queries[-1] for curves in methods.values() for queries, _ in curves)
        for method, curves in methods.items():
            _draw(left, method, [(queries, sizes) for queries, sizes in curves])
            _draw(right, method, [(queries, np.divide(queries, sizes).tolist()) for queries, sizes in curves])
        top = max(sizes[-1] for curves in methods.values() for _, sizes in curves)
        left.plot([0, last], [0, last], "--", color="gray", linewidth=1, label="no cache")
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
            panel.grid(alpha=0.3)
            for run in range(1, runs):
                panel.axvline(run * last / runs, color="gray", linewidth=1, linestyle=":")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(picture, dpi=150)


def _draw(
    panel: Axes, method: str, curves: list[tuple[list[int], list[float]]] | list[tuple[list[int], list[int]]]
) -> None:
    """A thin line for each run, a thick one for their mean."""
    for queries, values in curves:
        panel.plot(queries, values, color=_COLORS[method], linewidth=0.6, alpha=0.5)
    mean = np.mean([values for _, values in curves], axis=0)
    panel.plot(curves[0][0], mean, color=_COLORS[method], linewidth=2.2, label=_NAMES[method])


def _read(table: Path) -> dict[str, Curves]:
    """The curves of a table: identity -> method -> runs."""
    runs: dict[tuple[str, str, str], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            queries, sizes = runs[row["identity"], row["method"], row.get("seed") or row["seeds"]]
            queries.append(int(row["queries"]))
            sizes.append(int(row["cache_size"]))
    curves: dict[str, Curves] = {}
    for (identity, method, _), run in runs.items():
        curves.setdefault(identity, {}).setdefault(method, []).append(run)
    return curves
