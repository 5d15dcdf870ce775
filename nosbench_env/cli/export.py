"""The command `nosbench export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nosbench_env.cli.arguments import read_program
from nosbench_env.cli.options import ProgramArgument

# The command imports torch when it runs, so that --help answers at once.


class Target(StrEnum):
    """The forms of an exported program."""

    torch = "torch"
    optax = "optax"
    latex = "latex"
    json = "json"
    python = "python"


def export(
    program: ProgramArgument,
    to: Annotated[
        Target,
        typer.Option(
            help="`torch`: a file with a torch.optim.Optimizer that needs only torch. `optax`: the same for JAX. "
            "`latex`: pseudocode as in the paper. `json`: data. `python`: a step to edit by hand. `nosbench evaluate` "
            "reads the last two."
        ),
    ] = Target.torch,
    output: Annotated[Path | None, typer.Option(help="The file to write. Default: print it.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the class, or the caption. Default: the program's known name, if any."),
    ] = None,
    standalone: Annotated[bool, typer.Option("--standalone", help="With `latex`: write a complete document.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Exports a program as code for training, pseudocode or data.

    For example:

    * `nosbench export Incumbent --to torch --output incumbent.py`
    * `nosbench export runs/my-run/best.txt --to torch --name MyOptimizer --output my_optimizer.py`
    * `nosbench export AdamW --to latex --standalone --output adamw.tex`
    """
    if standalone and to is not Target.latex:
        raise ValueError(f"--standalone is for --to latex, got --to {to}")
    exported = read_program(program)
    if output is not None and output.exists() and not force:
        raise ValueError(f"{output} exists; --force overwrites it")
    from nosbench_env.export import to_json, to_latex, to_optax, to_python, to_torch
    from nosbench_env.language.known_programs import known_name

    title = name or known_name(program)
    match to:
        case Target.torch:
            text = to_torch(exported, name)
        case Target.optax:
            text = to_optax(exported, name)
        case Target.latex:
            text = to_latex(exported, title, standalone=standalone)
        case Target.json:
            text = to_json(exported, title)
        case Target.python:
            text = to_python(exported)
    if output is None:
        print(text, end="")
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{output} can't be written ({error.strerror})") from None
    print(f"Written to {output}")
