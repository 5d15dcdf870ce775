"""`LeasedTraining`: trains unknown programs, each by one asker at a time."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic

import torch

from nosbench_env.candidates.candidate import AnyCandidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.execution.numerics import device_name
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.store import Leases, Record, ResultStore, StoreError
from nosbench_env.tasks.task import Curve, OnStep, Task
from nosbench_env.tasks.train_candidates import train_candidates
from nosbench_env.tasks.worker_pool import WorkerPool
from nosbench_env.versions import installed_version

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 1.0  # between two looks at whether another asker has finished


@dataclass(frozen=True, slots=True)
class Request(Generic[AnyCandidate]):
    """The settings of a query, already checked; see `Oracle.query_many`."""

    epochs: int
    seed: int
    last_epoch_only: bool = False
    on_step: OnStep | None = None
    on_trained: Callable[[AnyCandidate, Curve], None] | None = None


@dataclass
class LeasedTraining(Generic[AnyCandidate]):
    """A training of the programs that a store does not know.

    Leases of their keys ensure that each is trained by one asker at a time.

    Attributes:
        request: The settings of the training.
        task: The task to train on.
        store: The store of the leases and the results.
        pool: Worker processes for several programs on a CPU; None trains in this process.
        alias_of: Computes the alias of a program's key; None for a program without one.
        records: The results by key, complete after `run`.
        trained: The keys of the programs that this asker trained.
    """

    request: Request[AnyCandidate]
    task: Task
    store: ResultStore
    pool: WorkerPool | None
    alias_of: Callable[[AnyCandidate], str | None]
    records: dict[str, Record] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)

    def run(self, unknown: Mapping[str, AnyCandidate]) -> None:
        """Trains the programs that nobody else trains; waits for the others.

        Raises:
            StoreError: If the store is read-only.
        """
        if self.store.read_only:
            raise StoreError(
                f"the store {self.store.location} is read-only and has no results for {len(unknown)} of the programs "
                f"at {self.request.epochs} epochs of the {self.task.name} task. To train them, name a writable store "
                "with --store or NOSBENCH_STORE."
            )
        missing, delay = dict(unknown), _FIRST_WAIT_S
        while missing:
            with self.store.leases() as leases:
                mine = leases.take(missing)
                self._look_up(mine)  # another asker may have finished just before
                leases.release(mine & self.records.keys())
                ours = mine - self.records.keys()
                if ours:
                    self._train({key: program for key, program in missing.items() if key in ours}, leases)
                    self.trained |= ours
                    delay = _FIRST_WAIT_S
                done = ours | self.records.keys()
                missing = {key: program for key, program in missing.items() if key not in done}
            # Waiting while holding a lease, two askers could wait for each other.
            if missing and len(leases.busy(missing)) == len(missing):
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_WAIT_S)

    def _look_up(self, keys: Iterable[str]) -> None:
        for key in keys:
            record = self.store.get(key, self.request.epochs, self.request.last_epoch_only)
            if record is not None:
                self.records[key] = record

    def _train(self, unknown: Mapping[str, AnyCandidate], leases: Leases) -> None:
        """Trains programs, storing each result and releasing its lease at once."""
        request, keys, programs = self.request, list(unknown), list(unknown.values())

        def store(index: int, curve: Curve, seconds: float) -> None:
            self._store_curve(keys[index], programs[index], curve, seconds, leases)

        if self.pool is not None and self.pool.workers > 1 and len(programs) > 1 and self.task.device == "cpu":
            self.pool.train(
                programs,
                request.epochs,
                request.seed,
                last_epoch_only=request.last_epoch_only,
                on_step=request.on_step,
                on_result=store,
            )
            return
        started = time.perf_counter()

        def on_curve(index: int, curve: Curve) -> None:
            nonlocal started
            store(index, curve, time.perf_counter() - started if curve.seconds is None else curve.seconds)
            started = time.perf_counter()

        train_candidates(
            self.task,
            programs,
            request.epochs,
            request.seed,
            on_step=request.on_step,
            on_curve=on_curve,
            last_epoch_only=request.last_epoch_only,
        )

    def _store_curve(self, key: str, program: AnyCandidate, curve: Curve, seconds: float, leases: Leases) -> None:
        provenance: dict[str, Any] = {
            "device": device_name(self.task.device),
            "nosbench_env": installed_version("nosbench_env"),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "program": program.to_json(),
        }
        if isinstance(program, Program):
            provenance["canonical"] = str(canonical_form(program))
        elif isinstance(program, OptimizerConfig):
            provenance["library"] = program.library_version
        provenance |= {"seconds": round(seconds, 3), "date": datetime.now(UTC).isoformat(timespec="seconds")}
        record = Record(tuple(curve.epoch_means.tolist()), curve.stopped_at, provenance, curve.first_epoch)
        alias = self.alias_of(program)
        self.store.add(key, record, [] if alias is None else [alias], leases=leases)
        self.records[key] = record
        self._look_up([key])  # another process may have been first; then its result is the one that stays
        if self.request.on_trained is not None:
            self.request.on_trained(program, curve)
