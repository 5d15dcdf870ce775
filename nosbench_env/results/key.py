"""`ResultKey`: the parts of a key of the store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nosbench_env.execution.settings import check_seed

# The characters are printable ASCII that JSON does not escape.
_PATTERN = re.compile(
    r"(?P<task>[A-Za-z0-9_.+-]{1,64})-(?P<task_version>0|[1-9][0-9]{0,8})/seed=(?P<seed>0|[1-9][0-9]{0,6})"
    r"/(?P<arithmetic>[A-Za-z0-9_.+-]{1,64})/(?P<identity_value>[A-Za-z0-9_.+-]{1,64}:[!#-\[\]-~]{1,500})"
)
_EXAMPLE = "'pfn-1/seed=0/float32/paper-1:0x1.8b1ap-2'"


@dataclass(frozen=True, slots=True, order=True)
class ResultKey:
    """The parts of a stored record's key.

    `str` joins the parts and `parse` splits them.

    Attributes:
        task: Name of the task.
        task_version: Version of the task.
        seed: Seed of the training.
        arithmetic: Precision of the training.
        identity_value: The text that equivalent programs share: the identity with its version, a colon and a value.

    >>> ResultKey.parse("pfn-1/seed=0/float32/paper-1:0x1.8b1ap-2").identity
    'paper-1'
    """

    task: str
    task_version: int
    seed: int
    arithmetic: str
    identity_value: str

    @property
    def identity(self) -> str:
        """The identity with its version."""
        return self.identity_value.partition(":")[0]

    @classmethod
    def parse(cls, key: str) -> ResultKey:
        """Splits a key into its parts.

        Raises:
            ValueError: If the text is not a key.
        """
        match = _PATTERN.fullmatch(key)
        if match is None:
            shown = repr(key) if len(key) <= 80 else repr(key[:77]) + "..."
            raise ValueError(f"expected a key such as {_EXAMPLE}, got {shown}")
        version, seed = int(match["task_version"]), check_seed(int(match["seed"]))
        return cls(match["task"], version, seed, match["arithmetic"], match["identity_value"])

    def __str__(self) -> str:
        return f"{self.task}-{self.task_version}/seed={self.seed}/{self.arithmetic}/{self.identity_value}"


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter for records of a store.

    A record must match all fields that are not None.

    Attributes:
        task: Name of the task.
        task_version: Version of the task.
        identity: The identity, such as "paper" for any version or "paper-1" for one.
        nosbench_version: Version of nosbench_env that trained.
    """

    task: str | None = None
    task_version: int | None = None
    identity: str | None = None
    nosbench_version: str | None = None

    def matches(self, key: ResultKey, provenance: Mapping[str, Any]) -> bool:
        """Returns True for the key and provenance of a selected record."""
        return (
            self.task in (None, key.task)
            and self.task_version in (None, key.task_version)
            and self.identity in (None, key.identity, key.identity.partition("-")[0])
            and self.nosbench_version in (None, provenance.get("nosbench_env"))
        )
