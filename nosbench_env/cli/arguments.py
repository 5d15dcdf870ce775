"""Programs and library optimizers as arguments: names, texts or files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nosbench_env.candidates.baselines import BASELINES, baseline_name
from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.optimizer_config import LIBRARIES, OptimizerConfig
from nosbench_env.language.known_programs import KNOWN_PROGRAMS, known_name
from nosbench_env.language.program import InvalidProgram, Program

BEST = "best.txt"  # as in agents.run_folder, whose import would load torch
_MAX_FILE = 1 << 20  # bytes of a program file
_MAX_TEXT = 1 << 16  # characters of a file that holds an optimizer
_MAX_LABEL = 40  # characters of a name in a plot
_OPTIMIZER = re.compile(rf"(?:{'|'.join(map(re.escape, LIBRARIES))})\.")


def read_program(argument: str) -> Program:
    """Reads a program: a known name (any case), file or text.

    A file holds a program's text, its JSON form, or the output of `nosbench export --to json`. A file whose name ends
    in .py holds a step in Python (see `Program.from_python`), which is parsed and never executed.

    Raises:
        InvalidProgram: If the argument is none of these, or malformed; the message names the file.
    """
    if (name := known_name(argument)) is not None:
        return KNOWN_PROGRAMS[name]
    if "=" in argument and not os.path.exists(argument):
        return Program.parse(argument)
    try:
        with open(argument, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidProgram(
            f"{argument!r} is no known program ({', '.join(KNOWN_PROGRAMS)}), "
            f"no program text such as 'r9 = mul(grad, 0.01)', and no file that can be read ({reason})"
        ) from None
    if len(data) > _MAX_FILE:
        raise InvalidProgram(f"{argument}: a program file has at most {_MAX_FILE:,} bytes")
    try:
        text = data.decode("utf-8-sig")  # with or without a byte order mark
        if argument.endswith(".py"):
            return Program.from_python(text)
        return Program.from_json(_program_of(json.loads(text))) if _is_json(text) else Program.parse(text)
    except UnicodeDecodeError:
        raise InvalidProgram(f"{argument} is no text in UTF-8; save it as that") from None
    except (ValueError, RecursionError) as error:
        raise InvalidProgram(f"{argument}: {error}") from None


def read_candidate(argument: str) -> Candidate:
    """Reads a candidate: a baseline, optimizer, run folder or program.

    A run folder stands for its best program. A file may hold an optimizer too: its text, or its JSON form.

    Raises:
        InvalidProgram, ValueError: If the argument is none of these, or malformed.
    """
    if (name := baseline_name(argument)) is not None:
        return BASELINES[name].candidate
    path = Path(argument)
    if _is_folder(path):
        path /= BEST
        if not path.exists():
            raise ValueError(
                f"{argument} is a folder without {BEST}: it is no run folder, or its search has found nothing yet. "
                "Name a run folder, a file or a program"
            )
    text = _without_comments(_text(path) or argument)
    if _OPTIMIZER.match(text):
        return OptimizerConfig.parse(text)
    if text.startswith("{") and '"optimizer"' in text:
        try:
            return OptimizerConfig.from_json(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from None
    return read_program(str(path) if path.name == BEST else argument)


def named_candidates(arguments: Sequence[str]) -> dict[str, Candidate]:
    """Reads candidates under short names; equal names get numbers.

    Raises:
        InvalidProgram, ValueError: As `read_candidate` does.
    """
    candidates: dict[str, Candidate] = {}
    for argument in arguments:
        label = _label(argument)
        number = 2
        while (name := label if number == 2 and label not in candidates else f"{label} ({number})") in candidates:
            number += 1
        candidates[name] = read_candidate(argument)
    return candidates


def _label(argument: str) -> str:
    """Returns a baseline's or run folder's name, or the argument's beginning."""
    path = Path(argument)
    label = path.parent.name if path.name == BEST and path.parent.name else " ".join(argument.split()).rstrip("/")
    return baseline_name(label) or (label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…")


def _is_json(text: str) -> bool:
    return text.lstrip().startswith(("[", "{"))


def _program_of(data: Any) -> Any:
    """Returns a program's JSON form, bare or from an exported file."""
    return data["program"] if isinstance(data, dict) and "program" in data else data


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a text is no path: too long, or with characters that paths can't have
        return False


def _text(path: Path) -> str | None:
    """Returns the beginning of a text file; None if there is none."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(_MAX_TEXT)
    except (OSError, ValueError):
        return None


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).strip()
