"""What the pictures have in common: colours, marks, an empty panel, a PNG file's content."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that stand out on white, told apart also by the colour-blind. Seven colours and four line
# styles go round at different times, so that 28 methods look different.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UNITS: Mapping[str, str] = MappingProxyType(
    {"pfn": "nats", "toy": "nats"}  # of the losses of our tasks; another's have none that we know
)


def check_matplotlib() -> None:
    """Raises: ValueError: If there is no matplotlib to draw with."""
    if find_spec("matplotlib") is None:
        raise ValueError(
            "the pictures need matplotlib: install it with pip install 'nosbench_env[plot]', or leave them out with "
            "--no-plots"
        )


def empty_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of that size in inches, and its panels side by side, with a grid and open at the top and the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def with_unit(what: str, task: str) -> str:
    """The name of a loss, with the unit that the task's losses have, if it is known.

    >>> with_unit("lowest loss so far", "pfn")
    'lowest loss so far (nats)'
    """
    return f"{what} ({UNITS[task]})" if task in UNITS else what


def wrapped(text: str, width: int) -> str:
    """Text in at most two lines; drawn as it is, where between dollars matplotlib would read mathematics."""
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…")).replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """A figure as a PNG file's content."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a name may be in letters that the font lacks
        figure.savefig(file, format="png", dpi=180)
    return file.getvalue()
