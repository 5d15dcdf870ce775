"""The identities that the study of the cache compares: by which key each of them knows a program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nosbench_env.identity.identify import Identity, identify
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import Task, probe_of

IDENTITIES: tuple[Identity, ...] = ("paper", "canonical", "fingerprint")
_SAMPLE = 25  # keys of a file that are computed again, to see whether an identity's version has changed


class Key(NamedTuple):
    """What an identity knows a program by.

    Attributes:
        text: Equal for programs that are taken to be the same.
        diverged: Whether the identity's probe says that the program diverges, so that it is not trained.
    """

    text: str
    diverged: bool


def key_of(program: Program, identity: Identity, task: Task) -> Key:
    """The key of a program on a task. "canonical" has no probe: "fingerprint" says for it what diverges."""
    text, status = identify(program, identity, probe_of(task))
    if identity == "canonical":
        _, status = identify(program, "fingerprint", probe_of(task))
    return Key(text, status != "ok")


def keys_of(programs: Sequence[Program], identity: Identity, task: Task, file: Path | None = None) -> list[Key]:
    """The keys of a run's programs, from the file if it holds them, else computed and written there.

    A file of other programs, or of another version of the identity, is written anew.
    """
    if file is None:
        return [key_of(program, identity, task) for program in programs]
    digest = hashlib.sha256(json.dumps([program.to_json() for program in programs]).encode()).hexdigest()
    try:
        data = json.loads(file.read_text())
        if data["programs"] == digest:
            distinct = [Key(str(text), bool(diverged)) for text, diverged in data["distinct"]]
            keys = [distinct[index] for index in data["keys"]]
            if keys[:_SAMPLE] == [key_of(program, identity, task) for program in programs[:_SAMPLE]]:
                return keys
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        pass  # not there, or damaged: it only saves time
    keys = [key_of(program, identity, task) for program in programs]
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    write_text(file, json.dumps({"programs": digest, "distinct": list(number), "keys": [number[key] for key in keys]}))
    return keys


def write_text(file: Path, text: str) -> None:
    """Writes a file that is whole at any moment."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, data: bytes) -> None:
    """Writes a file that is whole at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(file)
