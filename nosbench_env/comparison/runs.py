"""Runs: what a run folder holds, read without touching it; and methods, which are runs that differ in their seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nosbench_env.agents import HistoryEntry, RunError
from nosbench_env.agents.search import whole_batches
from nosbench_env.evaluation import Source
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.program import InvalidProgram, Program
from nosbench_env.language.search_space import SearchSpace

Axis = Literal["queries", "distinct", "seconds"]
AXES: tuple[Axis, ...] = get_args(Axis)
SOURCES: tuple[Source, ...] = get_args(Source)

# What a loss depends on beside the program: of runs that differ in it, losses say nothing about the methods.
CONDITIONS: Mapping[str, type] = {
    "task": str,
    "task_version": int,
    "arithmetic": str,
    "epochs": int,
    "training_seed": int,
    "identity": str,
}
_AGENT_NAMES = {
    "rs": "random search",
    "re": "regularized evolution",
    "smac-nos": "SMAC over programs",
    "smac-hpo": "SMAC over optimizers",
}
_LONGEST_LABEL = 80


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of a search method; the arrays have a number for each query.

    Attributes:
        folder: Where it is.
        config: What its `config.json` holds.
        best: The lowest loss so far, in nats for "pfn" and "toy"; inf before the first finite one.
        distinct: How many of the queries so far had a key that was new to the run.
        simulated_seconds: What the queries so far cost; see `Budget`.
        failed: How many of the queries so far had no finite loss.
        sources: For each source of answers, how many of the queries so far came from it.
        incumbents: The queries that had a lower loss than all before them.
        torn: Whether the history ends within a line or a batch, as it does while it is being written.
    """

    folder: Path
    config: Mapping[str, Any]
    best: NDArray[np.float64]
    distinct: NDArray[np.int64]
    simulated_seconds: NDArray[np.float64]
    failed: NDArray[np.int64]
    sources: Mapping[Source, NDArray[np.int64]]
    incumbents: tuple[HistoryEntry, ...]
    torn: bool

    @property
    def seed(self) -> Any:
        """The seed of the search method; None if its configuration names none."""
        return self.config.get("seed")

    @property
    def queries(self) -> int:
        """How many queries it has done."""
        return len(self.best)

    def spent(self, axis: Axis) -> NDArray[np.float64]:
        """What it had spent after each query: queries, distinct programs, or simulated seconds."""
        if axis == "queries":
            return np.arange(1, self.queries + 1, dtype=np.float64)
        return self.distinct.astype(np.float64) if axis == "distinct" else self.simulated_seconds

    def queries_within(self, axis: Axis, budget: float) -> int:
        """How many queries a budget allows for."""
        return int(np.searchsorted(self.spent(axis), budget, side="right"))

    def best_within(self, axis: Axis, budget: float) -> HistoryEntry | None:
        """The query with the lowest loss that a budget allows for; None if none was finite."""
        queries = self.queries_within(axis, budget)
        return next((entry for entry in reversed(self.incumbents) if entry.number <= queries), None)


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A search method: runs of one configuration, but for the seed.

    Attributes:
        label: What it is called.
        config: The configuration, without the seed.
        runs: Its runs, by seed.
    """

    label: str
    config: Mapping[str, Any] = field(repr=False)
    runs: tuple[Run, ...] = field(repr=False)


def read_run(folder: Path | str) -> Run:
    """Reads a run folder; nothing is written, and the search may still be going on.

    A last line that is not complete is left out, and so is a last batch of which queries are missing: the search does
    the same when it continues.

    Raises:
        RunError: If it is no run folder, holds no query, or is damaged; the message names the file and the line.
    """
    folder = Path(folder)
    config = _read_config(folder)
    entries, torn = _read_history(folder / "history.jsonl")
    losses = np.array([math.inf if entry.loss is None else entry.loss for entry in entries])
    best = np.minimum.accumulate(losses)
    improved = best < np.concatenate(([math.inf], best[:-1]))
    return Run(
        folder=folder,
        config=config,
        best=best,
        distinct=np.cumsum([entry.new for entry in entries]),
        simulated_seconds=np.array([float(entry.simulated_seconds) for entry in entries]),
        failed=np.cumsum([entry.loss is None for entry in entries]),
        sources={source: np.cumsum([entry.source == source for entry in entries]) for source in SOURCES},
        incumbents=tuple(entries[place] for place in np.flatnonzero(improved)),
        torn=torn,
    )


def read_history(run: Run) -> list[HistoryEntry[Any]]:
    """All queries of a run, read once more: those that it had when it was read, though the search has gone on.

    Raises:
        RunError: If they are not there any more, or damaged.
    """
    entries, _ = _read_history(run.folder / "history.jsonl")
    if len(entries) < run.queries:
        raise RunError(f"{run.folder} had {run.queries} queries and now has {len(entries)}: it was changed meanwhile")
    return entries[: run.queries]


def group_runs(runs: Sequence[Run], labels: Mapping[str, str] | None = None) -> list[Method]:
    """Groups runs by configuration without seed, in order of their first appearance.

    Args:
        runs: The runs.
        labels: Names to give to methods, by the names that they get otherwise.

    Raises:
        ValueError: If two runs have one configuration and seed (a second copy is no independent run), a label is of no
            method, or two methods have the same.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        config = json.dumps({name: value for name, value in run.config.items() if name != "seed"}, sort_keys=True)
        groups.setdefault(config, []).append(run)
    for group in groups.values():
        seen: dict[str, Run] = {}
        for run in group:
            other = seen.setdefault(json.dumps(run.seed), run)
            if other is not run and run.seed is not None:
                raise ValueError(
                    f"{other.folder} and {run.folder} are the same run: one configuration and seed "
                    f"{shown(str(run.seed))}. Leave one of them out; a run with another seed would count"
                )
    configs = [json.loads(config) for config in groups]
    names = _names(configs)
    for old in labels or {}:
        if old not in names:
            raise ValueError(f"there is no method called {old!r} to label; there are {_listed(names)}")
    names = [shown(labels[name]) if labels and name in labels else name for name in names]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two methods are called {repeated[0]!r}; each needs a label of its own")
    return [
        Method(name, config, tuple(sorted(group, key=lambda run: (str(type(run.seed)), run.seed is None or run.seed))))
        for name, config, group in zip(names, configs, groups.values(), strict=True)
    ]


