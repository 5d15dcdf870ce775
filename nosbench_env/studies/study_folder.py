"""`StudyFolder`: a study's folder, locked, with one configuration and whole files."""

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

from nosbench_env.execution.numerics import device_name
from nosbench_env.versions import installed_versions
from nosbench_env.whole_files import write_whole

Row = dict[str, Any]

_PACKAGES = ("nosbench_env", "torch", "numpy", "scipy", "matplotlib", "smac", "ConfigSpace", "pytorch_optimizer")


class StudyError(ValueError):
    """An unusable folder of a study. Its content is unchanged."""


class StudyFolder:
    """The folder with everything that a study keeps.

    Args:
        path: The folder; created when it is opened or first written to.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @contextmanager
    def opened(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Creates the folder if needed, and locks it against other processes.

        Args:
            config: The values that must not change from one call to the next; kept in `config.json`.

        Raises:
            StudyError: If the folder is in use, of another configuration or damaged, or can't be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except filelock.Timeout:
            raise StudyError(
                f"{self.path} is in use by another process; wait for it or choose another folder with --output"
            ) from None
        except OSError as error:
            raise StudyError(f"can't use the folder {self.path}: {error}; choose another with --output") from error
        try:
            self._check_config(config)
            yield
        finally:
            lock.release()

    def write(self, name: str, data: bytes | str) -> None:
        """Writes a file of the folder."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, data)

    def write_json(self, name: str, data: Any) -> None:
        """Writes JSON data without NaN and infinities."""
        self.write(name, json.dumps(data, indent=1, allow_nan=False) + "\n")

    def write_csv(self, name: str, rows: Sequence[Mapping[str, Any]], fields: Sequence[str] | None = None) -> None:
        """Writes a table with the header `fields`, or the first row's names."""
        text = io.StringIO()
        if rows or fields:
            writer = csv.DictWriter(text, list(rows[0] if fields is None else fields), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self.write(name, text.getvalue())

    def read_json(self, name: str) -> dict[str, Any]:
        """Reads a JSON object from a file; empty without a file."""
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
        stored = self.read_json("config.json")
        if not stored:
            self.write_json("config.json", dict(config))
            return
        different = [name for name in config if stored.get(name) != config[name]]
        if different:
            changes = "; ".join(f"{name} is {stored.get(name)!r}, now {config[name]!r}" for name in different)
            raise StudyError(f"{self.path} holds another study: {changes}. Choose another folder with --output")


def finite(row: Mapping[str, Any]) -> Row:
    """Returns a row with None in place of non-finite numbers."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def made_by(device: str) -> dict[str, str]:
    """Returns a device's name and the versions of Python and packages."""
    return {"device": device_name(device), **installed_versions(_PACKAGES)}
