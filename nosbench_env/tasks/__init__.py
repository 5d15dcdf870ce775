"""The table of tasks by name; importing it loads no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from nosbench_env.execution.settings import check_arithmetic

if TYPE_CHECKING:
    from nosbench_env.tasks.task import Task


# Name -> "module:class" or "module:class:argument". The class takes the argument, if there is one, and `device` and
# `arithmetic`.
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
# Further tasks: a data set of OpenML by its number.
_OPENML = re.compile("mlp-(openml-[1-9][0-9]{0,8})")


def make_task(name: str, device: str = "auto", arithmetic: str = "float32") -> Task:
    """Makes a task.

    "pfn" is the paper's task, "toy" takes less than a second, "mlp" trains a deep classifier.

    Args:
        name: A name in `TASKS`, or "mlp-openml-ID" with the number of a data set on OpenML.
        device: "auto" (a GPU if available), "cpu", "cuda" or "cuda:N".
        arithmetic: "float32", or "tf32", which is faster on a GPU and less exact. Results of "tf32" are stored under
            keys of their own.

    Raises:
        ValueError: If the name, the device, the arithmetic or the data set is unknown or unavailable.
    """
    check_arithmetic(arithmetic)
    _, _, *arguments = _entry(name)
    make: Callable[..., Task] = task_class(name)
    return make(*arguments, device=device, arithmetic=arithmetic)


def task_class(name: str) -> type[Task]:
    """Returns a task's class, with `version` and `probe`; loads no data."""
    module, class_name, *_ = _entry(name)
    named: type[Task] = getattr(import_module(module), class_name)
    return named


def check_task_name(name: str) -> str:
    """Returns `name` if it names a task; does not ask OpenML.

    Raises:
        ValueError: If it names none.
    """
    if not isinstance(name, str) or not (name in TASKS or _OPENML.fullmatch(name)):
        raise ValueError(
            f"unknown task {name!r}; known are {', '.join(TASKS)}, "
            "and mlp-openml-ID with the number of a data set on OpenML, such as mlp-openml-31"
        )
    return name


def _entry(name: str) -> list[str]:
    """Returns module, class and arguments of a task."""
    openml = _OPENML.fullmatch(check_task_name(name))
    entry = TASKS["mlp"].replace("digits", openml[1]) if openml else TASKS[name]
    return entry.split(":")
