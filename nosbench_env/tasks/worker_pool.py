"""`WorkerPool`: trains with several programs at once, each in a worker process; one that dies or hangs is replaced."""

from __future__ import annotations

import json
import operator
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.tasks import check_task_name
from nosbench_env.tasks.task import Curve, OnStep, Progress

HANG_TIMEOUT_S = 120.0  # a worker silent for so long hangs; also while it imports, which takes seconds
_MAX_ATTEMPTS = 2  # trainings of a program whose worker dies
_MAX_FAILED_STARTS = 2  # in a row
_POLL_S = 0.5
_IN_PROCESS = "workers=1 (--workers 1) trains in this process, without workers"

OnResult = Callable[[int, Curve, float], None]


class WorkerError(RuntimeError):
    """Some programs could not be trained, for a reason that is no result; the message names them and the reason."""


class WorkerPool:
    """Processes that train on the CPU, on one thread each; started when needed, they stay for the next call.

    They are fresh interpreters, not forks, so that scripts need no `if __name__ == "__main__"` and daemonic processes
    may have them too. They end with this process, however it ends. A forked child starts its own.

    Args:
        task_name: A name that `make_task` knows.
        workers: How many processes at most.
        hang_timeout: Seconds after which a silent worker is taken to hang.
        command: What to start instead of `worker_command(task_name)`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        task_name: str,
        workers: int,
        hang_timeout: float = HANG_TIMEOUT_S,
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(hang_timeout, (int, float)) or not hang_timeout > 0:
            raise ValueError(f"hang_timeout must be a number of seconds > 0, got {hang_timeout!r}")
        self.workers = check_workers(workers)
        self.hang_timeout = float(hang_timeout)
        self._command = tuple(command or worker_command(task_name))
        self._alive: list[_Worker] = []
        self._lock, self._called = threading.RLock(), False
        weakref.finalize(self, _end_all, self._alive)  # also at the interpreter's exit
        _pools.add(self)

    def train(
        self,
        programs: Sequence[Candidate],
        epochs: int,
        seed: int,
        *,
        last_epoch_only: bool = False,
        on_step: OnStep | None = None,
        on_result: OnResult | None = None,
    ) -> None:
        """Trains once with each program or optimizer, as `train_candidates` does, to the same results.

        A program whose worker dies or hangs is tried once more. If that fails too, the others are trained first, and
        then the error is raised. An exception, also one of Ctrl-C, ends the trainings in progress.

        Args:
            programs: What to train with.
            epochs: Length of training.
            seed: Seed of the trainings.
            last_epoch_only: See `Task.train_programs`.
            on_step: Called some times a second for each training; not for every step.
            on_result: Called with a program's index, its curve and the seconds its training took, as soon as it is
                known: in any order.

        Raises:
            WorkerError: If a program could not be trained. All others are, and were reported.
        """
        requests = [
            {
                "index": index,
                "program": program.to_json(),
                "epochs": epochs,
                "seed": seed,
                "last_epoch_only": last_epoch_only,
            }
            for index, program in enumerate(programs)
        ]
        with self._one_call_at_a_time():
            call = _Call(self, requests, on_step, on_result)
            try:
                call.run()
            except BaseException:
                # Also those not ready yet: what they have said may have been read and not understood.
                for worker in [worker for worker in self._alive if not worker.idle]:
                    self._end(worker)
                raise
        if call.failures:
            raise WorkerError(_report(programs, call.failures))

    def close(self) -> None:
        """Ends the workers; a further call starts new ones. It waits for a call in another thread."""
        with self._one_call_at_a_time():
            _end_all(self._alive)

    @contextmanager
    def _one_call_at_a_time(self) -> Iterator[None]:
        with self._lock:
            if self._called:
                raise RuntimeError("called from a callback of the same pool's train(), which is not done yet")
            self._called = True
            try:
                yield
            finally:
                self._called = False

    def _start(self) -> None:
        self._alive.append(_Worker(self._command))

    def _end(self, worker: _Worker, patience: float = 0.0) -> str:
        """Kills a worker if it still lives; returns how it ended."""
        self._alive.remove(worker)
        return worker.end(patience)

    def _abandon(self) -> None:
        """In a forked child: the workers are the parent's, their pipes too; nobody here will release the lock."""
        for worker in self._alive:
            worker.abandon()
        self._alive.clear()
        self._lock, self._called = threading.RLock(), False


