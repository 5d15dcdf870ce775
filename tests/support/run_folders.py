"""Run folders like those of `search`, with given losses."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nosbench_env.language.program import Program

STEPS_COST = 1.5  # simulated seconds of a training


def program(number: int) -> list[Any]:
    """Returns a different program for each number."""
    return Program.parse("r9 = mul(grad, 0.1); " + "r9 = mul(r9, 0.5); " * number).to_json()


def history(losses: Sequence[float | None], *, asked: int = 1, known: int = 0) -> list[dict[str, Any]]:
    """Returns the lines of a history for losses.

    None is a failure on the probe, inf one in training. Equal losses are results of the same program.

    The first `known` distinct programs were in the store before.
    """
    lines: list[dict[str, Any]] = []
    keys: dict[float | None, str] = {}
    spent = 0.0
    for number, loss in enumerate(losses, start=1):
        new = loss not in keys
        key = keys.setdefault(loss, f"toy-1/seed=0/float32/fingerprint-1-toy-1:{len(keys)}")
        trained = new and loss is not None and len(keys) > known
        spent += STEPS_COST * (new and loss is not None)
        finite = loss is not None and math.isfinite(loss)
        lines.append(
            {
                "number": number,
                "batch": (number - 1) // asked + 1,
                "asked": asked,
                "program": program(int(key.rpartition(":")[2])),
                "status": "ok" if finite else "nan" if loss is None else "inf",
                "loss": loss if finite else None,
                "key": key,
                "hit": not trained,
                "source": "trained" if trained else "probe" if loss is None else "store",
                "seconds": 0.1,
                "new": new,
                "simulated_seconds": spent,
            }
        )
    return lines


def config(agent: str = "rs", seed: int | None = 0, **others: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "agent": agent,
        "space": {"max_instructions": 20, "memory_size": 20},
        "seed": seed,
        "task": "toy",
        "task_version": 1,
        "arithmetic": "float32",
        "epochs": 5,
        "training_seed": 0,
        "identity": "fingerprint",
        "batch_size": 1,
    } | others
    if seed is None:
        del settings["seed"]
    return settings


def write_run(
    folder: Path, losses: Sequence[float | None], agent: str = "rs", seed: int | None = 0, **others: Any
) -> Path:
    """Writes a run folder, and returns its path."""
    asked = others.get("batch_size", 1)
    known = others.pop("known", 0)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(agent, seed, **others), indent=1))
    lines = history(losses, asked=asked, known=known)
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
