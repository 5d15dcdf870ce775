"""The reference of a comparison: a known program's stored loss."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from nosbench_env.identity.identify import Identity
from nosbench_env.language.known_programs import KNOWN_PROGRAMS, known_name
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.store import ResultStore, StoreError


@dataclass(frozen=True, slots=True)
class Reference:
    """A known program and its loss under the conditions of the runs.

    Attributes:
        name: A key of `KNOWN_PROGRAMS`.
        loss: The loss; None if it is unknown or not finite.
        why_not: The reason if there is no loss.
    """

    name: str
    loss: float | None
    why_not: str = ""


def look_up(name: str, conditions: Mapping[str, Any], store: str | None) -> Reference:
    """Looks up the loss of a known program, without training.

    It is taken from the store or from the results shipped with the package.

    Args:
        name: A key of `KNOWN_PROGRAMS`, in any case.
        conditions: The conditions of the runs; see `CONDITIONS`.
        store: Location of the store; None for the user's default. It is opened read-only.

    Raises:
        ValueError: If there is no known program of that name.
    """
    if (known := known_name(name)) is None:
        raise ValueError(f"reference must be one of {', '.join(KNOWN_PROGRAMS)}, or none, got {name!r}")
    name = known
    identity = cast("Identity", conditions["identity"])
    results = ResultStore(store, read_only=True)
    location = str(results.location)
    if "://" not in location and not os.path.exists(location):
        return Reference(name, None, _not_stored(name, conditions))
    try:
        len(results)  # raises if the store can't be read
    except StoreError as error:
        results.close()
        return Reference(name, None, str(error))
    try:
        oracle = Oracle(conditions["task"], results, "cpu", identity, workers=1, arithmetic=conditions["arithmetic"])
        if oracle.task.version != conditions["task_version"]:
            return Reference(name, None, f"this is version {oracle.task.version} of the task")
        evaluation = oracle.query(
            KNOWN_PROGRAMS[name], conditions["epochs"], conditions["training_seed"], last_epoch_only=True
        )
    except StoreError:
        return Reference(name, None, _not_stored(name, conditions))
    except ValueError as error:  # a custom task, or an arithmetic that this machine lacks
        return Reference(name, None, str(error))
    finally:
        results.close()
    if not math.isfinite(evaluation.loss):
        return Reference(name, None, "it diverges")
    return Reference(name, evaluation.loss)


def _not_stored(name: str, conditions: Mapping[str, Any]) -> str:
    command = f"nosbench evaluate {name} --task {conditions['task']} --epochs {conditions['epochs']}"
    if conditions["training_seed"]:
        command += f" --seed {conditions['training_seed']}"
    if conditions["identity"] != "fingerprint":
        command += f" --identity {conditions['identity']}"
    return f"the store does not hold it, and a comparison trains nothing; run `{command}` to add it"
