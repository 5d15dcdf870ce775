"""The identities of the cache study, and their keys of programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nosbench_env.identity.identify import Identity, identify
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import Task, probe_of
from nosbench_env.whole_files import write_whole

IDENTITIES: tuple[Identity, ...] = ("paper", "canonical", "fingerprint")
_SAMPLE = 25  # keys of a file that are computed again, to detect a new version of the identity


class Key(NamedTuple):
    """The key of a program by an identity.

    Attributes:
        text: Equal for programs that the identity merges.
        diverged: True if the program diverges on the identity's probe, so that it is not trained.
    """

    text: str
    diverged: bool


def key_of(program: Program, identity: Identity, task: Task) -> Key:
    """Returns the key of a program on a task.

    "canonical" has no probe: divergence is that on the probe of "fingerprint".
    """
    text, status = identify(program, identity, probe_of(task))
    if identity == "canonical":
        _, status = identify(program, "fingerprint", probe_of(task))
    return Key(text, status != "ok")


def keys_of(programs: Sequence[Program], identity: Identity, task: Task, file: Path | None = None) -> list[Key]:
    """Returns the keys of programs, and keeps them in a file.

    A file of other programs, or of another version of the identity, is replaced.
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
        pass  # missing or damaged; the file only saves time
    keys = [key_of(program, identity, task) for program in programs]
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"programs": digest, "distinct": list(number), "keys": [number[key] for key in keys]}))
    return keys
