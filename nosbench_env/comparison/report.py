"""The files of a comparison: tables as CSV, all of it as JSON, pictures, and one report that shows it all."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.comparison.comparison import (
    AXIS_NAMES,
    Comparison,
    spent,
    versions,
)
from nosbench_env.comparison.pictures import draw_curves, draw_losses, draw_trade_offs
from nosbench_env.comparison.runs import AXES, SOURCES, Method, shown
from nosbench_env.comparison.statistics import CONFIDENCE, RESAMPLES
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.pseudocode import pseudocode

_TEMPLATE = "report.html.jinja"


def write_report(comparison: Comparison, folder: Path, *, plots: bool = True) -> list[Path]:
    """Writes all files into a folder, over those of an earlier comparison; the same comparison gives the same files.

    Args:
        comparison: What to write.
        folder: Where to; it is made if it is not there.
        plots: Whether to draw pictures, which needs matplotlib.

    Returns:
        The files; the first is the report, which needs none of the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    if plots:
        pictures = {f"curves-{axis}": draw_curves(comparison, axis) for axis in AXES}
        pictures["losses"] = draw_losses(comparison)
        if comparison.trade_offs is not None:
            pictures["trade_offs"] = draw_trade_offs(comparison)
    written = [folder / "report.html", folder / "comparison.json"]
    written[0].write_text(render(comparison, pictures), encoding="utf-8")
    text = json.dumps(comparison.to_json(), indent=1, allow_nan=False)
    written[1].write_text(text + "\n", encoding="utf-8")
    for name, (fields, rows) in comparison.tables.items():
        written.append(folder / f"{name}.csv")
        _write_csv(written[-1], list(fields), rows)
    for name, data in pictures.items():
        written.append(folder / f"{name}.png")
        written[-1].write_bytes(data)
    return written


def render(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """The report: one HTML page that needs nothing else, and in which everything from the runs is text."""
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
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        programs=[(method, _programs(comparison, method)) for method in comparison.methods],
        configs=[(method.label, json.dumps(method.config, indent=1)) for method in comparison.methods],
        sources=SOURCES,
        front=_front(comparison),
        fields={f"{name}.csv": fields for name, (fields, _) in comparison.tables.items()},
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        versions=versions(),
    )


def loss_text(loss: float | None) -> str:
    """A loss for people."""
    return "-" if loss is None or not math.isfinite(loss) else f"{loss:.4f}" if abs(loss) < 1e4 else f"{loss:.4g}"


def interval_text(low: str, high: str) -> str:
    """An interval for people, of ends that are."""
    return low if low == high == "-" else f"{low} to {high}"


def point_text(names: Sequence[str], point: Sequence[float]) -> str:
    """A point for people: its coordinates with their names."""
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, point, strict=True))


def _programs(comparison: Comparison, method: Method) -> list[dict[str, Any]]:
    """What the report shows of a method's best programs."""
    return [
        {"loss": entry.loss, "seed": run.seed, "number": entry.number} | _shown_program(entry.program)
        for run, entry in comparison.best_programs(method)
    ]


def _front(comparison: Comparison) -> list[dict[str, Any]]:
    """What the report shows of the common front."""
    found = comparison.trade_offs.common if comparison.trade_offs is not None else ()
    return [
        {
            "method": one.method,
            "loss": one.entry.loss,
            "costs": one.point[1:],
            "pseudocode": pseudocode(one.entry.program),
        }
        for one in found
    ]


def _shown_program(program: Candidate) -> dict[str, Any]:
    """A program with its pseudocode and more; of an optimizer of a library there is nothing but its text."""
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


def _write_csv(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(fields)
        writer.writerows([_cell(row[name]) for name in fields] for row in rows)


def _cell(value: Any) -> Any:
    """A value for a table; nothing where a number is not finite, and nothing that a spreadsheet would compute."""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
