"""What holds for every task, checked on the toy task where it takes many trainings."""

import contextlib
import math
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, TASKS, Program, ProgramOptimizer, fingerprint, make_task
from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.execution.optimizer import _constants
from nosbench_env.identity.paper_proxy import _proxy, paper_fingerprint
from nosbench_env.language.status import loss_status
from nosbench_env.tasks.pfn import bucket_borders
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.toy import iris

ADAMW = partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"])
TOY = make_task("toy", "cpu")
# Sets the parameters to NaN in the update of step 25: log(2.5 - 0.1 * step) turns NaN there.
DIES_AT_26 = Program.parse(
    "r9 = mul(0.1, step); r10 = add(1.0, 1.0); r10 = add(r10, 0.5); r9 = sub(r10, r9); r9 = add(r9, 0.01)"
    "; r9 = log(r9); r9 = mul(r9, 1e-06)"
)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_with_any_optimizer_and_tells_its_progress(name: str) -> None:
    task = make_task(name, "cpu")
    seen: list[Progress] = []

    class Enough(Exception):
        pass

    def stop_soon(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == 3:
            raise Enough

    with pytest.raises(Enough):
        task.train(partial(torch.optim.SGD, lr=1e-2), seed=1, on_step=stop_soon)
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert seen[0].steps == task.default_epochs * task.steps_per_epoch
    assert all(math.isfinite(progress.loss) for progress in seen)


def test_curve_holds_each_steps_loss_before_its_update() -> None:
    curve = TOY.train(ADAMW, epochs=2)
    assert curve.step_losses.shape == (2, 10)
    assert curve.stopped_at is None
    np.testing.assert_array_equal(curve.epoch_means, curve.step_losses.mean(axis=1))
    still = TOY.train(partial(ProgramOptimizer, program=Program()), epochs=1)
    assert curve.step_losses[0, 0] == still.step_losses[0, 0]


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
        found = list(pool.map(train, seeds))
    assert found == [train(seed) for seed in seeds]


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


def test_a_task_made_on_another_default_device_trains() -> None:
    iris.cache_clear()
    try:
        with torch.device("meta"):
            task = make_task("toy", "cpu")
        np.testing.assert_array_equal(task.train(ADAMW, epochs=1).step_losses, TOY.train(ADAMW, epochs=1).step_losses)
    finally:
        iris.cache_clear()


def test_settings_are_given_back_when_training_raises() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="broken"), exact_arithmetic():
            assert torch.get_num_threads() == 1
            raise RuntimeError("broken")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["AdamW", "Adadelta", "Incumbent"])
def test_training_in_two_parts_equals_training_in_one_go(name: str, tmp_path: Path) -> None:
    make_optimizer = partial(ProgramOptimizer, program=KNOWN_PROGRAMS[name])
    whole = TOY.train(make_optimizer, epochs=6)
    file = tmp_path / "folder" / "checkpoint.pt"
    part = TOY.train(make_optimizer, epochs=2, checkpoint=file)
    np.testing.assert_array_equal(part.step_losses, whole.step_losses[:2])
    steps: list[int] = []
    rest = TOY.train(make_optimizer, epochs=6, checkpoint=file, on_step=lambda progress: steps.append(progress.step))
    np.testing.assert_array_equal(rest.step_losses, whole.step_losses)
    assert steps == list(range(21, 61))
    again = TOY.train(make_optimizer, epochs=4, checkpoint=file)  # the file has gone further already
    np.testing.assert_array_equal(again.step_losses, whole.step_losses[:4])


