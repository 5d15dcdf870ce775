"""What the commands of the command line share: options, exit codes, and what Ctrl-C does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from nosbench_env import completion

EXIT_WRONG, EXIT_BUG, EXIT_INTERRUPTED = 2, 1, 130

DeviceOption = Annotated[
    str,
    typer.Option(help="`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:N`.", autocompletion=completion.devices),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="Where results are kept: a file, `sqlite:///file`, or `postgresql://user@host/database`. "
        "Default: the environment variable NOSBENCH_STORE, or a file in the user's cache folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def on_terminal() -> bool:
    """Whether progress is seen by somebody; in a log, a bar would be drawn over and over."""
    return sys.stderr is not None and sys.stderr.isatty()


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Cells in columns, indented: to the left in those columns, to the right in all others."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "    "
        + "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Ends the command with a message on Ctrl-C; pressing it again does no harm."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f"\n{message()}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
