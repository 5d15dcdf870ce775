"""Atomic writes: a file gets its name once it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` when the block ends.

    If the block raises, the file is deleted and `path` stays as it was.

    The data goes to a temporary file in the same folder and is on disk before the name changes, so a kill or a power
    cut leaves either the old file or the new one.

    Raises:
        OSError: If the folder does not exist or the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | str) -> None:
    """Writes bytes or UTF-8 text by `whole_file`."""
    with whole_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
