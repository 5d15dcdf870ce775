"""The tasks, by name. Importing this module imports no torch; `make_task` does."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Task

MAX_EPOCHS = 100_000

# Name -> "module:class", or "module:class:argument"; the class takes a device, and the argument first.
TASKS: Mapping[str, str] = MappingProxyType(
    {
        "pfn": "nosbench_env.tasks.pfn:PFNTask",
        "toy": "nosbench_env.tasks.toy:ToyTask",
        "mlp": "nosbench_env.tasks.mlp:MLPTask:digits",
        "mlp-breast-cancer": "nosbench_env.tasks.mlp:MLPTask:breast-cancer",
        "mlp-iris": "nosbench_env.tasks.mlp:MLPTask:iris",
        "mlp-wine": "nosbench_env.tasks.mlp:MLPTask:wine",
    }
)
# And one for each data set of OpenML, by its number there.
_OPENML = re.compile("mlp-(openml-[1-9][0-9]{0,8})")


def make_task(name: str, device: str = "auto", arithmetic: str = "float32") -> Task:
    """Makes a task: "pfn" is the paper's, "toy" takes less than a second, "mlp" trains a deep classifier.

    Args:
        name: A name in `TASKS`, or "mlp-openml-ID" for the data set of that number on OpenML.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        arithmetic: "float32", or "tf32", which is faster on a GPU and less exact; its results have keys of their own.

    Raises:
        ValueError: If the name, the device or the arithmetic is unknown, or not available, or data can't be got.
    """
    check_arithmetic(arithmetic)
    _, _, *arguments = _entry(name)
    make: Callable[..., Task] = task_class(name)
    return make(*arguments, device=device, arithmetic=arithmetic)


def task_class(name: str) -> type[Task]:
    """The class of a task, which has its `probe`; it takes none of the task's data to know."""
    module, class_name, *_ = _entry(name)
    found: type[Task] = getattr(import_module(module), class_name)
    return found


def check_task_name(name: str) -> str:
    """`name` if it names a task; whether OpenML has a data set of that number is not asked here."""
    if not isinstance(name, str) or not (name in TASKS or _OPENML.fullmatch(name)):
        raise ValueError(
            f"unknown task {name!r}; known are {', '.join(TASKS)}, "
            "and mlp-openml-ID with the number of a data set of OpenML, such as mlp-openml-31"
        )
    return name


def _entry(name: str) -> list[str]:
    """Module, class and arguments of a task."""
    openml = _OPENML.fullmatch(check_task_name(name))
    entry = TASKS["mlp"].replace("digits", openml[1]) if openml else TASKS[name]
    return entry.split(":")


def check_device_name(device: str) -> str:
    """`device` if it is the name of one, whether or not this machine has it."""
    if not isinstance(device, str) or not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise ValueError(f"unknown device {device!r}; use 'auto', 'cpu', 'cuda' or 'cuda:N'")
    return device


def check_arithmetic(arithmetic: str) -> str:
    """`arithmetic` if it is the name of one."""
    if arithmetic not in ("float32", "tf32"):
        raise ValueError(f"unknown arithmetic {arithmetic!r}; known are 'float32' and 'tf32'")
    return arithmetic


def check_epochs(epochs: int | None) -> int | None:
    """`epochs` if it is a positive integer, or None for a task's default."""
    if epochs is not None and (isinstance(epochs, bool) or not hasattr(epochs, "__index__") or epochs < 1):
        raise ValueError(f"epochs must be an integer >= 1, got {epochs!r}")
    if epochs is not None and operator.index(epochs) > MAX_EPOCHS:
        raise ValueError(f"epochs must be at most {MAX_EPOCHS:,}, got {epochs!r}")
    return None if epochs is None else operator.index(epochs)


def check_seed(seed: int) -> int:
    """`seed` if it is an integer from 0 to a million, beyond which seeds would share random streams."""
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= seed <= 1_000_000:
        raise ValueError(f"seed must be an integer from 0 to 1,000,000, got {seed!r}")
    return operator.index(seed)
