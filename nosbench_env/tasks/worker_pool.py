"""`WorkerPool`: training in several worker processes, which are replaced if they fail."""

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

HANG_TIMEOUT_S = 120.0  # a worker silent for this long hangs, also during its imports, which take seconds
_MAX_ATTEMPTS = 2  # for a program whose worker dies
_MAX_FAILED_STARTS = 2  # in a row
_POLL_S = 0.5
_IN_PROCESS = "workers=1 (--workers 1) trains in this process, without workers"

OnResult = Callable[[int, Curve, float], None]


class WorkerError(RuntimeError):
    """A failed training without result; the message names programs and reasons."""


class WorkerPool:
    """Processes that train on the CPU, on one thread each.

    They start when needed and stay for the next call. They are new interpreters, not forks, so scripts need no
    `if __name__ == "__main__"` and daemonic processes can use them. They end with this process, however it ends. A
    forked child starts its own.

    Args:
        task_name: A name that `make_task` knows.
        workers: The largest number of processes.
        hang_timeout: The time in seconds after which a silent worker counts as hanging.
        command: The command of a worker; `worker_command(task_name)` if None.

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
        weakref.finalize(self, _end_all, self._alive)  # runs at the interpreter's exit too
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
        """Trains once with each candidate, bit for bit as `train_candidates`.

        A program whose worker dies or hangs is tried a second time. If that fails too, the others are trained before
        the error is raised. An exception, including the one of Ctrl-C, ends the trainings in progress.

        Args:
            programs: The candidates to train with.
            epochs: The length of training.
            seed: The seed of the trainings.
            last_epoch_only: See `Task.train_programs`.
            on_step: Called several times per second for each training, not for every step.
            on_result: Called with the index, the curve and the training time in seconds of a program as soon as they
                are known, in any order.

        Raises:
            WorkerError: If a program could not be trained. All others are trained and reported before.
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
                # Those that are not ready are ended too: their messages may have been read and lost.
                for worker in [worker for worker in self._alive if not worker.idle]:
                    self._end(worker)
                raise
        if call.failures:
            raise WorkerError(_report(programs, call.failures))

    def close(self) -> None:
        """Ends the workers after a running call; later calls start new ones."""
        with self._one_call_at_a_time():
            _end_all(self._alive)

    @contextmanager
    def _one_call_at_a_time(self) -> Iterator[None]:
        with self._lock:
            if self._called:
                raise RuntimeError("called from a callback of the same pool's train(), which is still running")
            self._called = True
            try:
                yield
            finally:
                self._called = False

    def _start(self) -> None:
        self._alive.append(_Worker(self._command))

    def _end(self, worker: _Worker, patience: float = 0.0) -> str:
        """Ends a worker; see `_Worker.end`."""
        self._alive.remove(worker)
        return worker.end(patience)

    def _abandon(self) -> None:
        """Forgets workers and lock in a forked child; they are the parent's."""
        for worker in self._alive:
            worker.abandon()
        self._alive.clear()
        self._lock, self._called = threading.RLock(), False


class _Call:
    """A call of `WorkerPool.train`: hands out programs and receives replies."""

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
        """Works until each program is trained or has failed."""
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
                f"can't start worker processes: {self._start_failure}. Finished trainings are kept. {_IN_PROCESS}"
            )

    def _hand_out(self) -> None:
        for worker in [worker for worker in self._pool._alive if worker.idle]:
            if not self._waiting:
                return
            index = self._waiting.popleft()
            try:
                worker.send(index, self._requests[index])
            except OSError:  # the worker died while idle, so the program is not the cause
                self._waiting.appendleft(index)
                worker.index = None
                self._lost(worker, "")

    def _listen(self) -> None:
        """Waits a while for messages and handles them."""
        poll = min(_POLL_S, self._pool.hang_timeout / 4)
        workers = list(self._pool._alive)
        heard, waited = _wait(workers, poll)
        for worker in workers:
            if worker in heard:
                worker.silent = 0.0
                self._receive(worker)
            elif not worker.idle:
                worker.silent += waited
                if worker.silent > self._pool.hang_timeout:
                    self._lost(worker, f"it was silent for {self._pool.hang_timeout:g} s")
                # If a forked process also holds the pipe, it does not end with the worker.
                elif worker.silent > 4 * poll and worker.process.poll() is not None:
                    self._lost(worker, "")

    def _receive(self, worker: _Worker) -> None:
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
                    self._lost(worker, f"it sent no valid reply: {bytes(line[:100])!r}")
                    return
                continue  # printed by an import, before the worker's own code started
            self._handle(worker, message)

    def _handle(self, worker: _Worker, message: Mapping[str, Any]) -> None:
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

    def _lost(self, worker: _Worker, reason: str) -> None:
        """Ends a hanging or (no `reason`) dead worker; queues its program again."""
        ended = self._pool._end(worker, patience=0.0 if reason else 1.0)  # the pipes close shortly before the end
        index = worker.index
        if index is None:
            self._failed_starts += 1
            self._start_failure = reason or f"{ended}; its output is on stderr"
            return
        self._attempts[index] += 1
        if self._attempts[index] < _MAX_ATTEMPTS:
            self._waiting.append(index)
        else:
            self._unfinished.discard(index)
            self.failures[index] = f"its worker process was lost twice: {reason or ended}"


