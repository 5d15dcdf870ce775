"""The runs that the study of the cache looks at: random search, and regularized evolution from random programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nosbench_env.agents import Budget, HistoryEntry, RandomSearch, RegularizedEvolution, RunError, SearchResult, search
from nosbench_env.identity.identify import Identity
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.studies.processes import JobError, Report, Reporter, end_with_parent, in_processes


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
            entries = [HistoryEntry.from_json(json.loads(line)) for line in whole_lines(history)[: self.queries]]
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
        reporter = Reporter(report)

        def progress() -> str:
            done = sum(min(self.done(seed), self.queries) for seed in seeds)
            return f"RE: {done:,} of {len(seeds) * self.queries:,} queries"

        # A run in this process tells how far it is itself.
        telling = partial(_tell_query, reporter) if min(workers, len(waiting)) == 1 else _stay_with_parent
        try:
            in_processes(
                [partial(self._evolve_one, seed, telling) for seed in waiting], workers, lambda: reporter.tell(progress)
            )
        except JobError as error:
            raise RunError(f"a run of evolution failed: {error}") from None

    def done(self, seed: int) -> int:
        """How many queries a run of evolution has done."""
        return len(whole_lines(self._history(seed)))

    def _history(self, seed: int) -> Path:
        return self.folder / f"re-{seed}" / "history.jsonl"

    def _evolve_one(self, seed: int, on_query: Callable[[int, HistoryEntry, SearchResult], None]) -> None:
        oracle = Oracle(self.task, self.store, self.device, self.identity, workers=1)
        try:
            search(
                RegularizedEvolution(SearchSpace(self.max_instructions), seed),
                oracle,
                Budget(queries=self.queries),
                epochs=self.epochs,
                folder=self._history(seed).parent,
                on_query=partial(on_query, seed),
            )
        finally:
            oracle.close()


def _tell_query(reporter: Reporter, seed: int, entry: HistoryEntry, so_far: SearchResult) -> None:
    reporter.tell(lambda: f"RE, seed {seed}: query {entry.number:,}, {so_far.distinct:,} distinct programs")


def _stay_with_parent(seed: int, entry: HistoryEntry, so_far: SearchResult) -> None:
    end_with_parent()


def whole_lines(file: Path) -> list[bytes]:
    """The complete lines of a file; none if it is not there."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"can't read {file}: {error}; choose another folder") from error
    return data[: data.rfind(b"\n") + 1].splitlines()
