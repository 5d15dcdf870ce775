"""`ResultKey`: the parts of the string under which a result is stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nosbench_env.execution.settings import check_seed

# Printable ASCII without what JSON would have to escape.
_PATTERN = re.compile(
    r"(?P<task>[A-Za-z0-9_.+-]{1,64})-(?P<task_version>0|[1-9][0-9]{0,8})/seed=(?P<seed>0|[1-9][0-9]{0,6})"
    r"/(?P<arithmetic>[A-Za-z0-9_.+-]{1,64})/(?P<identity>[A-Za-z0-9_.+-]{1,64}:[!#-\[\]-~]{1,500})"
)
_EXAMPLE = "'pfn-1/seed=0/float32/paper-1:0x1.8b1ap-2'"


@dataclass(frozen=True, slots=True, order=True)
class ResultKey:
    """What a result is the result of. `str()` gives the key as the store has it; `parse` is the inverse.

    Attributes:
        task: Name of the task.
        task_version: Version of the task.
        seed: Seed of the training.
        arithmetic: Precision of the training.
        identity: Which programs share the result: the method that decided it, with its version, and after a colon the
            value that these programs have in common.

    >>> ResultKey.parse("pfn-1/seed=0/float32/paper-1:0x1.8b1ap-2").method
    'paper-1'
    """

    task: str
    task_version: int
    seed: int
    arithmetic: str
    identity: str

    @property
    def method(self) -> str:
        """The method of the identity, with its version."""
        return self.identity.partition(":")[0]

    @classmethod
    def parse(cls, key: str) -> ResultKey:
        """Takes a key apart.

        Raises:
            ValueError: If it is none.
        """
        match = _PATTERN.fullmatch(key)
        if match is None:
            raise ValueError(f"expected a key such as {_EXAMPLE}, got {_shown(key)}")
        version, seed = int(match["task_version"]), check_seed(int(match["seed"]))
        return cls(match["task"], version, seed, match["arithmetic"], match["identity"])

    def __str__(self) -> str:
        return f"{self.task}-{self.task_version}/seed={self.seed}/{self.arithmetic}/{self.identity}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Some of the results of a store: those that have all that is given here.

    Attributes:
        task: Name of the task.
        task_version: Version of the task.
        identity_method: Method of the identity, with its version, such as "paper-1".
        nosbench_version: Version of nosbench_env that trained.
    """

    task: str | None = None
    task_version: int | None = None
    identity_method: str | None = None
    nosbench_version: str | None = None

    def matches(self, key: ResultKey, provenance: Mapping[str, Any]) -> bool:
        """Whether a result is one of these."""
        return (
            self.task in (None, key.task)
            and self.task_version in (None, key.task_version)
            and self.identity_method in (None, key.method)
            and self.nosbench_version in (None, provenance.get("nosbench_env"))
        )


def _shown(key: str) -> str:
    return repr(key) if len(key) <= 80 else repr(key[:77]) + "..."
