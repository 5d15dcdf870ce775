"""What the commands of the command line share: options, exit codes, and what Ctrl-C does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, cast

import typer

from nosbench_env.cli import completion
from nosbench_env.language.known_programs import KNOWN_PROGRAMS

if TYPE_CHECKING:
    from nosbench_env.identity.identify import Identity
    from nosbench_env.oracles.oracle import Oracle

EXIT_WRONG, EXIT_BUG, EXIT_INTERRUPTED = 2, 1, 130

ProgramArgument = Annotated[
    str,
    typer.Argument(
        metavar="PROGRAM",
        help=f"One of {', '.join(KNOWN_PROGRAMS)}; or a program's text, such as 'r9 = mul(grad, 0.01)'; "
        "or a file that holds its text or JSON form, or, as .py, a step in Python.",
        autocompletion=completion.programs,
    ),
]
TaskOption = Annotated[
    str,
    typer.Option(
        help="`pfn`, the paper's task; `toy`, which takes less than a second; `mlp`, a deep classifier of "
        "digits, cross-validated; `mlp-breast-cancer`, `mlp-iris`, `mlp-wine`, `mlp-openml-ID` on other data.",
        autocompletion=completion.tasks,
    ),
]
EpochsOption = Annotated[
    int | None, typer.Option(help="Length of training. Default: the task's (pfn: 20, as in the paper).")
]
ArithmeticOption = Annotated[
    str,
    typer.Option(
        help="`float32`, or `tf32`: faster on a GPU, less exact, with results of its own.",
        autocompletion=completion.arithmetics,
    ),
]
IdentityOption = Annotated[
    str,
    typer.Option(
        help="Which programs share a result: `fingerprint` (those that do the same on the task's probe), `canonical` "
        "(only those that are the same for certain) or `paper` (those that the paper's proxy can't tell apart).",
        autocompletion=completion.identities,
    ),
]
ShippedOption = Annotated[
    bool,
    typer.Option(" /--no-shipped", show_default=False, help="Leave aside the results that come with the package."),
]
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


def make_oracle(
    task: str,
    store: str | None,
    device: str,
    arithmetic: str,
    identity: str,
    shipped: bool,
    workers: int | None = None,
) -> Oracle:
    """The oracle that the options ask for."""
    from nosbench_env.oracles.oracle import Oracle

    known = cast("Identity", identity)  # it says so if it is not
    return Oracle(task, store, device, known, workers, arithmetic, shipped)
