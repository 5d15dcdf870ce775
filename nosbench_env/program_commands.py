"""The commands `nosbench program`: what a program is made of, which of it matters, and whether it can be tuned."""

from __future__ import annotations

import typer

from nosbench_env.cost_commands import cost

# The commands import torch and what needs it when they run, so that --help answers at once.

program_app = typer.Typer(
    name="program",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Look closer at one program: what of it matters, and how finely it is tuned.",
    rich_markup_mode="markdown",
)


@program_app.callback()
def _program() -> None:
    """Look closer at one program: what of it matters, and how finely it is tuned."""


program_app.command()(cost)
