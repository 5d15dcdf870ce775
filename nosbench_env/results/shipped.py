"""`ShippedResults`: the results that come with the package."""

from __future__ import annotations

import gzip
import re
import zlib
from functools import cache
from pathlib import Path

from nosbench_env.results.file_format import InvalidResults, parse_header, parse_line
from nosbench_env.store import Record, StoreError
from nosbench_env.store.record import answer_of

RESULTS = Path(__file__).parent

# The start of a line, with the parts of its key, as `format_line` writes it. The rest is parsed only for a query.
_START = re.compile(
    rb'\{"task": "([^"\\]+)", "task_version": ([0-9]+), "seed": ([0-9]+), "arithmetic": "([^"\\]+)", '
    rb'"identity": "([^"\\]+)", "first_epoch": '
)


class ShippedResults:
    """A read-only table of the exported results in a folder.

    Args:
        folder: A folder with files `*.jsonl.gz` as `nosbench store export` writes them; None for the one in the
            package. Without such a file the table is empty.

    The files are read at the first use, once per process, in the order of their names. The first result that holds an
    epoch answers for it.

    Raises:
        StoreError: If the files are damaged. It is raised at the first use or at the query of a damaged result.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = RESULTS if folder is None else folder

    def get(self, key: str, epochs: int, last_epoch_only: bool = False) -> Record | None:
        """Returns the record of `epochs` epochs, as `ResultStore.get` does."""
        lines = _table(self.folder).get(key)
        return answer_of(map(self._record, lines or ()), epochs, last_epoch_only)

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
    """Reads the lines of a folder's files, by key."""
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
        f"the results in the package nosbench_env are damaged ({path}: {error}). Install nosbench_env again"
    )
