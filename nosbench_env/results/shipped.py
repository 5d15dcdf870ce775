"""`ShippedResults`: results that come with the package, so that a first search already hits."""

from __future__ import annotations

import gzip
import re
import zlib
from functools import cache
from pathlib import Path

from nosbench_env.results.file_format import InvalidResults, parse_header, parse_line
from nosbench_env.store import Record, StoreError
from nosbench_env.store.result_store import answer_of

RESULTS = Path(__file__).parent

# A line begins with the parts of its key, written as `format_line` does; that much is read at once, the rest if asked.
_START = re.compile(
    rb'\{"task": "([^"\\]+)", "task_version": ([0-9]+), "seed": ([0-9]+), "arithmetic": "([^"\\]+)", '
    rb'"identity": "([^"\\]+)", "first_epoch": '
)


class ShippedResults:
    """A read-only table of results, from the files `*.jsonl.gz` of a folder as `nosbench store export` writes them.

    Args:
        folder: The folder; None for the one in the package. If it holds no such file, the table is empty.

    It is read at the first use, once a process. All files together take one order, that of their names: the first
    result that holds an epoch answers for it.

    Raises:
        StoreError: At first use, or when a result is asked for, if the files are damaged.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = RESULTS if folder is None else folder

    def get(self, key: str, epochs: int, last_epoch_only: bool = False) -> Record | None:
        """The record of a training of `epochs` epochs, or None; see `ResultStore.get`."""
        lines = _table(self.folder).get(key)
        found = answer_of(map(self._record, lines or ()), epochs, last_epoch_only)
        if found is None:
            return None
        means, last, first_epoch = found
        return Record(means, last.stopped_at, last.provenance, first_epoch)

    def __len__(self) -> int:
        """The number of distinct keys."""
        return len(_table(self.folder))

    def __repr__(self) -> str:
        return f"ShippedResults({str(self.folder)!r})"

    def _record(self, line: bytes) -> Record:
        try:
            return parse_line(line.decode())[1]
        except ValueError as error:
            raise _damaged(self.folder, error) from error


@cache
def _table(folder: Path) -> dict[str, list[bytes]]:
    """Key -> its lines."""
    table: dict[str, list[bytes]] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        try:
            first, *lines = gzip.decompress(path.read_bytes()).splitlines()
            if parse_header(first.decode()) not in (None, len(lines)):
                raise InvalidResults("records are missing")
            for line in lines:
                match = _START.match(line)
                if match is None:
                    raise InvalidResults(f"expected a result, got {line[:80]!r}")
                key = b"%b-%b/seed=%b/%b/%b" % match.groups()
                table.setdefault(key.decode("ascii"), []).append(line)
        except (ValueError, EOFError, OSError, zlib.error) as error:
            raise _damaged(path, error) from error
    return table


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"the results that come with nosbench_env are damaged ({path}: {error}). Install nosbench_env again"
    )
