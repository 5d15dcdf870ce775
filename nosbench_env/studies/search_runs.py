"""The runs that the study of the cache looks at: random search, and regularized evolution from random programs."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from nosbench_env.agents import Budget, HistoryEntry, RandomSearch, RegularizedEvolution, RunError, SearchResult, search
from nosbench_env.identity import Identity
from nosbench_env.oracle import Oracle
from nosbench_env.program import Program
from nosbench_env.search_space import SearchSpace
from nosbench_env.store import StoreError

Report = Callable[[str], None]
_REPORT_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class SearchRuns:
    """Runs of one configuration, one for each seed.

    Random search asks for the same programs whatever their losses are, so its runs need no training. Evolution's do:
    they go on in folders of their own, with one store, and can be stopped at any moment.

    Attributes:
        folder: Where the runs of evolution are kept.
        store: The store that they share.
        task: Name of the task.
        device: Where to train.
        epochs: Length of training.
        queries: Programs asked for in a run.
        max_instructions: Length of the longest programs.
        identity: How evolution's oracle knows programs: it decides which results it is told.
    """

    folder: Path
    store: str
    task: str
    device: str
    epochs: int
    queries: int
    max_instructions: int
    identity: Identity

    def programs(self, method: str, seed: int) -> list[Program]:
        """The programs that a run asks for, in order; evolution must have been run."""
        if method == "rs":
            return RandomSearch(SearchSpace(self.max_instructions), seed).ask(self.queries)
        history = self._history(seed)
        try:
            entries = [HistoryEntry.from_json(json.loads(line)) for line in _lines(history)[: self.queries]]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise RunError(f"{history} is damaged: {error}; delete its folder to run it again") from error
        return [entry.program for entry in entries]

    def evolve(self, seeds: Sequence[int], workers: int, report: Report) -> None:
        """Runs evolution with those seeds as far as it is not done yet, `workers` runs at a time.

        Raises:
            RunError, StoreError: If a run fails. What was done before is kept.
        """
        waiting = [seed for seed in seeds if self.done(seed) < self.queries]
        if not waiting:
            return
        report(f"RE: {len(waiting)} of {len(seeds)} runs of {self.queries:,} queries to do")
        if min(workers, len(waiting)) == 1:
            for seed in waiting:
                self._evolve_one(seed, _Reporter(report, f"RE, seed {seed}").on_query)
        else:
            self._evolve_together(waiting, workers, report)

    def done(self, seed: int) -> int:
        """How many queries a run of evolution has done."""
        return len(_lines(self._history(seed)))

    def _history(self, seed: int) -> Path:
        return self.folder / f"re-{seed}" / "history.jsonl"

    def _evolve_one(self, seed: int, on_query: Callable[[HistoryEntry, SearchResult], None]) -> None:
        oracle = Oracle(self.task, self.store, self.device, self.identity, workers=1)
        try:
            search(
                RegularizedEvolution(SearchSpace(self.max_instructions), seed),
                oracle,
                Budget(queries=self.queries),
                epochs=self.epochs,
                folder=self._history(seed).parent,
                on_query=on_query,
            )
        finally:
            oracle.close()

    def _evolve_together(self, seeds: Sequence[int], workers: int, report: Report) -> None:
        context = multiprocessing.get_context("spawn")
        waiting = list(seeds)
        running: dict[Connection, SpawnProcess] = {}
        reported = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    ours, theirs = context.Pipe(duplex=False)
                    # A daemon ends with this process.
                    process = context.Process(target=_run, args=(self, waiting.pop(0), theirs), daemon=True)
                    process.start()
                    theirs.close()
                    running[ours] = process
                for pipe in wait(list(running), timeout=1.0):
                    assert isinstance(pipe, Connection)
                    _finish(pipe, running.pop(pipe))
                if time.monotonic() - reported > _REPORT_EVERY_S:
                    reported = time.monotonic()
                    done = sum(min(self.done(seed), self.queries) for seed in seeds)
                    report(f"RE: {done:,} of {len(seeds) * self.queries:,} queries")
        finally:
            for process in running.values():
                process.terminate()  # a run can be stopped at any moment
                process.join()


def _run(runs: SearchRuns, seed: int, result: Connection) -> None:
    """One run in a process of its own; sends what went wrong, or an empty text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    parent = multiprocessing.parent_process()

    def on_query(entry: HistoryEntry, so_far: SearchResult) -> None:
        if parent is not None and not parent.is_alive():
            os._exit(1)

    try:
        runs._evolve_one(seed, on_query)
        result.send("")
    except Exception as error:
        result.send(f"{error}" if isinstance(error, (ValueError, StoreError)) else f"{type(error).__name__}: {error}")


def _finish(pipe: Connection, process: SpawnProcess) -> None:
    try:
        message = pipe.recv()
    except EOFError:
        process.join()
        message = f"a process that ran it ended with exit code {process.exitcode}; the same command goes on from there"
    process.join()
    if message:
        raise RunError(f"a run of evolution failed: {message}")


class _Reporter:
    """Tells now and then how far a run is."""

    def __init__(self, report: Report, label: str) -> None:
        self._report, self._label = report, label
        self._reported = time.monotonic()

    def on_query(self, entry: HistoryEntry, so_far: SearchResult) -> None:
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            self._report(f"{self._label}: query {entry.number:,}, {so_far.distinct:,} distinct programs")


def _lines(file: Path) -> list[bytes]:
    """The complete lines of a file; none if it is not there."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"can't read {file}: {error}; choose another folder with --folder") from error
    return data[: data.rfind(b"\n") + 1].splitlines()