class _Worker:
    """A worker process and its pipes, seen from the parent."""

    def __init__(self, command: Sequence[str]) -> None:
        package_parent = str(Path(__file__).resolve().parents[2])  # a bare checkout is not installed
        paths = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            process_group=0,  # Ctrl-C in a terminal reaches the parent alone
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ready = False
        self.index: int | None = None  # of the program in training
        self.silent = 0.0  # seconds without a message while the parent was listening
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
        """Returns the lines that are complete; None at the end."""
        data = self.stdout.read(1 << 16)
        if not data:
            return None
        self._received += data
        if b"\n" not in data:
            return []
        *lines, self._received = self._received.split(b"\n")
        return lines

    def end(self, patience: float = 0.0) -> str:
        """Kills the process after `patience` seconds and describes its end."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        self.process.kill()
        self._stdin.close()
        self.stdout.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        return _end_text(self.process.returncode)

    def abandon(self) -> None:
        self._stdin.close()
        self.stdout.close()
        self.process.returncode = 0  # no child of this process, so there is nothing to wait for


def worker_command(task_name: str, *arguments: str) -> tuple[str, ...]:
    """Returns the command of a worker; `tasks.worker` describes further arguments."""
    # -P keeps the current folder out of the import path.
    return sys.executable, "-P", "-m", "nosbench_env.tasks.worker", check_task_name(task_name), *arguments


def check_workers(workers: int) -> int:
    """Returns `workers` if it is a positive integer."""
    if isinstance(workers, bool) or not isinstance(workers, SupportsIndex) or operator.index(workers) < 1:
        raise ValueError(f"workers must be an integer >= 1, got {workers!r}")
    return operator.index(workers)


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wait(workers: Sequence[_Worker], timeout: float) -> tuple[set[_Worker], float]:
    """Waits; returns the workers with messages and the seconds waited.

    The seconds are at most `timeout`, even if this process was suspended meanwhile, so that a suspension does not count
    as a worker's silence.
    """
    started = time.monotonic()
    # A new selector for each call, and of a kind without a file descriptor, which a fork would share.
    with selectors.PollSelector() as selector:
        for worker in workers:
            selector.register(worker.stdout, selectors.EVENT_READ, worker)
        heard = {key.data for key, _ in selector.select(timeout)}
    return heard, min(time.monotonic() - started, timeout)


def _end_text(code: int | None) -> str:
    if code is None:
        return "it could not be killed"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"it was ended by {name}" + (", which the system sends when memory runs out" if name == "SIGKILL" else "")


def _report(programs: Sequence[Candidate], failures: Mapping[int, str]) -> str:
    reasons = "\n\n".join(
        f"{programs[index] or '# the empty program'}\n-> {reason}" for index, reason in sorted(failures.items())
    )
    return (
        f"{len(failures)} of {len(programs)} programs could not be trained. The others are trained, and their results "
        f"are kept.\n\n{reasons}\n\nThe same call tries only these again. {_IN_PROCESS}"
    )


def _end_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().end()


_pools: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _abandon_all() -> None:
    for pool in list(_pools):
        pool._abandon()


os.register_at_fork(after_in_child=_abandon_all)
