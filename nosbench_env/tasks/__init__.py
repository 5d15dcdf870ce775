"""The tasks, by name. Importing this module imports no torch; `make_task` does."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Task

# Name -> "module:class"; the class takes a device.
TASKS: Mapping[str, str] = MappingProxyType(
    {
        "pfn": "nosbench_env.tasks.pfn:PFNTask",
        "toy": "nosbench_env.tasks.toy:ToyTask",
    }
)


def make_task(name: str, device: str = "auto") -> Task:
    """Makes a task of `TASKS`: "pfn" is the paper's, "toy" takes less than a second.

    Raises:
        ValueError: If the name or the device is unknown, or the device not available.
    """
    module, _, class_name = TASKS[check_task_name(name)].partition(":")
    task: Task = getattr(import_module(module), class_name)(device=device)
    return task


def check_task_name(name: str) -> str:
    """`name` if it is a key of `TASKS`."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    return name


def check_epochs(epochs: int | None) -> int | None:
    """`epochs` if it is a positive integer, or None for a task's default."""
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, SupportsIndex) or epochs < 1):
        raise ValueError(f"epochs must be an integer >= 1, got {epochs!r}")
    return None if epochs is None else operator.index(epochs)


def check_seed(seed: int) -> int:
    """`seed` if it is an integer from 0 to a million, beyond which seeds would share random streams."""
    if isinstance(seed, bool) or not isinstance(seed, SupportsIndex) or not 0 <= seed <= 1_000_000:
        raise ValueError(f"seed must be an integer from 0 to 1,000,000, got {seed!r}")
    return operator.index(seed)
