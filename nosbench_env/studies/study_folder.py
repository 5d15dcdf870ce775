"""The folder of a study: held against other processes, of one configuration, its files whole at any moment."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from nosbench_env.studies.identities import write_bytes, write_text

Row = dict[str, Any]


class StudyError(ValueError):
    """The study's folder can't be used. What is in it is untouched."""


class StudyFolder:
    """Where a study keeps everything.

    Args:
        path: The folder; it is made when it is opened.
        option: How the command calls it, for messages.
    """

    def __init__(self, path: Path | str, option: str = "--folder") -> None:
        self.path, self._option = Path(path), option

    @contextmanager
    def opened(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Makes the folder if it is new, and holds it against other processes.

        Args:
            config: What may not change between one call and the next; kept in `config.json`.

        Raises:
            StudyError: If the folder is in use, of another configuration or damaged, or can't be used.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except filelock.Timeout:
            raise StudyError(
                f"{self.path} is in use by another process; wait for it or choose another folder with {self._option}"
            ) from None
        except OSError as error:
            raise StudyError(
                f"can't use the folder {self.path}: {error}; choose another with {self._option}"
            ) from error
        try:
            self._check_config(config)
            yield
        finally:
            lock.release()

    def write_text(self, name: str, text: str) -> None:
        """Writes a file of the folder."""
        write_text(self.path / name, text)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file of the folder."""
        write_bytes(self.path / name, data)

    def write_json(self, name: str, data: Any) -> None:
        """Writes JSON data, which must hold no number that is not finite."""
        self.write_text(name, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes a table; its header is the first row's names."""
        text = io.StringIO()
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self.write_text(name, text.getvalue())

    def read_json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; an empty one if there is no such file."""
        try:
            data = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            raise StudyError(f"can't read {self.path / name}: {error}; delete it or choose another folder") from error
        if not isinstance(data, dict):
            raise StudyError(f"{self.path / name} holds no JSON object; delete it or choose another folder")
        return data

    def _check_config(self, config: Mapping[str, Any]) -> None:
        found = self.read_json("config.json")
        if not found:
            self.write_json("config.json", dict(config))
            return
        different = [name for name in config if found.get(name) != config[name]]
        if different:
            changes = "; ".join(f"{name} is {found.get(name)!r}, now {config[name]!r}" for name in different)
            raise StudyError(f"{self.path} holds another study: {changes}. Choose another folder with {self._option}")


def finite(row: Mapping[str, Any]) -> Row:
    """A row as JSON data: None where a number is not finite."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
