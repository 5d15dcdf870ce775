"""The oracle: what loss does a program reach? It trains only when nobody has asked about an equivalent one before."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nosbench_env.candidates.candidate import AnyCandidate, Candidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.candidates.tuned_program import TunedProgram
from nosbench_env.evaluation import Evaluation, Source, Statistics
from nosbench_env.execution.settings import check_arithmetic, check_device_name, check_epochs, check_seed
from nosbench_env.identity.identify import Identity, check_identity, identify
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.status import Status, loss_status
from nosbench_env.results.shipped import ShippedResults
from nosbench_env.store import Leases, Record, ResultStore, StoreError
from nosbench_env.tasks import check_task_name, make_task
from nosbench_env.tasks.task import Curve, OnStep, Task, probe_of
from nosbench_env.tasks.train_candidates import train_candidates
from nosbench_env.tasks.worker_pool import WorkerPool, available_cores, check_workers

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 1.0  # how often to look whether another asker has finished


class Oracle:
    """Answers queries for the loss of a program, from the store where it can.

    Args:
        task: A name that `make_task` knows, or a `Task`.
        store: A `ResultStore`, or its location; None is the user's default store.
        device: Where to train: "auto", "cpu", "cuda" or "cuda:N". Not for a `Task`, which has its own.
        identity: Which programs are taken to be equivalent and share a result. "fingerprint": those of one canonical
            form, and those that do the same on the task's probe; programs that diverge there are not trained.
            "canonical": only those of one canonical form, which are the same optimizer for certain; all are trained.
            "paper": those that the paper's proxy cannot tell apart (Appendix B); programs that diverge on it are not
            trained, as in the paper's code. Results under different identities do not answer for each other.
        arithmetic: "float32", or "tf32" for matrix products of reduced precision on a GPU, with results of its own. Not
            for a `Task`.
        workers: How many worker processes train at once, one thread each, where `query_many` has several programs to
            train; None for as many as there are cores for this process, 1 for none. They take seconds to start and stay
            for the next call. A single program, a `Task` of one's own and a GPU train in this process. Results are
            the same either way.
        shipped: Whether to look into the results that come with the package, after the store. Not for a `Task`.

    Attributes:
        statistics: Counts of this oracle's queries and hits.

    In this process trainings run one at a time; those of several threads wait for each other. Several processes, and on
    PostgreSQL several machines, may share a store. Of those that ask for the same unknown program at the same moment
    one trains it, and the others wait for its result; if it dies, another takes over a minute later. A store that can
    only be read answers what it knows.

    Copying an oracle gives the same oracle; a pickle opens the same store elsewhere, with new counts.

    Raises:
        ValueError: If the task, the store's location, the device, the arithmetic or the identity is unknown, or
            `workers` is no positive integer.
    """

    def __init__(
        self,
        task: str | Task = "pfn",
        store: ResultStore | str | Path | None = None,
        device: str = "auto",
        identity: Identity = "fingerprint",
        workers: int | None = None,
        arithmetic: str = "float32",
        shipped: bool = True,
    ) -> None:
        self._task = check_task_name(task) if isinstance(task, str) else task
        self.store = store if isinstance(store, ResultStore) else ResultStore(store)
        self.device = check_device_name(device)
        self.arithmetic = check_arithmetic(arithmetic)
        self.identity = check_identity(identity)
        self.workers = None if workers is None else check_workers(workers)
        self.statistics = Statistics()
        self.shipped = shipped
        self._shipped_results: ShippedResults | None = None
        self._pool: WorkerPool | None = None
        if isinstance(task, str):
            self._shipped_results = ShippedResults() if shipped else None
            self._pool = WorkerPool(task, self.workers or available_cores())  # starts no process yet

    @cached_property
    def task(self) -> Task:
        """The task, made at its first use."""
        return make_task(self._task, self.device, self.arithmetic) if isinstance(self._task, str) else self._task

    def query(
        self,
        program: AnyCandidate,
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        last_epoch_only: bool = False,
    ) -> Evaluation[AnyCandidate]:
        """Evaluates one program or `OptimizerConfig`; see `query_many`."""
        return self.query_many([program], epochs, seed, on_step=on_step, last_epoch_only=last_epoch_only)[0]

    def look_up(
        self, program: AnyCandidate, epochs: int | None = None, seed: int = 0, *, last_epoch_only: bool = False
    ) -> Evaluation[AnyCandidate] | None:
        """The evaluation, if it takes no training; None if it would. It does not count as a query.

        Raises:
            TypeError, ValueError, StoreError: As `query_many` does.
        """
        epochs, seed = check_epochs(epochs) or self.task.default_epochs, check_seed(seed)
        key, status = self._key(program, epochs, seed)
        if status != "ok":
            return self._diverged(program, epochs, seed, key, status)
        key, record, source = self._find(program, key, epochs, last_epoch_only)
        return None if record is None else self._evaluation(program, epochs, seed, key, record, source)

    def query_many(
        self,
        programs: Sequence[AnyCandidate],
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        on_trained: Callable[[AnyCandidate, Curve], None] | None = None,
        last_epoch_only: bool = False,
    ) -> list[Evaluation[AnyCandidate]]:
        """Evaluates programs, training each distinct unknown one once.

        A training answers queries for fewer epochs too; a query for more trains from the start. The first result
        stored for an epoch stays, so asking again gives the same answer. Each result is stored as soon as it is known.

        Args:
            programs: What to evaluate: programs, tuned ones (`TunedProgram`), and optimizers of libraries
                (`OptimizerConfig`).
            epochs: Length of training; the task's default (the paper's 20 for "pfn") if None.
            seed: Seed of the training.
            on_step: Called after each training step; for trainings in worker processes only some times a second.
            on_trained: Called after each training, when its result is stored.
            last_epoch_only: Whether the loss is all that is asked for. Some programs then take less work, and the curve
                may hold no more than the last epoch. The loss is the same.

        Returns:
            An evaluation for each program, in order. Diverged programs are results, not errors.

        Raises:
            TypeError: If something is none of these.
            ValueError: If `epochs` or `seed` is out of range, or a library has not the optimizer or refuses its
                hyperparameters.
            StoreError: If the store can't be read or written; before any training, if it can only be read and does not
                know all programs.
            WorkerError: If worker processes died or hung, each twice with the same program, or an exception ended a
                training there. The results of all other programs are stored.
        """
        epochs, seed = check_epochs(epochs) or self.task.default_epochs, check_seed(seed)
        identified = [self._key(program, epochs, seed) for program in programs]
        keys = [key for key, _ in identified]

        records: dict[str, Record] = {}
        sources: dict[str, Source] = {}
        unknown: dict[str, AnyCandidate] = {}
        first_asked: set[str] = set()  # those trained here whose turn has not come
        for place, (program, (key, status)) in enumerate(zip(programs, identified, strict=True)):
            if status != "ok" or key in records or key in unknown:
                continue
            keys[place], record, source = self._find(program, key, epochs, last_epoch_only)
            key = keys[place]
            if record is not None:
                records[key], sources[key] = record, source
            else:
                unknown[key] = program
        if unknown:
            found, first_asked = self._train(unknown, epochs, seed, on_step, on_trained, last_epoch_only)
            records |= found

        evaluations = []
        for program, key, (_, status) in zip(programs, keys, identified, strict=True):
            self.statistics.queries += 1
            if status != "ok":
                self.statistics.diverged += 1
                evaluations.append(self._diverged(program, epochs, seed, key, status))
                continue
            trained = key in first_asked
            first_asked.discard(key)
            self.statistics.trained += trained
            self.statistics.stored += not trained
            source = "trained" if trained else sources.get(key, "store")
            evaluations.append(self._evaluation(program, epochs, seed, key, records[key], source))
        return evaluations

    def _look_up(self, key: str, epochs: int, last_epoch_only: bool) -> tuple[Record | None, Source]:
        """The stored or shipped record, and which it is."""
        if (record := self.store.get(key, epochs, last_epoch_only)) is not None or self._shipped_results is None:
            return record, "store"
        return self._shipped_results.get(key, epochs, last_epoch_only), "shipped"

    def _find(
        self, program: Candidate, key: str, epochs: int, last_epoch_only: bool
    ) -> tuple[str, Record | None, Source]:
        """The known result of a program, which may be there under another key than its own."""
        record, source = self._look_up(key, epochs, last_epoch_only)
        if record is None and (other := self._stored_under(program, key)) is not None:
            return other, *self._look_up(other, epochs, last_epoch_only)
        return key, record, source

    def _key(self, program: Candidate, epochs: int, seed: int) -> tuple[str, Status]:
        """The key of a candidate's result, and how its training is known to end."""
        prefix = f"{self.task.name}-{self.task.version}/seed={seed}/{self.task.arithmetic}"
        if isinstance(program, (OptimizerConfig, TunedProgram)):
            return f"{prefix}/{program.identity(epochs)}", "ok"
        value, status = identify(program, self.identity, probe_of(self.task))
        return f"{prefix}/{value}", status

    def _diverged(
        self, program: AnyCandidate, epochs: int, seed: int, key: str, status: Status
    ) -> Evaluation[AnyCandidate]:
        """The evaluation of a program that diverges on the probe."""
        return Evaluation(program, self.task.name, epochs, seed, float(status), status, (), key, True, "probe")

    def _stored_under(self, program: Candidate, key: str) -> str | None:
        """The other key under which a program of the same canonical form was stored, if one was.

        It is another than the program's own if that fingerprint was taken where numbers round differently.
        """
        if self.identity != "fingerprint" or not isinstance(program, Program):
            return None
        stored = self.store.resolve(_alias(str(canonical_form(program)), key))
        return None if stored == key else stored

    def _train(
        self,
        unknown: Mapping[str, AnyCandidate],
        epochs: int,
        seed: int,
        on_step: OnStep | None,
        on_trained: Callable[[AnyCandidate, Curve], None] | None,
        last_epoch_only: bool,
    ) -> tuple[dict[str, Record], set[str]]:
        """Trains each program that nobody else trains, and waits for the results of the others.

        Returns:
            All results by key, and the keys of those trained here.
        """
        if self.store.read_only:
            raise StoreError(
                f"the store {self.store.location} can only be read, and does not know {len(unknown)} of the programs "
                f"for {epochs} epochs of the {self.task.name} task. Name a store that can be written with --store or "
                "NOSBENCH_STORE to train them."
            )
        records: dict[str, Record] = {}
        trained: set[str] = set()
        missing, delay = dict(unknown), _FIRST_WAIT_S

        def look_up(keys: Iterable[str]) -> None:
            for key in keys:
                if (record := self.store.get(key, epochs, last_epoch_only)) is not None:
                    records[key] = record
                    del missing[key]

        while missing:
            with self.store.leases() as leases:
                mine = leases.take(missing)
                look_up(mine)  # another may have finished just before
                leases.release(mine & records.keys())
                if ours := {key: program for key, program in missing.items() if key in mine}:
                    records |= self._train_leased(ours, epochs, seed, on_step, on_trained, last_epoch_only, leases)
                    trained |= ours.keys()
                    missing = {key: program for key, program in missing.items() if key not in ours}
                    delay = _FIRST_WAIT_S
            # Waiting while holding a lease, two askers could wait for each other.
            if missing and len(leases.busy(missing)) == len(missing):
                time.sleep(delay)
                delay = min(2 * delay, _LONGEST_WAIT_S)
        return records, trained

    def _train_leased(
        self,
        unknown: Mapping[str, AnyCandidate],
        epochs: int,
        seed: int,
        on_step: OnStep | None,
        on_trained: Callable[[AnyCandidate, Curve], None] | None,
        last_epoch_only: bool,
        leases: Leases,
    ) -> dict[str, Record]:
        """Trains each program and stores its result under its key, giving back the lease of it."""
        keys, programs = list(unknown), list(unknown.values())
        records: dict[str, Record] = {}
        provenance = _provenance(self.task)

        def store_curve(index: int, curve: Curve, seconds: float) -> None:
            program, aliases = programs[index], []
            made = provenance | {"program": program.to_json()}
            if isinstance(program, Program):
                form = made["canonical"] = str(canonical_form(program))
                aliases += [_alias(form, keys[index])] * (self.identity == "fingerprint")
            elif isinstance(program, OptimizerConfig):
                made["library"] = program.library_version
            made |= {
                "seconds": round(seconds, 3),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            record = Record(tuple(curve.epoch_means.tolist()), curve.stopped_at, made, curve.first_epoch)
            self.store.add(keys[index], record, aliases, leases=leases)
            # Another process may have been first; then its result is the one that stays.
            records[keys[index]] = self.store.get(keys[index], epochs, last_epoch_only) or record
            if on_trained is not None:
                on_trained(program, curve)

        if self._pool is not None and self._pool.workers > 1 and len(programs) > 1 and self.task.device == "cpu":
            self._pool.train(
                programs, epochs, seed, last_epoch_only=last_epoch_only, on_step=on_step, on_result=store_curve
            )
            return records
        started = time.perf_counter()

        def store_next(index: int, curve: Curve) -> None:
            nonlocal started
            seconds = time.perf_counter() - started if curve.seconds is None else curve.seconds
            store_curve(index, curve, seconds)
            started = time.perf_counter()

        train_candidates(
            self.task, programs, epochs, seed, on_step=on_step, on_curve=store_next, last_epoch_only=last_epoch_only
        )
        return records

    def _evaluation(
        self, program: AnyCandidate, epochs: int, seed: int, key: str, record: Record, source: Source
    ) -> Evaluation[AnyCandidate]:
        loss = record.epoch_means[-1]
        return Evaluation(
            program=program,
            task=self.task.name,
            epochs=epochs,
            seed=seed,
            loss=loss,
            status=loss_status(loss),
            curve=record.epoch_means,
            key=key,
            hit=source != "trained",
            source=source,
            seconds=record.provenance.get("seconds", 0.0),
            provenance=record.provenance,
            first_epoch=record.first_epoch,
        )

    def close(self) -> None:
        """Ends the worker processes and closes the store; a further query opens both again."""
        if self._pool is not None:
            self._pool.close()
        self.store.close()

    def __copy__(self) -> Oracle:
        return self

    def __deepcopy__(self, memo: object) -> Oracle:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = self._task, self.store, self.device, self.identity, self.workers, self.arithmetic, self.shipped
        return Oracle, arguments


def _alias(form: str, key: str) -> str:
    """The key that a program's canonical form alone would have."""
    return f"{key.rpartition('/')[0]}/{form}"


def _provenance(task: Task) -> dict[str, Any]:
    """What is the same for all trainings of a task in this process."""
    try:
        own_version = version("nosbench_env")
    except PackageNotFoundError:  # a bare checkout
        own_version = "unknown"
    device = torch.device(task.device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        "nosbench_env": own_version,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
