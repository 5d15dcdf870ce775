"""The picture of Figure 5: update norms, curves on the proxy, and curves on the task, drawn from the tables."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nosbench_env.identity.paper_proxy import PROXY_STEPS
from nosbench_env.plotting import COLOURS, DASHES, MARKERS, empty_figure, png, with_unit, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = dict[str, NDArray[np.float64]]  # of an optimizer, (seeds, steps)

_MARKED = 60  # points of a curve, up to which each has a mark and none is smoothed
_WINDOWS = 40  # of the running mean, in a line


def draw_figure5(folder: Path, task: str) -> bytes:
    """Draws the three panels from `figure5_*.csv` in a folder, as a PNG file's content.

    On the task lines are means over the seeds, bands their range; norms are smoothed (see `_draw`). Each draw of the
    proxy begins at a loss of its own: there the thick line is the paper's draw, and thin ones are others.
    """
    from matplotlib.ticker import MaxNLocator

    norms = _read(folder / "figure5_update_norms.csv", "update_norm")
    proxy = _read(folder / "figure5_proxy_curves.csv", "loss")
    curves = _read(folder / "figure5_task_curves.csv", "loss")
    figure, (left, middle, right) = empty_figure(11.0, 3.9, columns=3)
    for panel, found in ((left, norms), (right, curves)):
        for place, (name, values) in enumerate(found.items()):
            _draw(panel, place, name, values)
    for place, values in enumerate(proxy.values()):
        _draw_each(middle, place, values)
    for panel in (left, middle, right):
        panel.margins(x=0.02)
    window = max(smoothed_over(values.shape[1]) for values in norms.values())
    title = f"update norms (mean of {window} steps)" if window > 1 else "update norms"
    left.set(title=title, xlabel="step", ylabel="norm of the update of all parameters")
    left.set_yscale("log")
    middle.set(title="proxy (thick: the paper's draw)", xlabel="step", ylabel="loss before the step's update")
    if any(values.shape[1] > PROXY_STEPS for values in proxy.values()):
        middle.axvline(PROXY_STEPS, color="gray", linewidth=1, linestyle=(0, (1, 2)))
        middle.annotate(
            " the paper's fingerprint\n looks no further",
            (PROXY_STEPS, 0.99),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize="x-small",
            color="#555555",
        )
    right.set(title="task", xlabel="epoch", ylabel=with_unit("training loss, mean of the epoch", task))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in (left, middle):
        panel.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        panel.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return png(figure)


def _draw(panel: Axes, place: int, name: str, values: NDArray[np.float64]) -> None:
    """A line for the mean over the seeds, a band for their range. Where a seed failed there is neither.

    Of many steps, which are noisy, the line is a running mean, and the mean of each step is drawn pale behind it.
    """
    colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
    steps, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
    window = smoothed_over(len(steps))
    panel.plot(
        steps[window - 1 :],
        np.convolve(mean, np.ones(window) / window, mode="valid"),
        dashes,
        color=colour,
        linewidth=1.7,
        marker=MARKERS[place % len(MARKERS)] if len(steps) <= _MARKED else None,
        markersize=3.5,
        label=wrapped(name, 40),
        zorder=3,
    )
    if window > 1:
        panel.plot(steps, mean, color=colour, linewidth=0.5, alpha=0.3)
    elif len(values) > 1:
        panel.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def smoothed_over(steps: int) -> int:
    """How many steps a line is the running mean of.

    >>> smoothed_over(20), smoothed_over(200), smoothed_over(2000)
    (1, 5, 50)
    """
    return max(1, steps // _WINDOWS) if steps > _MARKED else 1


def _draw_each(panel: Axes, place: int, values: NDArray[np.float64]) -> None:
    """A thick line for the first seed, thin ones for the others."""
    steps = np.arange(1, values.shape[1] + 1)
    colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
    for seed, losses in enumerate(values):
        panel.plot(
            steps,
            losses,
            dashes if seed == 0 else "-",
            color=colour,
            linewidth=1.9 if seed == 0 else 0.7,
            alpha=1.0 if seed == 0 else 0.6,
        )


def _read(table: Path, column: str) -> Curves:
    """The curves of a table, by optimizer."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["candidate"]][int(row["seed"])].append(float(row[column]))
    return {name: np.array(list(seeds.values())) for name, seeds in found.items()}
