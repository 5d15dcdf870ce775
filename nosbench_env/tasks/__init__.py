"""The tasks, by name. Importing this module imports no torch; `make_task` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from nosbench_env.execution.settings import check_arithmetic

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Task


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
