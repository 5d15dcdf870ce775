"""The common style of all plots."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito that stand out on white and that the colour-blind can tell apart. The cycles of seven
# colours and four dashes have no common divisor, so the first 28 curves all look different.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GRAY = "gray"  # of reference lines
INK = "#555555"  # of notes inside a plot
UNITS: Mapping[str, str] = MappingProxyType({"pfn": "nats", "toy": "nats"})  # of the losses of our tasks
_DPI = 180

Values = NDArray[np.floating[Any] | np.integer[Any]]


class Style(NamedTuple):
    """The colour, the dashes and the marker of a curve."""

    colour: str
    dashes: str
    marker: str


def style(place: int) -> Style:
    """Returns the style of the curve number `place`, counted from 0.

    >>> style(8)
    Style(colour='#D55E00', dashes='-', marker='s')
    """
    return Style(COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)])


def check_matplotlib() -> None:
    """Checks that matplotlib is installed.

    Raises:
        ValueError: If it is not; the message says how to install it, and how to do without.
    """
    if find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'nosbench_env[plot]', or pass --no-plot to skip the plots")


def empty_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, *, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with rows of panels.

    Panels have a pale grid and no frame at the top and at the right.

    Args:
        width: Width of the figure in inches.
        height: Height of the figure in inches.
        columns: Number of panels in a row.
        rows: Number of rows.
        sharey: Whether all panels have the same y axis.

    Returns:
        The figure and its panels, row by row.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flat)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def plot_steps(panel: Axes, style: Style, x: Values, y: Values, low: Values, high: Values, label: str) -> None:
    """Plots a step curve with a band and an end marker.

    Args:
        panel: The panel.
        style: The curve's style.
        x: Ascending positions, `(points,)`; each value holds until the next position.
        y: Heights of the curve, `(points,)`.
        low: Lower edge of the band, `(points,)`.
        high: Upper edge of the band, `(points,)`.
        label: Name in the legend; also shown if there are no points.
    """
    panel.step(x, y, where="post", color=style.colour, linestyle=style.dashes, linewidth=1.8, label=label, zorder=3)
    panel.plot(x[-1:], y[-1:], style.marker, color=style.colour, markersize=5, clip_on=False, zorder=4)
    panel.fill_between(x, low, high, step="post", color=style.colour, alpha=0.15, linewidth=0)


def plot_mean(panel: Axes, style: Style, x: Values, curves: Values, label: str) -> None:
    """Plots the mean and the range of several curves.

    Args:
        panel: The panel.
        style: The style of the mean.
        x: Positions, `(points,)`.
        curves: Heights, `(curves, points)`; there is no mean where one of them is NaN or infinite.
        label: Name in the legend.
    """
    marker = style.marker if len(x) == 1 else None  # of which no line would be seen
    panel.plot(x, curves.mean(axis=0), style.dashes, color=style.colour, linewidth=1.7, marker=marker, label=label)
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        panel.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)


def legend(figure: Figure, columns: int = 1) -> None:
    """Adds a common legend below the panels."""
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize="small")


def with_unit(name: str, task: str) -> str:
    """Adds the unit of a task's losses, if known, to a name.

    >>> with_unit("lowest loss so far", "pfn")
    'lowest loss so far (nats)'
    """
    return f"{name} ({UNITS[task]})" if task in UNITS else name


def escaped(text: str) -> str:
    """Escapes dollar signs, between which matplotlib reads mathematics."""
    return text.replace("$", r"\$")


def wrapped(text: str, width: int) -> str:
    """Wraps a text to at most two lines, cut and escaped."""
    return escaped("\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…")))


def save(figure: Figure, file: Path | BinaryIO) -> None:
    """Writes a figure in its suffix's format; to open files, as PNG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name may be in letters that the font lacks
        figure.savefig(file, format=None if isinstance(file, Path) else "png", dpi=_DPI)


def png(figure: Figure) -> bytes:
    """Returns the content of a figure's PNG file."""
    file = io.BytesIO()
    save(figure, file)
    return file.getvalue()
