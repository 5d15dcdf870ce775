"""`Events`: what TensorBoard shows of a run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nosbench_env.agents.search import HistoryEntry, SearchResult


class Events:
    """Writes events into a run's folder, by the number of the query.

    Args:
        folder: The run folder.
        done: Queries that earlier events tell about; what they tell of later ones is void, and will be told again.
        metrics: The agent's figures after these.

    The file is made with the first event. Without tensorboard there is none, and a warning says so at once.
    """

    def __init__(self, folder: Path, done: int, metrics: Mapping[str, float]) -> None:
        self._folder, self._done, self._metrics = folder, done, dict(metrics)
        self._made: Any = None
        try:  # now: it takes seconds, which are not to lie between a query and the word of it
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warnings.warn("no events for TensorBoard are written: pip install tensorboard", stacklevel=2)
            self._made = _Nothing()
        else:
            self._writer = SummaryWriter

    def query(self, entry: HistoryEntry, result: SearchResult) -> None:
        """Tells of a query, and of the run up to it."""
        if entry.loss is not None:
            self._add("search/loss", entry.loss, entry.number)
        if result.best is not None and result.best.loss is not None:
            self._add("search/best_loss", result.best.loss, entry.number)
        self._add("search/distinct", result.distinct, entry.number)
        self._add("search/hits", result.queries - result.trained, entry.number)
        self._add("search/seconds", entry.seconds, entry.number)

    def agent(self, name: str, metrics: Mapping[str, float], queries: int) -> None:
        """Tells the agent's figures after so many queries, if they are new."""
        if metrics != self._metrics:
            self._metrics = dict(metrics)
            for metric, value in metrics.items():
                self._add(f"{name}/{metric}", value, queries)

    def flush(self) -> None:
        """Puts all events so far into the file."""
        if self._made is not None:
            self._made.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._made is not None:
            self._made.close()

    def _add(self, tag: str, value: float, step: int) -> None:
        if self._made is None:
            self._made = self._new_file()
        self._made.add_scalar(tag, value, step)

    def _new_file(self) -> Any:
        if any(self._folder.glob(f"events.out.tfevents.{int(time.time()):010d}.*")):
            time.sleep(1)  # files are read in the order of their names, which tell the second
        # TensorBoard passes over events of earlier files from this step on: of queries done after the last saved state.
        writer: Any = self._writer(str(self._folder), purge_step=self._done + 1, max_queue=1000)
        return writer


class _Nothing:
    """Takes events where there is no tensorboard."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
