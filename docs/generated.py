"""Fills in what pages show of the code, at every build: tables and the command line's reference can't go stale.

A page asks for it by `<!-- generated: NAME -->`, or `<!-- generated: NAME ARGUMENT -->`, with a name in `GENERATED`.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

from mkdocs.exceptions import PluginError

from nosbench_env import FUNCTIONS, KNOWN_PROGRAMS
from nosbench_env.program import FIRST_WRITABLE_SLOT, SLOT_NAMES
from nosbench_env.search_space import SearchSpace
from nosbench_env.tasks import TASKS, make_task


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with every page."""

    def generate(match: re.Match[str]) -> str:
        name, *arguments = match[1].split()
        if name not in GENERATED:
            raise PluginError(f"nothing generates {name!r}; known are {', '.join(GENERATED)}")
        return GENERATED[name](*arguments)

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
    """The known programs, with what they cost."""
    from nosbench_env.costs import program_costs

    def row(name: str) -> list[str]:
        program = KNOWN_PROGRAMS[name]
        costs = program_costs(program)
        return [f"`{name}`", *map(str, (len(program), len(program.simplified()), costs.memory, costs.operations))]

    head = [
        "name",
        "instructions",
        "of which matter",
        "state per parameter (floats)",
        "operations per parameter and step",
    ]
    return _table(head, map(row, KNOWN_PROGRAMS))


def baselines() -> str:
    """The optimizers that a search has to beat."""
    from nosbench_env.baselines import BASELINES
    from nosbench_env.optimizer_config import OptimizerConfig

    return _table(
        ["name", "group", "what it is", "final loss of the paper's code"],
        (
            [
                f"`{name}`",
                found.group,
                f"`{found.candidate}`" if isinstance(found.candidate, OptimizerConfig) else "the known program",
                "" if found.paper_loss is None else f"{found.paper_loss:.2f}",
            ]
            for name, found in BASELINES.items()
        ),
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


def agents() -> str:
    """The search methods."""
    from nosbench_env.agents import AGENTS

    return _table(
        ["name", "class", ""],
        ([f"`{name}`", f"`{_class(make).__name__}`", _first_line(_class(make))] for name, make in AGENTS.items()),
    )


def wrappers() -> str:
    """The wrappers of the environments."""
    from nosbench_env import wrappers

    classes = [getattr(wrappers, name) for name in wrappers.__all__]
    return _table(
        ["wrapper", ""],
        (
            [f"[`{found.__name__}`][nosbench_env.wrappers.{found.__name__}]", _first_line(found)]
            for found in classes
            if inspect.isclass(found)
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
    typer = [sys.executable, "-m", "typer", "nosbench_env.cli", "utils", "docs", "--name", "nosbench"]
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
        tasks,
        agents,
        wrappers,
        reference,
        commands,
    )
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").split("\n\n")[0].replace("\n", " ")


def _class(make: Any) -> type:
    """The class that an entry of `AGENTS` makes an agent of."""
    found: type = getattr(make, "func", make)
    return found