class _Call:
    """One call of `WorkerPool.train`: hands out programs, listens, replaces workers."""

    def __init__(
        self, pool: WorkerPool, requests: Sequence[dict[str, Any]], on_step: OnStep | None, on_result: OnResult | None
    ) -> None:
        self._pool, self._requests = pool, requests
        self._on_step, self._on_result = on_step, on_result
        self._waiting = deque(range(len(requests)))
        self._unfinished = set(self._waiting)
        self._attempts = [0] * len(requests)
        self._failed_starts = 0
        self._start_failure = ""
        self.failures: dict[int, str] = {}

    def run(self) -> None:
        """Returns when each program is trained or failed."""
        for worker in [worker for worker in self._pool._alive if worker.process.poll() is not None]:
            self._pool._end(worker)  # died since the last call
        while self._unfinished:
            self._start_workers()
            self._hand_out()
            self._listen()

    def _start_workers(self) -> None:
        wanted = min(self._pool.workers, len(self._unfinished))
        while len(self._pool._alive) < wanted and self._failed_starts < _MAX_FAILED_STARTS:
            try:
                self._pool._start()
            except OSError as error:
                self._failed_starts, self._start_failure = _MAX_FAILED_STARTS, str(error)
        if not self._pool._alive:
            raise WorkerError(
                f"can't start worker processes: {self._start_failure}. What was trained before is kept. {_IN_PROCESS}"
            )

    def _hand_out(self) -> None:
        for worker in [worker for worker in self._pool._alive if worker.idle]:
            if not self._waiting:
                return
            index = self._waiting.popleft()
            try:
                worker.send(index, self._requests[index])
            except OSError:  # died while it was idle: not the program's fault
                self._waiting.appendleft(index)
                worker.index = None
                self._lost(worker, "")

    def _listen(self) -> None:
        """Waits for news of any worker, or for a while, and deals with it."""
        poll = min(_POLL_S, self._pool.hang_timeout / 4)
        workers = list(self._pool._alive)
        heard, waited = _wait(workers, poll)
        for worker in workers:
            if worker in heard:
                worker.silent = 0.0
                self._hear(worker)
            elif not worker.idle:
                worker.silent += waited
                if worker.silent > self._pool.hang_timeout:
                    self._lost(worker, f"it gave no sign of life for {self._pool.hang_timeout:g} s")
                # A pipe that a forked process also holds does not end with the worker.
                elif worker.silent > 4 * poll and worker.process.poll() is not None:
                    self._lost(worker, "")

    def _hear(self, worker: _Worker) -> None:
        lines = worker.receive()
        if lines is None:
            self._lost(worker, "")
        for line in lines or ():
            try:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError
            except ValueError:
                if worker.ready:
                    self._lost(worker, f"it sent something else than a reply: {bytes(line[:100])!r}")
                    return
                continue  # printed by an import, before the worker's own code began
            self._understand(worker, message)

    def _understand(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            worker.ready = True
        elif "failed" in message:
            self._failed_starts, self._start_failure = _MAX_FAILED_STARTS, message["failed"]
            self._pool._end(worker)
        elif "step" in message:
            if self._on_step is not None:
                programs = len(self._requests)
                self._on_step(Progress(message["step"], message["steps"], message["loss"], message["index"], programs))
        else:
            index, worker.index, self._failed_starts = message["index"], None, 0
            self._unfinished.discard(index)
            if "error" in message:
                self.failures[index] = message["error"]
            elif self._on_result is not None:
                losses = np.array(message["step_losses"], dtype=np.float64)
                validation = message["validation_losses"]
                curve = Curve(
                    losses,
                    message["stopped_at"],
                    message["first_epoch"],
                    validation_losses=None if validation is None else np.array(validation, dtype=np.float64),
                )
                self._on_result(index, curve, message["seconds"])

    def _lost(self, worker: _Worker, why: str) -> None:
        """Ends a worker that died or hangs; its program goes back into the queue, or counts as failed."""
        how = self._pool._end(worker, patience=0.0 if why else 1.0)  # its pipes end a little before a process does
        index = worker.index
        if index is None:
            self._failed_starts += 1
            self._start_failure = why or f"{how}; what it printed before is on stderr"
            return
        self._attempts[index] += 1
        if self._attempts[index] < _MAX_ATTEMPTS:
            self._waiting.append(index)
        else:
            self._unfinished.discard(index)
            self.failures[index] = f"twice its worker process was lost: {why or how}"


class _Worker:
    """A worker process, as its parent sees it."""

    def __init__(self, command: Sequence[str]) -> None:
        found = os.environ.get("PYTHONPATH")
        package_parent = str(Path(__file__).resolve().parents[2])  # a bare checkout is not installed
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([package_parent, found] if found else [package_parent]),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            process_group=0,  # a terminal's Ctrl-C goes to the parent alone
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ready = False
        self.index: int | None = None  # of the program it trains with
        self.silent = 0.0  # seconds since its last sign of life, in which the parent did listen
        self._received = bytearray()

    @property
    def idle(self) -> bool:
        return self.ready and self.index is None

    def send(self, index: int, request: Mapping[str, Any]) -> None:
        self.index, self.silent = index, 0.0
        data = memoryview(json.dumps(request).encode() + b"\n")
        while data:
            data = data[self._stdin.write(data) :]

    def receive(self) -> list[bytearray] | None:
        """The lines that are complete by now; None if there will be no more."""
        data = self.stdout.read(1 << 16)
        if not data:
            return None
        self._received += data
        if b"\n" not in data:
            return []
        *lines, self._received = self._received.split(b"\n")
        return lines

    def end(self, patience: float = 0.0) -> str:
        """Kills the process, unless it ends by itself within `patience` seconds; returns how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.process.kill()
        self._stdin.close()
        self.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        return _how_it_ended(self.process.returncode)

    def abandon(self) -> None:
        self._stdin.close()
        self.stdout.close()
        self.process.returncode = 0  # not a child of this process: nothing to wait for


def worker_command(task_name: str, *arguments: str) -> tuple[str, ...]:
    """What starts a worker process; see `nosbench_env.tasks.worker` for its further arguments."""
    # -P: the folder that the user happens to be in is no place to import from.
    return sys.executable, "-P", "-m", "nosbench_env.tasks.worker", check_task_name(task_name), *arguments


def check_workers(workers: int) -> int:
    """`workers` if it is a positive integer."""
    if isinstance(workers, bool) or not isinstance(workers, SupportsIndex) or operator.index(workers) < 1:
        raise ValueError(f"workers must be an integer >= 1, got {workers!r}")
    return operator.index(workers)


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wait(workers: Sequence[_Worker], timeout: float) -> tuple[set[_Worker], float]:
    """The workers that have something to read, and the seconds it took to know.

    Not more than the time asked for, even if this process was suspended meanwhile, which says nothing about a worker.
    """
    started = time.monotonic()
    # A selector of one call, and one without a file of its own, which a fork would share.
    with selectors.PollSelector() as selector:
        for worker in workers:
            selector.register(worker.stdout, selectors.EVENT_READ, worker)
        heard = {key.data for key, _ in selector.select(timeout)}
    return heard, min(time.monotonic() - started, timeout)


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "it could not be ended"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"it was ended by {name}" + (", as the system does when memory is short" if name == "SIGKILL" else "")


def _report(programs: Sequence[Candidate], failures: Mapping[int, str]) -> str:
    named = "\n\n".join(
        f"{programs[index] or '# the empty program'}\n-> {reason}" for index, reason in sorted(failures.items())
    )
    return (
        f"{len(failures)} of {len(programs)} programs could not be trained; the others are, and their results are "
        f"kept.\n\n{named}\n\nAsking again tries only these once more. {_IN_PROCESS}"
    )


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _abandon_all() -> None:
    for pool in list(_pools):
        pool._abandon()


os.register_at_fork(after_in_child=_abandon_all)
