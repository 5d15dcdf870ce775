"""The argument PROGRAM of commands: a known name, a text, or a file."""

from __future__ import annotations

import json
import os
from typing import Any

from nosbench_env.language.known_programs import KNOWN_PROGRAMS, known_name
from nosbench_env.language.program import InvalidProgram, Program

_MAX_FILE = 1 << 20  # bytes of a program file


def read_program(argument: str) -> Program:
    """A known program by its name (in any case), else one in a file, else one as text.

    A file holds a program's text, its JSON form, what `nosbench export --to json` writes, or, if its name ends in .py,
    a step in Python (see `Program.from_python`), which is read and not executed.

    Raises:
        InvalidProgram: If it is none of these, or malformed; the message names the file.
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


def _is_json(text: str) -> bool:
    return text.lstrip().startswith(("[", "{"))


def _program_of(data: Any) -> Any:
    """The program's JSON form: the data, or what an exported file has under "program"."""
    return data["program"] if isinstance(data, dict) and "program" in data else data