def test_interrupted_training_resumes_at_its_last_whole_epoch(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TOY.train(ADAMW, epochs=4, checkpoint=tmp_path / "c.pt", on_step=interrupt)
    steps: list[int] = []
    curve = TOY.train(ADAMW, epochs=4, checkpoint=tmp_path / "c.pt", on_step=lambda p: steps.append(p.step))
    assert steps[0] == 21
    np.testing.assert_array_equal(curve.step_losses, TOY.train(ADAMW, epochs=4).step_losses)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_torch_optimizers_resume_too(tmp_path: Path) -> None:
    make_optimizer = partial(torch.optim.Adam, lr=1e-2)
    whole = TOY.train(make_optimizer, epochs=3)
    TOY.train(make_optimizer, epochs=1, checkpoint=tmp_path / "c.pt")
    parts = TOY.train(make_optimizer, epochs=3, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(parts.step_losses, whole.step_losses)


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    TOY.train(ADAMW, epochs=1, checkpoint=file)
    before = file.read_bytes()
    others = [
        partial(ProgramOptimizer, program=KNOWN_PROGRAMS["SGD"]),
        partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"], lr=0.5),
        partial(torch.optim.SGD, lr=1.0),
    ]
    with pytest.raises(ValueError, match=r"belongs to another training\.\nExpected: toy version 1 seed 1"):
        TOY.train(ADAMW, epochs=2, seed=1, checkpoint=file)
    for other in others:
        with pytest.raises(ValueError, match="belongs to another training"):
            TOY.train(other, epochs=2, checkpoint=file)
    assert file.read_bytes() == before
    for settings in ({"lr": 0.1}, {"lr": 0.01}):
        TOY.train(partial(torch.optim.SGD, **settings), epochs=1, checkpoint=tmp_path / f"{settings['lr']}.pt")
    with pytest.raises(ValueError, match="belongs to another training"):
        TOY.train(partial(torch.optim.SGD, lr=0.1), epochs=2, checkpoint=tmp_path / "0.01.pt")
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"can't resume from .*damaged"):
        TOY.train(ADAMW, epochs=2, checkpoint=file)


def test_training_stops_when_a_parameter_is_not_finite() -> None:
    steps: list[int] = []
    curve = TOY.train_programs([DIES_AT_26], epochs=4, on_step=lambda progress: steps.append(progress.step))[0]
    assert curve.stopped_at == steps[-1] == 26
    assert np.isfinite(curve.step_losses.ravel()[:26]).all()
    assert np.isnan(curve.step_losses.ravel()[26:]).all()
    assert [loss_status(mean) for mean in curve.epoch_means] == ["ok", "ok", "nan", "nan"]


def test_dying_in_the_very_last_update_leaves_a_finite_curve_that_says_so() -> None:
    # Its step 20 is the last of epoch 2: the losses, taken before the updates, are all finite.
    dies_at_20 = Program.parse(str(DIES_AT_26).replace("add(r10, 0.5)", "sub(r10, 0.1)") + "\n")
    curve = TOY.train_programs([dies_at_20], epochs=2)[0]
    assert curve.stopped_at == 20
    assert np.isfinite(curve.step_losses).all()


def test_a_curve_asked_shorter_than_its_checkpoint_does_not_know_of_a_later_death(tmp_path: Path) -> None:
    make_optimizer = partial(ProgramOptimizer, program=DIES_AT_26)
    long = TOY.train(make_optimizer, epochs=4, checkpoint=tmp_path / "c.pt")
    short = TOY.train(make_optimizer, epochs=2, checkpoint=tmp_path / "c.pt")
    assert (long.stopped_at, short.stopped_at) == (26, None)
    again = TOY.train(make_optimizer, epochs=4, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(again.step_losses, long.step_losses)
    assert again.stopped_at == 26


def test_huge_finite_parameters_do_not_stop_training() -> None:
    # Updates of 1e24: the squares overflow in float32, and so does the loss; the values do not.
    leap = Program.parse("r9 = div(0.001, 1e-06); r9 = square(r9); r9 = square(r9); r9 = square(r9)")
    curve = TOY.train_programs([leap], epochs=1)[0]
    assert not np.isfinite(curve.step_losses).all()
    assert curve.stopped_at is None


def test_train_programs_equals_train_and_reports_each_curve_when_known() -> None:
    programs = [KNOWN_PROGRAMS["SGD"], KNOWN_PROGRAMS["Adam"]]
    reported: list[int] = []
    curves = TOY.train_programs(programs, epochs=1, on_curve=lambda index, curve: reported.append(index))
    assert reported == [0, 1]
    for program, curve in zip(programs, curves, strict=True):
        alone = TOY.train(partial(ProgramOptimizer, program=program), epochs=1)
        np.testing.assert_array_equal(curve.step_losses, alone.step_losses)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3", True])
def test_bad_epochs_are_refused(epochs: object) -> None:
    with pytest.raises(ValueError, match="epochs must be an integer >= 1, got"):
        TOY.train(ADAMW, epochs=epochs)


@pytest.mark.parametrize("seed", [-1, 1_000_001, 0.5, None])
def test_bad_seeds_are_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 1,000,000, got"):
        TOY.train(ADAMW, epochs=1, seed=seed)


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("cifar", "cpu", "unknown task 'cifar'; known are pfn, toy"),
        ("toy", "gpu", "unknown device 'gpu'; use 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ("toy", "meta", "unknown device 'meta'"),
        ("toy", "cuda:99", "device 'cuda:99' is not available: torch sees . CUDA devices here; try 'cpu'"),
    ],
)
def test_unknown_tasks_and_devices_are_refused(name: str, device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(name, device)
