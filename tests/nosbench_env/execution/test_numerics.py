"""Forks and callers' settings are tested in tasks/test_model_task.py."""

import platform
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from nosbench_env.execution.numerics import (
    device_name,
    exact_arithmetic,
    resolve_device,
    seeded,
    subnormals_kept,
)


def test_exact_arithmetic_is_plain_float32_on_one_thread() -> None:
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), exact_arithmetic():
            assert torch.get_num_threads() == 1
            assert torch.is_grad_enabled()
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_num_threads() == threads
    finally:
        torch.set_default_dtype(torch.float32)


def test_tf32_is_for_matrix_products_on_a_gpu_alone() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with exact_arithmetic(tf32=True):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_settings_are_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="broken"), exact_arithmetic():
            raise RuntimeError("broken")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_one_thread_computes_at_a_time() -> None:
    inside, others = threading.Event(), threading.Event()

    def second() -> None:
        with exact_arithmetic():
            others.set()

    with ThreadPoolExecutor(1) as pool:
        with exact_arithmetic():
            waiting = pool.submit(lambda: (inside.set(), second()))
            assert inside.wait(30)
            assert not others.wait(0.05)
        waiting.result(30)
    assert others.is_set()


def test_subnormal_numbers_are_kept_and_the_callers_setting_restored() -> None:
    tiny = torch.tensor(1e-38)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush subnormal numbers")
    try:
        with subnormals_kept():
            assert float(tiny * 0.1) > 0
        assert float(tiny * 0.1) == 0
    finally:
        torch.set_flush_denormal(False)


def test_seeding_leaves_the_callers_random_state_alone() -> None:
    state = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with pytest.raises(RuntimeError, match="broken"), seeded(3):
        assert torch.equal(torch.rand(4), first)
        raise RuntimeError("broken")
    assert torch.equal(torch.get_rng_state(), state)


def test_devices_are_resolved_to_ones_that_exist() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=f"'cuda:99'.*{torch.cuda.device_count()} CUDA devices.*'cpu'"):
        resolve_device("cuda:99")


def test_a_cpu_is_named_by_its_architecture() -> None:
    assert device_name("cpu") == f"cpu ({platform.machine()})"


@pytest.mark.gpu
def test_a_gpu_is_named_by_its_model() -> None:
    assert device_name("cuda") == torch.cuda.get_device_name(0)
