"""Generates tables and the command line's reference at every build, so that they cannot go stale.

A page asks for one by `<!-- generated: NAME -->`, or `<!-- generated: NAME ARGUMENT -->`, with a name in `GENERATED`.
Pages may show the plots in `benchmarks/results/`; they become part of the site.
"""

from __future__ import annotations

import csv
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, SLOT_NAMES
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.tasks import TASKS, make_task

RESULTS = Path(__file__).parents[1] / "benchmarks/results"


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the plots of the results to the site. Called by mkdocs."""
    for plot in sorted(RESULTS.rglob("*.png")):
        name = f"results/{plot.relative_to(RESULTS).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in a page. Called by mkdocs with every page."""

    def generate(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        if name not in GENERATED:
            raise PluginError(f"nothing generates {name!r}; known are {', '.join(GENERATED)}")
        return GENERATED[name](*arguments)

    markdown = markdown.replace("](../benchmarks/results/", "](results/")
    return re.sub(r"<!-- generated: (.+?) -->", generate, markdown)


def functions() -> str:
    """The paper's Table 1."""
    kinds = {1: "unary", 2: "binary", 3: "ternary"}
    return _table(
        ["number", "function", "inputs", "value"],
        (
            [str(number), f"`{function.name}`", kinds[function.arity], f"{function.meaning}".replace("**", r"\*\*")]
            for number, function in enumerate(FUNCTIONS.values())
        ),
    )


def memory() -> str:
    """The paper's Table 2."""
    meanings = {"param": "the parameter", "grad": "its gradient", "step": "the step, 1 at the first execution"}
    fixed = [
        [str(slot), f"`{name}`", meanings.get(name, f"the constant {name}"), "no"]
        for slot, name in enumerate(SLOT_NAMES[:FIRST_WRITABLE_SLOT])
    ]
    last = SearchSpace().memory_size - 1
    registers = f"`{SLOT_NAMES[FIRST_WRITABLE_SLOT]}` to `{SLOT_NAMES[last]}`"
    rest = [f"{FIRST_WRITABLE_SLOT} to {last}", registers, "0 at first; kept from step to step", "yes"]
    return _table(["slot", "written", "holds", "can be written to"], [*fixed, rest])


def known_programs() -> str:
    """The known programs, with their costs."""
    from nosbench_env.language.costs import program_costs

    def row(name: str) -> list[str]:
        program = KNOWN_PROGRAMS[name]
        costs = program_costs(program)
        return [f"`{name}`", *map(str, (len(program), len(program.simplified()), costs.memory, costs.operations))]

    head = [
        "name",
        "instructions",
        "live instructions",
        "state per parameter (floats)",
        "operations per parameter and step",
    ]
    return _table(head, map(row, KNOWN_PROGRAMS))


def baselines() -> str:
    """The optimizers that a search has to beat."""
    from nosbench_env.candidates.baselines import BASELINES
    from nosbench_env.candidates.optimizer_config import OptimizerConfig

    return _table(
        ["name", "group", "optimizer"],
        (
            [
                f"`{name}`",
                baseline.group,
                f"`{baseline.candidate}`" if isinstance(baseline.candidate, OptimizerConfig) else "the known program",
            ]
            for name, baseline in BASELINES.items()
        ),
    )


def scores() -> str:
    """The recorded results of the baselines on the PFN task."""
    with (RESULTS / "baselines/scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = ("mean", "sd", "lowest", "highest", "paper")
    return _table(
        ["optimizer", "mean loss", "standard deviation", "lowest", "highest", "the paper's code"],
        ([row["name"], *(f"{float(row[column]):.3f}" if row[column] else "" for column in columns)] for row in rows),
    )


def tasks() -> str:
    """The tasks."""
    made = {name: make_task(name, device="cpu") for name in TASKS}
    return _table(
        ["name", "epochs", "steps each", ""],
        (
            [f"`{name}`", str(task.default_epochs), str(task.steps_per_epoch), _first_line(type(task))]
            for name, task in made.items()
        ),
    )


def reference(package: str) -> str:
    """The API of a package's public names, for mkdocstrings to fill in."""
    module = import_module(f"nosbench_env.{package}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value) and getattr(value, "__module__", "") != "typing"
    ]
    return "\n".join(f"::: nosbench_env.{package}.{name}" for name in names)


def commands() -> str:
    """Every command with its arguments and options, as typer documents it."""
    typer = [sys.executable, "-m", "typer", "nosbench_env.cli.app", "utils", "docs", "--name", "nosbench"]
    run = subprocess.run(typer, capture_output=True, text=True, encoding="utf-8")
    if run.returncode:
        raise PluginError(f"typer could not document the command line:\n{run.stderr}")
    _, _, text = run.stdout.partition("\n")  # without its title: the page has one
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", text)  # lists of half sentences: the page has a contents
    return text.replace("` / --no-", "`--no-")  # a flag that only its negation is for


GENERATED: dict[str, Callable[..., str]] = {
    made.__name__: made
    for made in (
        functions,
        memory,
        known_programs,
        baselines,
        scores,
        tasks,
        reference,
        commands,
    )
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").split("\n\n")[0].replace("\n", " ")
