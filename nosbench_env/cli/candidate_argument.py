"""Arguments of commands that may be optimizers of libraries as well as programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from nosbench_env.candidates.baselines import BASELINES, baseline_name
from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.optimizer_config import LIBRARIES, OptimizerConfig
from nosbench_env.cli.arguments import read_program

BEST = "best.txt"  # where a run folder has the best program
_MAX_LABEL = 40  # characters of a name in a picture
_MAX_TEXT = 1 << 16  # characters of a file that holds an optimizer
_OPTIMIZER = re.compile(rf"(?:{'|'.join(map(re.escape, LIBRARIES))})\.")


def read_candidate(argument: str) -> Candidate:
    """A baseline by its name (in any case), an optimizer's text, a run folder's best, or what `read_program` reads.

    A file may hold an optimizer too: its text, or its JSON form.

    Raises:
        InvalidProgram, ValueError: If it is none of these, or malformed.
    """
    if (name := baseline_name(argument)) is not None:
        return BASELINES[name].candidate
    path = Path(argument)
    if _is_folder(path):
        path /= BEST
        if not path.exists():
            raise ValueError(f"{argument} is a folder, but no run folder that has found something: {BEST} is missing")
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
    """What arguments stand for, by short names to show: equal names are told apart by numbers, and none is lost.

    Raises:
        InvalidProgram, ValueError: As `read_candidate` does.
    """
    found: dict[str, Candidate] = {}
    for argument in arguments:
        label = _label(argument)
        number = 2
        while (name := label if number == 2 and label not in found else f"{label} ({number})") in found:
            number += 1
        found[name] = read_candidate(argument)
    return found


def _label(argument: str) -> str:
    """What to call an argument in a picture: a baseline's name, a run folder's, or its beginning."""
    path = Path(argument)
    label = path.parent.name if path.name == BEST and path.parent.name else " ".join(argument.split()).rstrip("/")
    return baseline_name(label) or (label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 1]}…")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a text is no path: too long, or with characters that paths can't have
        return False


def _text(path: Path) -> str | None:
    """The beginning of a text file; None if there is none."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(_MAX_TEXT)
    except (OSError, ValueError):
        return None


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).strip()
