"""Pictures of what post-processing finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nosbench_env.language.program import SLOT_NAMES, Program
from nosbench_env.postprocessing.ablation import Ablation
from nosbench_env.postprocessing.sensitivity import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINEAR = 0.1  # changes of loss up to here are drawn to scale, larger ones logarithmically: most are small, some huge
_COLUMNS = 3
_ROOM = 4.0  # means above the program's own, in its multiples of the spread of all, that a panel of a sweep shows


def draw_ablation(ablation: Ablation, picture: Path, title: str) -> None:
    """Draws a bar for each instruction, the change of loss without it, with a point for each seed.

    Args:
        ablation: What to draw.
        picture: The PNG file to write.
        title: What stands above it.
    """
    from matplotlib.figure import Figure

    effects = ablation.effects
    figure = Figure(figsize=(9, 1.4 + 0.36 * max(1, len(effects))), layout="constrained")
    panel = figure.subplots()
    finite = [d for effect in effects for d in effect.change.differences if math.isfinite(d)]
    edge = 2 * max([_LINEAR, *map(abs, finite)])
    for row, effect in enumerate(effects):
        change = effect.change
        if change.diverged:
            panel.barh(row, edge, color="tab:gray", alpha=0.35)
            panel.text(edge, row, "diverges ", va="center", ha="right", fontsize=8)
        else:
            panel.barh(row, change.mean, color="tab:red" if change.mean > 0 else "tab:green", alpha=0.6)
            panel.plot(change.differences, [row] * len(change.differences), "k.", markersize=4)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_xscale("symlog", linthresh=_LINEAR)
    panel.set_xlim(min([-_LINEAR, *(2 * d for d in finite if d < 0)]), edge)
    panel.set_yticks(
        range(len(effects)),
        [f"{effect.line}  {effect.instruction}  →  {effect.variants[0].replacement.by}" for effect in effects],
        family="monospace",
        fontsize=8,
    )
    panel.invert_yaxis()
    panel.set(title=title, xlabel=f"change of the final loss (linear up to ±{_LINEAR}); dots: seeds")
    panel.grid(axis="x", alpha=0.3)
    figure.savefig(picture, dpi=150)


def draw_sweeps(program: Program, sweeps: Sequence[Sweep], picture: Path, title: str) -> None:
    """Draws a panel for each sweep: loss against factor, a point for each seed and a line for the mean.

    Args:
        program: The program.
        sweeps: What to draw; at least one.
        picture: The PNG file to write.
        title: What stands above it.
    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(sweeps))
    rows = math.ceil(len(sweeps) / columns)
    figure = Figure(figsize=(max(5.5, 3.7 * columns), 0.6 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    low, high = _range(sweeps)
    for panel, sweep in zip(panels, sweeps, strict=False):
        _draw_sweep(panel, sweep, low, high)
        panel.set_title(_name(program, sweep), fontsize=9, family="monospace")
    for panel in panels[len(sweeps) :]:
        panel.set_visible(False)
    figure.supylabel("final loss (triangles: a seed above, or diverged)")
    figure.suptitle(title)
    figure.savefig(picture, dpi=150)


def _draw_sweep(panel: Axes, sweep: Sweep, low: float, high: float) -> None:
    means = np.array([np.mean(losses) if np.isfinite(losses).all() else np.nan for losses in sweep.losses])
    for factor, losses in zip(sweep.factors, sweep.losses, strict=True):
        shown = [loss for loss in losses if math.isfinite(loss) and loss <= high]
        panel.plot([factor] * len(shown), shown, ".", color="tab:blue", markersize=5, alpha=0.6)
        if len(shown) < len(losses):  # diverged, or far above
            panel.plot(factor, high, "^", color="tab:red", clip_on=False)
    panel.plot(sweep.factors, means, color="tab:blue", linewidth=1.2)
    panel.axvline(1.0, color="gray", linewidth=0.8, linestyle=":")
    panel.set_xscale("log")
    panel.set(ylim=(low - 0.04 * (high - low), high), xlabel=f"factor (1 is {sweep.value:g})")
    panel.grid(alpha=0.3)


def _range(sweeps: Sequence[Sweep]) -> tuple[float, float]:
    """What of the losses to show: those that diverge or come near it would leave no room for others."""
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
