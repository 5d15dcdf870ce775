"""Draws the images of the documentation: `python docs/images/draw.py`."""

from __future__ import annotations

import csv
import tomllib
from collections import defaultdict
from pathlib import Path

import numpy as np

from nosbench_env.plotting import COLOURS, empty_figure

IMAGES = Path(__file__).parent
ROOT = IMAGES.parents[1]
RESULTS = ROOT / "benchmarks/results"

# The curves of `learning_curves.png`, with the height of each label in nats.
CURVES = {
    "Incumbent": -0.53,
    "AdamW": -0.07,
    "SGD": 0.50,
    "AdamW-cosine": -0.385,
    "Adagrad": 1.60,
    "Adadelta": -0.22,
    "PowerSign": 0.83,
    "AddSign": 0.98,
}
FILL, EDGE, TEXT = "#eef2f8", "#7d8fa1", "#16202a"  # EDGE is readable on white and on black


def learning_curves() -> None:
    """Draws the PFN task's learning curves: mean and range over three seeds, named at their ends."""
    losses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (RESULTS / "baselines/curves.csv").open() as file:
        for row in csv.DictReader(file):
            losses[row["name"]][int(row["epoch"])].append(float(row["loss"]))
    figure, (panel,) = empty_figure(7.6, 3.9)
    figure.patch.set_facecolor("white")
    for colour, (name, height) in zip((*COLOURS, "#7a5c3a"), CURVES.items(), strict=True):
        epochs = sorted(losses[name])
        curves = np.array([losses[name][epoch] for epoch in epochs])
        mean = curves.mean(axis=1)
        bold = name == "Incumbent"
        panel.plot(epochs, mean, color=colour, linewidth=2.6 if bold else 1.6)
        panel.fill_between(epochs, curves.min(axis=1), curves.max(axis=1), color=colour, alpha=0.13, linewidth=0)
        value = f"{mean[-1]:.2f}".replace("-", "\N{MINUS SIGN}")
        panel.annotate(
            f"{name}  {value}",
            (epochs[-1], mean[-1]),
            (epochs[-1] + 0.6, height),
            color=colour,
            va="center",
            fontsize="small",
            fontweight="bold" if bold else "normal",
            annotation_clip=False,
        )
    panel.set(xlim=(1, 20), ylim=(-0.65, 1.75), xlabel="epoch", ylabel="training loss of the epoch (nats)")
    panel.set_xticks([1, 5, 10, 15, 20])
    figure.savefig(IMAGES / "learning_curves.png", dpi=160, bbox_inches="tight", pad_inches=0.12)


def layers() -> None:
    """Draws the layers of the import contract in `pyproject.toml`, the highest first."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(contract for contract in tool["contracts"] if contract["type"] == "layers")
    rows = [[name.strip() for name in layer.replace(":", "|").split("|")] for layer in contract["layers"]]
    width, height, gap, margin, letter = 660, 34, 12, 12, 8.4
    boxes = []
    for number, row in enumerate(rows):
        top = margin + number * (height + gap)
        widths = [len(name) * letter + 28 for name in row]
        left = (width - sum(widths) - gap * (len(row) - 1)) / 2
        for name, box in zip(row, widths, strict=True):
            boxes.append(
                f'<rect x="{left:.1f}" y="{top}" width="{box:.1f}" height="{height}" rx="6" fill="{FILL}" '
                f'stroke="{EDGE}"/>\n'
                f'<text x="{left + box / 2:.1f}" y="{top + 22}" text-anchor="middle">{name}</text>'
            )
            left += box + gap
    total = 2 * margin + len(rows) * (height + gap) - gap
    middle, bottom = total / 2, total - margin - 12
    arrow = (
        f'<path d="M 24 {margin + 6} V {middle - 34} M 24 {middle + 34} V {bottom}" '
        f'stroke="{EDGE}" stroke-width="2"/>\n'
        f'<path d="M 18 {bottom - 2} L 24 {bottom + 10} L 30 {bottom - 2} Z" fill="{EDGE}"/>\n'
        f'<text transform="translate(29 {middle}) rotate(-90)" text-anchor="middle" fill="{EDGE}">imports</text>'
    )
    (IMAGES / "layers.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" width="{width}" height="{total}" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" fill="{TEXT}" role="img" '
        f'aria-label="The layers of the package, the highest first">\n' + "\n".join([arrow, *boxes]) + "\n</svg>\n"
    )


if __name__ == "__main__":
    learning_curves()
    layers()
