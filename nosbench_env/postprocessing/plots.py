"""The plots of `nosbench program`: ablations and sweeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nosbench_env.language.program import SLOT_NAMES, Program
from nosbench_env.plotting import COLOURS, GRAY, empty_figure, wrapped
from nosbench_env.postprocessing.ablation import Ablation
from nosbench_env.postprocessing.sensitivity import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINEAR = 0.1  # largest change of loss on the linear part of the axis: most changes are small, some huge
_COLUMNS = 3
_ROOM = 4.0  # highest loss that a panel of a sweep shows, above the lowest, in multiples of the losses' spread
_WORSE, _BETTER = COLOURS[1], COLOURS[2]


def plot_ablation(ablation: Ablation, title: str) -> Figure:
    """Plots the change of loss without each instruction.

    Bars are means, points seeds.
    """
    effects = ablation.effects
    figure, (panel,) = empty_figure(9, 1.4 + 0.36 * max(1, len(effects)))
    finite = [change for effect in effects for change in effect.change.differences if math.isfinite(change)]
    edge = 2 * max([_LINEAR, *map(abs, finite)])
    for row, effect in enumerate(effects):
        change = effect.change
        if change.diverged:
            panel.barh(row, edge, color=GRAY, alpha=0.35)
            panel.text(edge, row, "diverges ", va="center", ha="right", fontsize=8)
        else:
            panel.barh(row, change.mean, color=_WORSE if change.mean > 0 else _BETTER, alpha=0.6)
            panel.plot(change.differences, [row] * len(change.differences), "k.", markersize=4)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_xscale("symlog", linthresh=_LINEAR)
    panel.set_xlim(min([-_LINEAR, *(2 * change for change in finite if change < 0)]), edge)
    panel.set_yticks(
        range(len(effects)),
        [f"{effect.line}  {effect.instruction}  →  {effect.variants[0].replacement.by}" for effect in effects],
        family="monospace",
        fontsize=8,
    )
    panel.invert_yaxis()
    panel.grid(visible=False, axis="y")
    panel.set(xlabel=f"change of the final loss (linear up to ±{_LINEAR}); dots: seeds")
    figure.suptitle(wrapped(title, 100), fontsize="medium")
    return figure


def plot_sweeps(program: Program, sweeps: Sequence[Sweep], title: str) -> Figure:
    """Plots loss over factor, in a panel for each sweep.

    Points are seeds, lines means.
    """
    columns = min(_COLUMNS, len(sweeps))
    rows = math.ceil(len(sweeps) / columns)
    width = max(6.6, 3.7 * columns)
    figure, panels = empty_figure(width, 1.0 + 2.9 * rows, columns, rows, sharey=True)
    low, high = _range(sweeps)
    for panel, sweep in zip(panels, sweeps, strict=False):
        _plot_sweep(panel, sweep, low, high)
        panel.set_title(_name(program, sweep), fontsize=9, family="monospace")
    for panel in panels[len(sweeps) :]:
        panel.set_visible(False)
    figure.supylabel("final loss (triangle: a seed above,\nor diverged)", fontsize="medium")
    figure.suptitle(wrapped(title, int(11 * width)), fontsize="medium")
    return figure


def _plot_sweep(panel: Axes, sweep: Sweep, low: float, high: float) -> None:
    means = np.array([np.mean(losses) if np.isfinite(losses).all() else np.nan for losses in sweep.losses])
    for factor, losses in zip(sweep.factors, sweep.losses, strict=True):
        inside = [loss for loss in losses if math.isfinite(loss) and loss <= high]
        panel.plot([factor] * len(inside), inside, ".", color=COLOURS[0], markersize=5, alpha=0.6)
        if len(inside) < len(losses):  # diverged, or far above
            panel.plot(factor, high, "^", color=_WORSE, clip_on=False)
    panel.plot(sweep.factors, means, color=COLOURS[0], linewidth=1.2)
    panel.axvline(1.0, color=GRAY, linewidth=0.8, linestyle=":")
    panel.set_xscale("log")
    panel.set(ylim=(low - 0.04 * (high - low), high), xlabel=f"factor (1 is {sweep.value:g})")


def _range(sweeps: Sequence[Sweep]) -> tuple[float, float]:
    """Returns the range of losses to show, without outliers."""
    own = np.concatenate([sweep.losses[sweep.factors.index(1.0)] for sweep in sweeps])
    losses = np.concatenate([np.ravel(sweep.losses) for sweep in sweeps])
    losses = losses[np.isfinite(losses)]
    low = float(losses.min())
    width = max(float(own.mean()) - low, float(np.quantile(losses, 0.75)) - low, 0.05)
    return low, min(float(losses.max()) + 0.05 * width, low + _ROOM * width)


def _name(program: Program, sweep: Sweep) -> str:
    if sweep.use is None:
        return "factor * update"
    instruction = program[sweep.use.line - 1]
    inputs = [SLOT_NAMES[slot] for slot in instruction.inputs]
    inputs[sweep.use.place - 1] = f"[{inputs[sweep.use.place - 1]}]"
    return f"{sweep.use.line}: {SLOT_NAMES[instruction.output]} = {instruction.function}({', '.join(inputs)})"
