"""Checks of a training's settings; imports no torch."""

from __future__ import annotations

import operator
import re

MAX_EPOCHS = 100_000


def check_device_name(device: str) -> str:
    """Returns a device's name, available or not; else raises a ValueError."""
    if not isinstance(device, str) or not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise ValueError(f"unknown device {device!r}; use 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return device


def check_arithmetic(arithmetic: str) -> str:
    """Returns `arithmetic` if it is known; else raises a ValueError."""
    if arithmetic not in ("float32", "tf32"):
        raise ValueError(f"unknown arithmetic {arithmetic!r}; known are 'float32' and 'tf32'")
    return arithmetic


def check_epochs(epochs: int | None) -> int | None:
    """Returns `epochs` if None or from 1 to `MAX_EPOCHS`; else raises a ValueError."""
    if epochs is not None and (isinstance(epochs, bool) or not hasattr(epochs, "__index__") or epochs < 1):
        raise ValueError(f"epochs must be an integer >= 1, got {epochs!r}")
    if epochs is not None and operator.index(epochs) > MAX_EPOCHS:
        raise ValueError(f"epochs must be at most {MAX_EPOCHS:,}, got {epochs!r}")
    return None if epochs is None else operator.index(epochs)


def check_seed(seed: int) -> int:
    """Returns `seed` if from 0 to 1,000,000; else raises a ValueError.

    Greater seeds would share random streams.
    """
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed <= 1_000_000:
        raise ValueError(f"seed must be an integer from 0 to 1,000,000, got {seed!r}")
    return operator.index(seed)
