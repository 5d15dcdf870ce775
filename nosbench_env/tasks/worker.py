"""A worker process of `WorkerPool`: requests on stdin, replies on stdout.

Requests and replies are JSON objects, one per line. Floats are written exactly, by their shortest repr, and may be NaN.
The arguments are the task's name and, for studies of the first steps, the number of steps in an epoch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from nosbench_env.candidates.candidate import candidate_from_json
from nosbench_env.tasks import make_task

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Curve, Progress, Task

HEARTBEAT_S = 0.2  # time between reports of progress, which also show that the worker is alive

Reply = Callable[[dict[str, Any]], None]


def main() -> None:
    """Answers requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends its workers
    requests, replies = _claim_pipes()

    def reply(message: dict[str, Any]) -> None:
        try:
            replies.write(json.dumps(message).encode() + b"\n")
            replies.flush()
        except BrokenPipeError:  # the parent has ended
            os._exit(0)

    replies.write(b"\n")  # ends a line that an import may have printed before the pipes were claimed
    try:
        import torch

        torch.set_num_threads(1)
        task = make_task(sys.argv[1], "cpu")
        if len(sys.argv) > 2:
            task.steps_per_epoch = int(sys.argv[2])
    except Exception as error:
        reply({"failed": f"{type(error).__name__}: {error}"})
        return
    reply({"ready": True})
    for line in requests:
        request = json.loads(line)
        reply({"index": request["index"]} | _train(task, request, reply))


def _train(task: Task, request: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Trains, reports progress, and returns the final reply."""
    reported = time.monotonic()

    def on_step(progress: Progress) -> None:
        nonlocal reported
        if time.monotonic() - reported >= HEARTBEAT_S or progress.step == progress.steps:
            reported = time.monotonic()
            step = {"step": progress.step, "steps": progress.steps, "loss": progress.loss}
            reply({"index": request["index"]} | step)

    from nosbench_env.tasks.train_candidates import train_candidates

    started = time.perf_counter()
    curves: list[Curve] = []
    try:
        train_candidates(
            task,
            [candidate_from_json(request["program"])],
            request["epochs"],
            request["seed"],
            on_step=on_step,
            on_curve=lambda _, curve: curves.append(curve),
            last_epoch_only=request["last_epoch_only"],
        )
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    (curve,) = curves
    return {
        "step_losses": curve.step_losses.tolist(),
        "stopped_at": curve.stopped_at,
        "first_epoch": curve.first_epoch,
        "validation_losses": None if curve.validation_losses is None else curve.validation_losses.tolist(),
        "seconds": time.perf_counter() - started,
    }


def _claim_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Takes the pipes to the parent away from stdin and stdout.

    Libraries that print or read can't disturb them then: prints go to stderr, and stdin is empty.
    """
    try:
        os.fstat(2)
    except OSError:  # the parent has no stderr
        os.open(os.devnull, os.O_WRONLY)  # gets the free number, 2
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


if __name__ == "__main__":
    main()
