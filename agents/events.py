"""`Events`: the events of a run for TensorBoard."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nosbench_env.agents.history import HistoryEntry, SearchResult


class Events:
    """Writes the events of a run into its folder.

    Steps are numbers of queries.

    Args:
        folder: The run folder.
        done: Queries covered by earlier events. Earlier events of later queries are void and will be written again.
        metrics: The agent's metrics after these queries.

    The file is made with the first event. Without tensorboard no file is made; a warning says so at once.
    """

    def __init__(self, folder: Path, done: int, metrics: Mapping[str, float]) -> None:
        self._folder, self._done, self._metrics = folder, done, dict(metrics)
        self._writer: Any = None
        self._file: Any = None
        try:  # here, since the import takes seconds that would otherwise delay the report of the first query
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warnings.warn("no events for TensorBoard are written: pip install tensorboard", stacklevel=2)
        else:
            self._writer = SummaryWriter

    def query(self, entry: HistoryEntry, result: SearchResult) -> None:
        """Writes the events of a query."""
        if entry.loss is not None:
            self._add("search/loss", entry.loss, entry.number)
        if result.best is not None and result.best.loss is not None:
            self._add("search/best_loss", result.best.loss, entry.number)
        self._add("search/distinct", result.distinct, entry.number)
        self._add("search/hits", result.queries - result.trained, entry.number)
        self._add("search/seconds", entry.seconds, entry.number)

    def agent(self, name: str, metrics: Mapping[str, float], queries: int) -> None:
        """Writes the agent's metrics after so many queries, if they have changed."""
        if metrics != self._metrics:
            self._metrics = dict(metrics)
            for metric, value in metrics.items():
                self._add(f"{name}/{metric}", value, queries)

    def flush(self) -> None:
        """Writes buffered events to the file."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _add(self, tag: str, value: float, step: int) -> None:
        if self._writer is None:
            return
        if self._file is None:
            if any(self._folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
                time.sleep(1)  # files are read in the order of their names, which hold the time in seconds
            # TensorBoard ignores events of earlier files from this step on: those of queries after the saved state.
            self._file = self._writer(str(self._folder), purge_step=self._done + 1, max_queue=1000)
        self._file.add_scalar(tag, value, step)
