"""`SearchRuns`: the search runs of a study, resumable, with one store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nosbench_env.agents import Agent, Budget, search
from nosbench_env.agents.history import count_queries
from nosbench_env.agents.run_folder import HISTORY
from nosbench_env.identity.identify import Identity
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.studies.processes import do_jobs
from nosbench_env.studies.settings import Report

MakeAgent = Callable[[], Agent[Any]]


@dataclass(frozen=True, slots=True)
class SearchRuns:
    """Search runs under the same conditions, each in its own folder.

    Attributes:
        folder: The folder with the run folders.
        store: Location of the common store.
        task: Name of the task.
        device: The device to train on.
        epochs: Length of training.
        queries: Number of queries of a run.
        identity: The identity of the oracle, which decides the result that an agent is told.
    """

    folder: Path
    store: str
    task: str
    device: str
    epochs: int
    queries: int
    identity: Identity = "fingerprint"

    def path(self, name: str) -> Path:
        """Returns the folder of a run."""
        return self.folder / name

    def done(self, name: str) -> int:
        """Returns the number of finished queries of a run."""
        return count_queries(self.path(name) / HISTORY)

    def complete(self, agents: Mapping[str, MakeAgent], workers: int, report: Report) -> None:
        """Starts or resumes all runs that are not complete.

        Args:
            agents: The functions that make the agents, by the names of the runs; picklable for several workers.
            workers: Number of runs at once.
            report: Called with the progress.

        Raises:
            JobError, RunError, StoreError: If a run fails. Finished queries are kept.
        """
        waiting = {name: make for name, make in agents.items() if self.done(name) < self.queries}
        if not waiting:
            return
        report(f"{len(waiting)} of {len(agents)} runs of {self.queries:,} queries to do")

        def progress() -> str:
            done = sum(min(self.done(name), self.queries) for name in agents)
            return f"{done:,} of {len(agents) * self.queries:,} queries"

        do_jobs([partial(self._run, name, make) for name, make in waiting.items()], workers, report, progress)

    def _run(self, name: str, make: MakeAgent, on_query: Callable[[], None]) -> None:
        oracle = Oracle(self.task, self.store, self.device, self.identity, workers=1)
        try:
            search(
                make(),
                oracle,
                Budget(queries=self.queries),
                epochs=self.epochs,
                folder=self.path(name),
                on_query=lambda entry, so_far: on_query(),
            )
        finally:
            oracle.close()
