"""Jobs of a study in processes of their own: each can be stopped at any moment and goes on when it is started again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from nosbench_env.store import StoreError

Job = Callable[[], None]
Report = Callable[[str], None]
_REPORT_EVERY_S = 10.0


class JobError(ValueError):
    """A job failed; the message says why."""


def in_processes(jobs: Sequence[Job], workers: int, on_tick: Callable[[], None] = lambda: None) -> None:
    """Does all jobs, in this order, `workers` at a time; a single one at a time is done in this process.

    Args:
        jobs: What to do; for processes they must be what can be pickled. They should call `end_with_parent` now and
            then.
        workers: How many processes at most.
        on_tick: Called about once a second while processes run.

    Raises:
        JobError: If a job failed in its process. Jobs that ran beside it are ended.
    """
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            job()
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)
    running: dict[Connection, SpawnProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                ours, theirs = context.Pipe(duplex=False)
                # A daemon ends with this process.
                process = context.Process(target=_do, args=(waiting.pop(0), theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = process
            for pipe in wait(list(running), timeout=1.0):
                assert isinstance(pipe, Connection)
                _finish(pipe, running.pop(pipe))
            on_tick()
    finally:
        for process in running.values():
            process.terminate()
            process.join()


class Reporter:
    """Tells now and then how far a study is."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._reported = time.monotonic()

    def tell(self, text: Callable[[], str]) -> None:
        """Tells this text, unless something was told just before."""
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            self._report(text())


def end_with_parent() -> None:
    """Ends this process at once if it was started for a job and its parent is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _do(job: Job, result: Connection) -> None:
    """Does a job; sends what went wrong, or an empty text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    try:
        job()
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
        raise JobError(message)
