"""The parts that all tasks of models share: settings, checks, programs one after the other."""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nosbench_env import KNOWN_PROGRAMS, Oracle, ProgramOptimizer, fingerprint, make_task
from nosbench_env.execution.numerics import seeded
from nosbench_env.execution.optimizer import _constants
from nosbench_env.identity.paper_proxy import _proxy, paper_fingerprint
from nosbench_env.tasks.model_task import ModelTask
from nosbench_env.tasks.pfn_data import bucket_borders
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.toy import iris
from nosbench_env.tasks.training import Learner

ADAMW = partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"])
TOY = make_task("toy", "cpu")


class LineTask(ModelTask):
    """A user's task: fits a line to points on one."""

    name = "line"
    version = 1
    default_epochs = 4
    steps_per_epoch = 5

    def learners(self, seed: int, steps: int) -> list[Learner]:
        with seeded(seed):
            model = nn.Linear(1, 1)
        x = torch.linspace(-1, 1, 8).unsqueeze(1)
        return [Learner(model, lambda step: (model(x) - 2 * x - step / steps).square().mean())]


def test_a_task_of_ones_own_sets_up_models_alone() -> None:
    task = LineTask("cpu")
    curve = task.train(partial(torch.optim.SGD, lr=0.1))
    assert curve.step_losses.shape == (4, 5)
    assert curve.epoch_means[-1] < curve.epoch_means[0]
    np.testing.assert_array_equal(task.train(partial(torch.optim.SGD, lr=0.1)).step_losses, curve.step_losses)
    evaluation = Oracle(task, "sqlite://").query(KNOWN_PROGRAMS["SGD"])
    (expected,) = task.train_programs([KNOWN_PROGRAMS["SGD"]])
    assert (evaluation.loss, evaluation.epochs) == (expected.epoch_means[-1], 4)


def test_a_task_without_models_is_none() -> None:
    class Nothing(ModelTask):
        name = "nothing"

    with pytest.raises(TypeError, match="learners"):
        Nothing()


def test_training_is_reproducible_and_leaves_the_callers_random_state_alone() -> None:
    first = TOY.train(ADAMW, epochs=2)
    torch.manual_seed(123)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    second = TOY.train(ADAMW, epochs=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(first.step_losses, second.step_losses)
    other_seed = TOY.train(ADAMW, epochs=2, seed=1)
    assert not np.isclose(first.step_losses, other_seed.step_losses).any()


@contextlib.contextmanager
def reduced_precision() -> Iterator[None]:
    """Reduced-precision matrix products by torch's current interface, as GPU users set them."""
    matmuls = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [matmul.fp32_precision for matmul in matmuls]
    for matmul, precision in zip(matmuls, ("tf32", "bf16"), strict=True):
        matmul.fp32_precision = precision
    yield
    assert [matmul.fp32_precision for matmul in matmuls] == ["tf32", "bf16"]  # given back
    for matmul, precision in zip(matmuls, before, strict=True):
        matmul.fp32_precision = precision


@pytest.mark.parametrize(
    "setting",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.device("meta"),
        reduced_precision,
    ],
    ids=["autocast", "inference_mode", "no_grad", "default device", "reduced precision"],
)
def test_the_callers_settings_change_nothing_now_or_later(setting: Any) -> None:
    expected = TOY.train(ADAMW, epochs=1).step_losses
    value = fingerprint(KNOWN_PROGRAMS["AdamW"], "paper")
    caches = (iris, _proxy, paper_fingerprint, _constants, bucket_borders)
    for cached in caches:
        cached.cache_clear()
    try:
        with setting():
            inside = TOY.train(ADAMW, epochs=1).step_losses
            assert fingerprint(KNOWN_PROGRAMS["AdamW"], "paper") == value
        np.testing.assert_array_equal(inside, expected)
        np.testing.assert_array_equal(TOY.train(ADAMW, epochs=1).step_losses, expected)
        paper_fingerprint.cache_clear()
        assert fingerprint(KNOWN_PROGRAMS["AdamW"], "paper") == value
    finally:
        for cached in caches:
            cached.cache_clear()


def test_legacy_precision_settings_are_given_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        TOY.train(ADAMW, epochs=1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_train_one_after_the_other_and_alike() -> None:
    def train(seed: int) -> list[float]:
        return TOY.train(ADAMW, epochs=1, seed=seed).step_losses.ravel().tolist()

    seeds = [0, 1, 2] * 4
    with ThreadPoolExecutor(4) as pool:
        losses = list(pool.map(train, seeds))
    assert losses == [train(seed) for seed in seeds]


def test_a_process_forked_while_a_thread_trains_can_train() -> None:
    begun, done = threading.Event(), threading.Event()

    def on_step(_: Progress) -> None:
        begun.set()
        done.wait(30)

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(TOY.train, ADAMW, epochs=1, on_step=on_step)
        begun.wait(30)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of such forks
            child = os.fork()
        if child == 0:
            signal.alarm(20)  # a deadlock ends the child
            TOY.train(ADAMW, epochs=1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        done.set()
        training.result()
    assert status == 0


def test_train_programs_equals_train_and_reports_each_curve_when_known() -> None:
    programs = [KNOWN_PROGRAMS["SGD"], KNOWN_PROGRAMS["Adam"]]
    reported: list[int] = []
    curves = TOY.train_programs(programs, epochs=1, on_curve=lambda index, curve: reported.append(index))
    assert reported == [0, 1]
    for program, curve in zip(programs, curves, strict=True):
        alone = TOY.train(partial(ProgramOptimizer, program=program), epochs=1)
        np.testing.assert_array_equal(curve.step_losses, alone.step_losses)


@pytest.mark.parametrize(
    ("epochs", "seed", "name"), [(0, 0, "epochs"), (1.5, 0, "epochs"), (1, -1, "seed"), (1, None, "seed")]
)
def test_bad_lengths_and_seeds_are_refused(epochs: Any, seed: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} .* got {epochs if name == 'epochs' else seed}"):
        TOY.train(ADAMW, epochs=epochs, seed=seed)
    with pytest.raises(ValueError, match=name):
        make_task("pfn", "cpu").train_programs([], epochs=epochs, seed=seed)
