"""The worker process by itself: its replies as JSON lines, whatever libraries print."""

import contextlib
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, OptimizerConfig, Program, make_task
from nosbench_env.tasks.worker_pool import WorkerPool, worker_command

ADAM = KNOWN_PROGRAMS["Adam"]


def replies(*requests: dict[str, Any], arguments: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The messages of a worker that gets these requests and then the end of its input."""
    defaults = {"epochs": 2, "seed": 0, "last_epoch_only": False}
    lines = "".join(f"{json.dumps(defaults | request)}\n" for request in requests)
    command = worker_command("toy", *arguments)
    done = subprocess.run(command, input=lines, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def test_requests_are_answered_in_turn_until_the_input_ends() -> None:
    config = OptimizerConfig("torch.optim.SGD", {"lr": 0.1})
    ready, *messages = replies({"index": 4, "program": ADAM.to_json()}, {"index": 2, "program": config.to_json()})
    assert ready == {"ready": True}
    results = [message for message in messages if "step_losses" in message]
    assert [result["index"] for result in results] == [4, 2]
    (expected,) = make_task("toy", "cpu").train_programs([ADAM], epochs=2)
    np.testing.assert_array_equal(results[0]["step_losses"], expected.step_losses)
    assert (results[0]["stopped_at"], results[0]["first_epoch"], results[0]["validation_losses"]) == (None, 0, None)
    (last, *_) = [message for message in messages if message.get("step") == 20]
    assert (last["index"], last["steps"], last["loss"]) == (4, 20, expected.step_losses[-1, -1])


def test_an_epoch_may_have_fewer_steps() -> None:
    result = replies({"index": 0, "program": ADAM.to_json()}, arguments=("3",))[-1]
    assert np.shape(result["step_losses"]) == (2, 3)


def test_trainings_that_raise_or_diverge_are_answers() -> None:
    refused = OptimizerConfig("torch.optim.SGD", {"lr": -1.0})
    dies = Program.parse("r9 = div(param, r10); r9 = mul(r9, step)")
    _, error, *_, result = replies({"index": 0, "program": refused.to_json()}, {"index": 1, "program": dies.to_json()})
    assert (error["index"], error["error"].startswith("ValueError: ")) == (0, True)
    assert (result["index"], result["stopped_at"] is None) == (1, False)
    assert np.isnan(result["step_losses"]).any()


def test_prints_of_libraries_do_not_get_into_the_replies(capfd: pytest.CaptureFixture[str]) -> None:
    code = """
import os, subprocess, sys
print("half a line of an import", end="", flush=True)
print('{"ready": "no"} or not', flush=True)
from nosbench_env.tasks import worker
real = worker._train
def noisy(*arguments):
    print("printed in a training")
    print('{"index": 0}', file=sys.__stdout__)
    os.write(1, b"written by C code\\n")
    subprocess.run(["echo", "written by a process"])
    assert sys.stdin.read() == ""
    return real(*arguments)
worker._train = noisy
worker.main()
"""
    with contextlib.closing(WorkerPool("toy", 1, command=[sys.executable, "-c", code, "toy"])) as pool:
        trained: list[int] = []
        pool.train([ADAM, Program()], 1, 0, on_result=lambda index, *_: trained.append(index))
        assert sorted(trained) == [0, 1]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("written by C code") == printed.err.count("written by a process") == 2