def different_conditions(runs: Sequence[Run]) -> list[str]:
    """What keeps the runs from being comparable, as sentences."""
    found = []
    for name in CONDITIONS:
        first_with: dict[str, Run] = {}
        for run in runs:
            first_with.setdefault(json.dumps(run.config[name]), run)
        if len(first_with) > 1:
            differing = ", ".join(f"{shown(value)} in {run.folder}" for value, run in first_with.items())
            found.append(f"{name} is {differing}")
    return found


def shown(text: str, longest: int = _LONGEST_LABEL) -> str:
    """Text of unknown origin on one line, short, with nothing in it that a terminal would obey."""
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.split()))
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to call methods: after the agent, and as far as needed after what else their configurations differ in."""
    names = [_name(config) for config in configs]
    for name, count in Counter(names).items():
        if count == 1:
            continue
        alike = [place for place, other in enumerate(names) if other == name]
        flat = [dict(_flat(configs[place])) for place in alike]
        fields = sorted({key for config in flat for key in config})
        differing = [key for key in fields if len({json.dumps(config.get(key)) for config in flat}) > 1]
        for place, config in zip(alike, flat, strict=True):
            details = [f"{key}={json.dumps(config.get(key))}" for key in differing]
            names[place] = shown(", ".join([name, *details]))
    for place, name in enumerate(names):  # cut off, they may have become equal
        if names.index(name) != place:
            names[place] = f"{name} ({place + 1})"
    return names


def _name(config: Mapping[str, Any]) -> str:
    name = _AGENT_NAMES.get(config["agent"], config["agent"])
    if "start" in config:
        name += f" from {_start(config['start'])}"
    space = config.get("space")
    constraints = space.get("constraints") if isinstance(space, dict) else None
    if isinstance(constraints, list) and constraints:
        name += f", constraints {' + '.join(map(str, constraints))}"
    return shown(name)


def _start(start: Any) -> str:
    """What a start program is called."""
    if start is None:
        return "random programs"
    if isinstance(start, str):
        return start
    try:
        program = Program.from_json(start)
    except InvalidProgram:
        return "an unknown program"
    for name, known in KNOWN_PROGRAMS.items():
        if program in (known, SearchSpace().admit(known)):
            return name
    return f"program {hashlib.sha256(str(program).encode()).hexdigest()[:8]}"  # as in the folder's name


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it has no config.json. Name the folders of runs, such as runs/*")
    try:
        config = _strict_json(_bytes(path))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object")
    for name, kind in {"agent": str, **CONDITIONS}.items():
        value = config.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = shown(json.dumps(value)) if name in config else "nothing"
            raise RunError(f"{path} is damaged: expected {name} to be {_KINDS[kind]}, found {found}")
    return config


_KINDS = {str: "a text", int: "an integer"}


def _read_history(path: Path) -> tuple[list[HistoryEntry], bool]:
    """The queries done, and whether more was begun."""
    if not path.is_file():
        raise RunError(f"{path.parent} has no history yet: no query is done")
    data = _bytes(path)
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    entries: list[HistoryEntry] = []
    keys: set[str] = set()
    spent = 0.0
    for number, line in enumerate(lines, start=1):
        try:
            entry = HistoryEntry.from_json(_strict_json(line))
            _check_entry(entry, number, keys, spent)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise RunError(
                f"{path}, line {number}, is damaged: {shown(str(error) or type(error).__name__, 300)}"
            ) from error
        keys.add(entry.key)
        spent = entry.simulated_seconds
        entries.append(entry)
    entries = whole_batches(entries)
    if not entries:
        raise RunError(f"{path} holds no finished query yet")
    return entries, len(entries) < len(lines) or not data.endswith(b"\n")


def _check_entry(entry: HistoryEntry, number: int, keys: set[str], spent: float) -> None:
    if entry.number != number:
        raise ValueError(f"it is query {entry.number}, where query {number} should be")
    if entry.source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {entry.source!r}")
    if entry.hit != (entry.source != "trained"):
        raise ValueError(f"hit {entry.hit} and source {entry.source!r} don't go together")
    if entry.new != (entry.key not in keys):
        raise ValueError(f"new is {entry.new}, but the key is {'that of an earlier query' if entry.new else 'new'}")
    if not math.isfinite(entry.simulated_seconds) or entry.simulated_seconds < spent:
        raise ValueError(f"simulated_seconds must not be less than before ({spent}), got {entry.simulated_seconds}")


def _strict_json(data: bytes) -> Any:
    """JSON data as the standard has it: no NaN, no infinity, no name twice."""

    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    return json.loads(data, parse_constant=refused, object_pairs_hook=unique)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror or error}") from error
