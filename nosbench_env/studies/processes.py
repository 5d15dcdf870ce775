"""A study's jobs in processes, which can be stopped and resumed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from nosbench_env.store import StoreError
from nosbench_env.studies.settings import Report

Job = Callable[[Callable[[], None]], None]
_REPORT_EVERY_S = 10.0


class JobError(ValueError):
    """A failed job; the message names the cause."""


class Reporter:
    """Reports the progress of a study, at most every ten seconds."""

    def __init__(self, report: Report, progress: Callable[[], str]) -> None:
        self._report, self._progress = report, progress
        self._reported = time.monotonic()

    def tell(self) -> None:
        """Reports the progress, unless it was reported recently."""
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            self._report(self._progress())


def do_jobs(jobs: Sequence[Job], workers: int, report: Report, progress: Callable[[], str]) -> None:
    """Does all jobs in order, `workers` at a time.

    Args:
        jobs: The jobs. Each is called with a function that it should call often. For several workers they must be
            picklable.
        workers: Number of processes; a single job at a time is done in this process.
        report: Called with the progress about every ten seconds.
        progress: Returns the progress as text.

    Raises:
        JobError: If a job fails in its process. All jobs that run beside it are stopped.
    """
    reporter = Reporter(report, progress)
    if min(workers, len(jobs)) <= 1:
        for job in jobs:
            job(reporter.tell)
    else:
        _in_processes([partial(job, _end_with_parent) for job in jobs], workers, reporter.tell)


def _in_processes(jobs: Sequence[Callable[[], None]], workers: int, on_tick: Callable[[], None]) -> None:
    """Does jobs in processes; calls `on_tick` about once a second."""
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


def _end_with_parent() -> None:
    """Ends the process of a job if its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)


def _do(job: Callable[[], None], result: Connection) -> None:
    """Does a job and sends the error message, or an empty text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
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
        message = f"it ended with exit code {process.exitcode}; run the same command again to continue"
    process.join()
    if message:
        raise JobError(f"a process of the study failed: {message}")
