"""`Oracle`: returns the losses of programs, training only unknown ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nosbench_env.candidates.candidate import AnyCandidate, Candidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.candidates.tuned_program import TunedProgram
from nosbench_env.evaluation import Evaluation, Source, Statistics
from nosbench_env.execution.settings import check_arithmetic, check_device_name, check_epochs, check_seed
from nosbench_env.identity.identify import Identity, check_identity, identify
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.status import Status, loss_status
from nosbench_env.oracles.leased_training import LeasedTraining, Request
from nosbench_env.results.key import ResultKey
from nosbench_env.results.shipped import ShippedResults
from nosbench_env.store import Record, ResultStore
from nosbench_env.tasks import check_task_name, make_task
from nosbench_env.tasks.task import Curve, OnStep, Task, probe_of
from nosbench_env.tasks.worker_pool import WorkerPool, available_cores, check_workers


class Oracle:
    """The oracle of the benchmark, which evaluates programs on a task.

    Results come from the store or the package if known there; other programs are trained.

    Args:
        task: A name that `make_task` knows, or a `Task`.
        store: A `ResultStore` or its location; None is the user's default store.
        device: The device of training: "auto", "cpu", "cuda" or "cuda:N". Ignored for a `Task`, which has its own.
        identity: The way to decide which programs share a result. "fingerprint": programs of one canonical form, and
            programs with the same behaviour on the task's probe; programs that diverge on the probe are not trained.
            "canonical": only programs of one canonical form, which are certainly the same optimizer; all are trained.
            "paper": programs that the paper's proxy cannot tell apart (Appendix B); programs that diverge on it are not
            trained, as in the paper's code. Results of one identity never answer queries of another.
        arithmetic: "float32", or "tf32" for matrix products of reduced precision on a GPU, which has results of its
            own. Ignored for a `Task`.
        workers: The number of worker processes, of one thread each, for a `query_many` that trains several programs.
            None is the number of cores of this process; 1 trains in this process. Workers take seconds to start and
            stay for the next call. A single program, a custom `Task` and a GPU always train in this process. The number
            of workers does not change results.
        shipped: True to use the results in the package for keys that the store does not have. Ignored for a `Task`.

    Attributes:
        statistics: Counts of this oracle's queries and hits.

    One training runs at a time in a process; further threads wait. Several processes, and on PostgreSQL several
    machines, may share a store. If they query the same unknown program at the same moment, one trains it and the others
    wait for its result; if the trainer dies, another takes over a minute later. A read-only store answers from the
    results that it has.

    Copying an oracle returns the same oracle. A pickle opens the same store elsewhere, with new counts.

    Raises:
        ValueError: If the task, the store's location, the device, the arithmetic or the identity is unknown, or
            `workers` is not a positive integer.
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
        """Returns the evaluation if it takes no training, else None.

        This does not count as a query.

        Raises:
            TypeError, ValueError, StoreError: As `query_many` does.
        """
        request = self._request(epochs, seed, last_epoch_only)
        return self._known(program, *self._identify(program, request), request)[1]

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

        A training also answers queries for fewer epochs; a query for more epochs trains from the start. The first
        result stored for an epoch stays, so repeated queries have the same answer. Each result is stored as soon as it
        is known.

        Args:
            programs: Programs, tuned programs (`TunedProgram`) and optimizers of libraries (`OptimizerConfig`).
            epochs: Length of training; the task's default (the paper's 20 for "pfn") if None.
            seed: Seed of the training.
            on_step: Called after each training step; a few times a second for trainings in worker processes.
            on_trained: Called after each training, when its result is stored.
            last_epoch_only: True if only the loss is needed. Some programs then take less work, and the curve may hold
                only the last epoch. The loss is the same.

        Returns:
            An evaluation for each program, in order. Diverged programs are results, not errors.

        Raises:
            TypeError: If a program is of another type.
            ValueError: If `epochs` or `seed` is out of range, or a library lacks the optimizer or rejects its
                hyperparameters.
            StoreError: If the store can't be read or written. It is raised before any training if the store is
                read-only and has no result for one of the programs.
            WorkerError: If worker processes died or hung, twice for the same program, or an exception ended a training
                there. The results of all other programs are stored.
        """
        request = self._request(epochs, seed, last_epoch_only, on_step, on_trained)
        identified = [self._identify(program, request) for program in programs]
        keys = [key for key, _ in identified]
        evaluations: dict[str, Evaluation[AnyCandidate]] = {}
        unknown: dict[str, AnyCandidate] = {}
        for place, (program, (key, status)) in enumerate(zip(programs, identified, strict=True)):
            if key in evaluations or key in unknown:
                continue
            key, evaluation = self._known(program, key, status, request)
            keys[place] = key
            if evaluation is None:
                unknown.setdefault(key, program)
            else:
                evaluations[key] = evaluation
        if unknown:
            alias_of = partial(self._alias, request=request)
            training = LeasedTraining(request, self.task, self.store, self._pool, alias_of)
            training.run(unknown)
            for key, record in training.records.items():
                source: Source = "trained" if key in training.trained else "store"
                evaluations[key] = self._evaluation(unknown[key], key, record, source, request)

        answers = []
        for program, key in zip(programs, keys, strict=True):
            answer = evaluations[key]
            answers.append(replace(answer, program=program))
            self.statistics.count(answer.source)
            if answer.source == "trained":  # further programs of this key are hits
                evaluations[key] = replace(answer, hit=True, source="store")
        return answers

    def _request(
        self,
        epochs: int | None,
        seed: int,
        last_epoch_only: bool,
        on_step: OnStep | None = None,
        on_trained: Callable[[AnyCandidate, Curve], None] | None = None,
    ) -> Request[AnyCandidate]:
        epochs = check_epochs(epochs) or self.task.default_epochs
        return Request(epochs, check_seed(seed), last_epoch_only, on_step, on_trained)

    def _identify(self, program: Candidate, request: Request[Any]) -> tuple[str, Status]:
        """Computes a candidate's key and the known end of its training."""
        if not isinstance(program, (OptimizerConfig, TunedProgram)):
            identity_value, status = identify(program, self.identity, probe_of(self.task))
            return self._key(identity_value, request), status
        return self._key(program.identity_value(request.epochs), request), "ok"

    def _key(self, identity_value: str, request: Request[Any]) -> str:
        task = self.task
        return str(ResultKey(task.name, task.version, request.seed, task.arithmetic, identity_value))

    def _alias(self, program: Candidate, request: Request[Any]) -> str | None:
        """Returns the key of a program's canonical form under "fingerprint"."""
        if self.identity != "fingerprint" or not isinstance(program, Program):
            return None
        return self._key(str(canonical_form(program)), request)

    def _known(
        self, program: AnyCandidate, key: str, status: Status, request: Request[AnyCandidate]
    ) -> tuple[str, Evaluation[AnyCandidate] | None]:
        """Returns the key of a program's result, and the result if known.

        The key differs from the program's own if a program of the same canonical form is stored under another one,
        because its fingerprint was computed on a machine that rounds differently.
        """
        if status != "ok":
            loss = float(status)
            return key, Evaluation(
                program, self.task.name, request.epochs, request.seed, loss, status, (), key, True, "probe"
            )
        evaluation = self._look_up(program, key, request)
        if evaluation is None and (alias := self._alias(program, request)) is not None:
            other = self.store.resolve(alias)
            if other is not None and other != key:
                return other, self._look_up(program, other, request)
        return key, evaluation

    def _look_up(
        self, program: AnyCandidate, key: str, request: Request[AnyCandidate]
    ) -> Evaluation[AnyCandidate] | None:
        """Returns the stored or shipped result of a key."""
        source: Source = "store"
        record = self.store.get(key, request.epochs, request.last_epoch_only)
        if record is None and self._shipped_results is not None:
            source = "shipped"
            record = self._shipped_results.get(key, request.epochs, request.last_epoch_only)
        return None if record is None else self._evaluation(program, key, record, source, request)

    def _evaluation(
        self, program: AnyCandidate, key: str, record: Record, source: Source, request: Request[AnyCandidate]
    ) -> Evaluation[AnyCandidate]:
        loss = record.epoch_means[-1]
        return Evaluation(
            program=program,
            task=self.task.name,
            epochs=request.epochs,
            seed=request.seed,
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
        """Ends the workers and closes the store until the next query."""
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
