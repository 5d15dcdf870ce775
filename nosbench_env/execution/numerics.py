"""Reproducible settings of torch: precision, threads, random state, device."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from nosbench_env.execution.settings import check_device_name

_one_at_a_time = threading.RLock()


def _renew_lock() -> None:
    global _one_at_a_time
    _one_at_a_time = threading.RLock()


# A forked child lacks its parent's threads, so a lock held by one of them would never be released.
os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def exact_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Computes in plain float32 on one thread within the context.

    With `tf32`, matrix products on a GPU have that precision instead. The caller's settings are restored at the end.

    Losses depend on the number of threads, on autocast and on reduced-precision matrix products, and training amplifies
    the differences. Settings and random state belong to the process, so one training runs at a time: a second thread
    waits.
    """
    matmuls = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]  # missing stub
    with _one_at_a_time, ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(True))
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(subnormals_kept())
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        for matmul in matmuls:
            stack.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
            matmul.fp32_precision = "ieee"
        if tf32:
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def subnormals_kept() -> Iterator[None]:
    """Keeps numbers below 1e-38, even if the caller flushes them to 0."""
    flushed = bool(np.float32(1e-38) * np.float32(0.1) == 0)
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global CPU generator (initial weights), then restores it."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.random.set_rng_state(state)


def resolve_device(device: str) -> str:
    """Returns a usable device.

    "auto" becomes the first CUDA device if there is one, else the CPU.

    Raises:
        ValueError: If the device is unknown to torch or unusable here.
    """
    check_device_name(device)
    kind = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"device {device!r} is not available: torch sees {count} CUDA devices here; try 'cpu'")
    if kind.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ValueError(
            "this process was forked from one that already uses the GPU, which CUDA does not allow: "
            "start workers with 'spawn' or 'forkserver', or train on device 'cpu'"
        )
    return str(kind)


def device_name(device: str) -> str:
    """Returns a device's name: "cpu (x86_64)" or a GPU's model."""
    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else f"cpu ({platform.machine()})"
