"""The command `nosbench`."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from dataclasses import asdict
from typing import Annotated

import typer

from nosbench_env.cli.baselines import baselines, plot
from nosbench_env.cli.compare import compare
from nosbench_env.cli.evaluate import evaluate
from nosbench_env.cli.export import export
from nosbench_env.cli.options import EXIT_BUG, EXIT_INTERRUPTED, EXIT_WRONG, JsonOption, StoreOption
from nosbench_env.cli.program import program_app
from nosbench_env.cli.search import search
from nosbench_env.cli.store import store_app
from nosbench_env.cli.study import study_app

# Commands import torch when they run, so that --help answers at once.

app = typer.Typer(
    name="nosbench",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Neural optimizer search: evaluate optimizers that are short programs, and search for better ones.\n\n"
    "Start with `nosbench doctor`, then `nosbench evaluate Adam --task toy`, "
    "then `nosbench search --task toy --budget 200`.",
    rich_markup_mode="markdown",
)


for _command in (evaluate, search, compare, baselines, plot, export):
    app.command()(_command)


@app.command()
def doctor(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Checks the installation: versions, devices, store, results of small trainings.

    The exit code is 0 if all checks pass, else 2.
    """
    from nosbench_env.cli.doctor import examine

    findings = examine(store)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check:<18} {finding.result}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(EXIT_WRONG)


for _group in (program_app, study_app, store_app):
    app.add_typer(_group)


@app.callback(invoke_without_command=True)
def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from nosbench_env.versions import installed_version

        print(installed_version("nosbench_env"))
        raise typer.Exit


def main() -> None:
    """Runs the command line.

    An error prints one message. The exit code is 2 if the user can mend the cause.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for a path that the terminal can't show
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `nosbench ... | head`
        _discard_output()
        sys.exit(EXIT_BUG)
    except OSError as error:
        if sys.stdout is not None and not sys.stdout.isatty():
            _discard_output()
        _fail(f"{error}. What was finished before is kept", EXIT_WRONG)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        from nosbench_env.store import StoreError
        from nosbench_env.tasks.worker_pool import WorkerError

        if isinstance(error, (ValueError, StoreError, WorkerError)):
            _fail(str(error), EXIT_WRONG)
        if os.environ.get("NOSBENCH_DEBUG"):
            traceback.print_exc()
        _fail(
            f"{type(error).__name__}: {error}\n"
            "This should not happen. NOSBENCH_DEBUG=1 shows where it did; please report it.",
            EXIT_BUG,
        )


def _discard_output() -> None:
    """Discards pending output, which Python would retry at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> None:
    print(f"nosbench: {message}", file=sys.stderr)
    sys.exit(code)
