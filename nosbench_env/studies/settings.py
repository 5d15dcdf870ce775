"""The settings and resources that all studies have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from nosbench_env.execution.settings import check_device_name, check_epochs
from nosbench_env.tasks import check_task_name
from nosbench_env.tasks.worker_pool import check_workers

Report = Callable[[str], None]


@dataclass(frozen=True)
class StudySettings:
    """The settings of any study.

    Attributes:
        task: Name of the task.
        epochs: Length of training.
        seeds: Number of seeds: 0, 1, ...

    Raises:
        ValueError: If an integer is not positive, or the task is unknown.
    """

    task: str = "pfn"
    epochs: int = 1
    seeds: int = 3

    def __post_init__(self) -> None:
        check_task_name(self.task)
        check_epochs(self.epochs)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("int", int) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{field.name} must be an integer >= 1, got {value!r}")

    def changed(self, **changes: Any) -> Self:
        """Returns the settings with all changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class Resources:
    """The resources that a study may use.

    Attributes:
        store: Location of the store; None for one in the study's folder.
        device: The device to train on.
        workers: Number of runs or trainings at once, each in its own process.
        report: Called at times with a line about the progress.

    Raises:
        ValueError: If a value is invalid.
    """

    store: str | None = None
    device: str = "auto"
    workers: int = 1
    report: Report = lambda text: None

    def __post_init__(self) -> None:
        check_device_name(self.device)
        check_workers(self.workers)


DEFAULT_RESOURCES = Resources()


def check_some(name: str, values: tuple[str, ...], known: tuple[str, ...]) -> None:
    """Checks that values are one or more different known names.

    Raises:
        ValueError: If they are not.
    """
    if not values or set(values) - set(known) or len(set(values)) < len(values):
        raise ValueError(f"{name} must be some of {', '.join(known)}, got {values!r}")
