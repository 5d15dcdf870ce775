"""Options, exit codes and the handling of Ctrl-C, shared by all commands."""

from __future__ import annotations

import functools
import inspect
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

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
        help=f"A known program ({', '.join(KNOWN_PROGRAMS)}); a program's text, such as 'r9 = mul(grad, 0.01)'; "
        "or a file with its text, its JSON form, or, as .py, a step in Python.",
        autocompletion=completion.programs,
    ),
]
TaskOption = Annotated[
    str,
    typer.Option(
        help="`pfn` (the paper's task), `toy` (trains in under a second), `mlp` (a deep classifier of digits, "
        "cross-validated), or the classifier on other data: `mlp-breast-cancer`, `mlp-iris`, `mlp-wine`, "
        "`mlp-openml-ID`.",
        autocompletion=completion.tasks,
    ),
]
EpochsOption = Annotated[
    int | None, typer.Option(help="Length of training. Default: the task's (pfn: 20, as in the paper).")
]
ArithmeticOption = Annotated[
    str,
    typer.Option(
        help="`float32`, or `tf32`: faster on a GPU and less exact. Results of the two are kept apart.",
        autocompletion=completion.arithmetics,
    ),
]
IdentityOption = Annotated[
    str,
    typer.Option(
        help="Programs that share a result: `fingerprint` (equal on the task's probe), `canonical` (equal for certain) "
        "or `paper` (equal on the paper's proxy).",
        autocompletion=completion.identities,
    ),
]
ShippedOption = Annotated[
    bool,
    typer.Option(" /--no-shipped", show_default=False, help="Ignore the results that come with the package."),
]
DeviceOption = Annotated[
    str,
    typer.Option(help="`auto` (a GPU if available), `cpu`, `cuda` or `cuda:N`.", autocompletion=completion.devices),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="The result store: a file, `sqlite:///file`, or `postgresql://user@host/database`. "
        "Default: the environment variable NOSBENCH_STORE, or a file in the user's cache folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def on_terminal() -> bool:
    """Returns True if standard error is a terminal, for progress bars."""
    return sys.stderr is not None and sys.stderr.isatty()


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Aligns cells in indented columns: those in `left` left, others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "    "
        + "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def counted_epochs(count: int) -> str:
    """Returns "1 epoch", "2 epochs" and so on."""
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Turns a command's dataclass `options` into an option per field.

    Typer reads options from a signature. So commands that share many can name them once, in a dataclass.
    """
    signature = inspect.signature(command, eval_str=True)
    options = signature.parameters["options"].annotation
    shared = inspect.signature(options, eval_str=True).parameters.values()
    own = [parameter for name, parameter in signature.parameters.items() if name != "options"]

    @functools.wraps(command)
    def spread(**values: Any) -> None:
        taken = {parameter.name: values.pop(parameter.name) for parameter in shared}
        command(options=options(**taken), **values)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *shared)]
    spread.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread


@contextmanager
def interruptible(message: Callable[[], str]) -> Iterator[None]:
    """Ends the command with a message on Ctrl-C; ignores a second."""
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
    """Makes the oracle for a command's options."""
    from nosbench_env.oracles.oracle import Oracle

    checked = cast("Identity", identity)  # the oracle checks it
    return Oracle(task, store, device, checked, workers, arithmetic, shipped)
