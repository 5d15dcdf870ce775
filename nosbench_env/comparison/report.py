"""A comparison's files: CSV tables, JSON data, plots, HTML report."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from nosbench_env.agents.history import SOURCES, shown
from nosbench_env.candidates.candidate import Candidate
from nosbench_env.comparison.comparison import (
    AXIS_NAMES,
    Comparison,
    made_by,
    spent,
)
from nosbench_env.comparison.plots import plot_curves, plot_losses, plot_trade_offs
from nosbench_env.comparison.runs import AXES, RunGroup
from nosbench_env.comparison.statistics import CONFIDENCE, RESAMPLES
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import pseudocode
from nosbench_env.plotting import png
from nosbench_env.whole_files import write_whole

_TEMPLATE = "report.html.jinja"


def write_report(comparison: Comparison, folder: Path, *, plot: bool = True) -> list[Path]:
    """Writes all files of a comparison to a folder.

    The files of an earlier comparison are replaced. Equal comparisons give equal files.

    Args:
        comparison: The comparison.
        folder: The folder; created if it does not exist.
        plot: True to write plots, which needs matplotlib.

    Returns:
        The files. The first is the report, which is self-contained.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    if plot:
        figures = {f"curves-{axis}": plot_curves(comparison, axis) for axis in AXES}
        figures["losses"] = plot_losses(comparison)
        if comparison.trade_offs is not None:
            figures["trade_offs"] = plot_trade_offs(comparison)
    plots = {name: png(figure) for name, figure in figures.items()}
    contents: dict[str, str | bytes] = {
        "report.html": render(comparison, plots),
        "comparison.json": json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n",
        **{f"{name}.csv": _csv(list(fields), rows) for name, (fields, rows) in comparison.tables.items()},
        **{f"{name}.png": data for name, data in plots.items()},
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return [folder / name for name in contents]


def render(comparison: Comparison, plots: Mapping[str, bytes]) -> str:
    """Returns the report as one self-contained HTML page.

    Everything that comes from run folders is escaped text.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "loss": loss_text,
        "share": _share,
        "p": _p,
        "count": _count,
        "shown": shown,
        "point": point_text,
    }
    environment.filters["interval"] = lambda ends, kind: interval_text(*map(environment.filters[kind], ends))
    template = environment.from_string(files("nosbench_env.comparison").joinpath(_TEMPLATE).read_text("utf-8"))
    axes = [comparison.axis, *(axis for axis in AXES if axis != comparison.axis)]
    return template.render(
        comparison=comparison,
        budget=spent(comparison.axis, comparison.budget),
        budget_is_less=any(run.spent(comparison.axis)[-1] > comparison.budget for run in comparison.all_runs),
        axes=[(axis, AXIS_NAMES[axis]) for axis in axes],
        plots={name: base64.b64encode(data).decode() for name, data in plots.items()},
        programs=[(group.label, _programs(comparison, group)) for group in comparison.groups],
        configs=[(group.label, json.dumps(group.config, indent=1)) for group in comparison.groups],
        sources=SOURCES,
        front=_front(comparison),
        fields={f"{name}.csv": fields for name, (fields, _) in comparison.tables.items()},
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        versions=made_by(),
    )


def loss_text(loss: float | None) -> str:
    """Returns a loss as short text."""
    return "-" if loss is None or not math.isfinite(loss) else f"{loss:.4f}" if abs(loss) < 1e4 else f"{loss:.4g}"


def interval_text(low: str, high: str) -> str:
    """Returns an interval as text, given its ends as text."""
    return low if low == high == "-" else f"{low} to {high}"


def point_text(names: Sequence[str], point: Sequence[float]) -> str:
    """Returns a point as text: its coordinates with their names."""
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, point, strict=True))


def _programs(comparison: Comparison, group: RunGroup) -> list[dict[str, Any]]:
    """Returns the report's data of a method's best programs."""
    return [
        {"loss": entry.loss, "seed": run.seed, "number": entry.number} | _shown_program(entry.program)
        for run, entry in comparison.best_programs(group)
    ]


def _front(comparison: Comparison) -> list[dict[str, Any]]:
    """Returns the report's data of the common front."""
    return [
        {
            "method": program.method,
            "loss": program.entry.loss,
            "costs": program.point[1:],
            "pseudocode": pseudocode(program.entry.program),
        }
        for program in (comparison.trade_offs.common if comparison.trade_offs is not None else ())
    ]


def _shown_program(program: Candidate) -> dict[str, Any]:
    """Returns a program's report data; of other optimizers, the text."""
    text = str(program)
    if not isinstance(program, Program):
        return {"program": text, "behaviour": "hyperparameters", "pseudocode": text, "instructions": None}
    form = canonical_form(program)
    return {
        "program": text,
        "behaviour": form.behaviour,
        "pseudocode": pseudocode(program),
        "instructions": len(program),
        "simplified": str(program.simplified()),
        "form": str(form),
    }


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([_cell(row[name]) for name in fields] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


def _cell(value: Any) -> Any:
    """Returns a cell, empty if not finite, never a spreadsheet formula."""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
