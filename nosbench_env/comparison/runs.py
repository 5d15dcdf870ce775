"""`Run`: a run folder as arrays; `RunGroup`: a method's runs."""

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
from nosbench_env.agents.history import SOURCES, read_history, shown
from nosbench_env.agents.run_folder import CONDITIONS, HISTORY, read_config
from nosbench_env.evaluation import Source
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.program import InvalidProgram, Program
from nosbench_env.language.search_space import SearchSpace

Axis = Literal["queries", "distinct", "seconds"]
AXES: tuple[Axis, ...] = get_args(Axis)
_AGENT_NAMES = {
    "rs": "random search",
    "re": "regularized evolution",
    "smac-nos": "SMAC over programs",
    "smac-hpo": "SMAC over optimizers",
}


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run of a search method.

    The arrays have one number per query.

    Attributes:
        folder: The run folder.
        config: The content of its `config.json`.
        best: The lowest loss so far, in nats for "pfn" and "toy"; inf before the first finite loss.
        distinct: The number of queries so far whose key was new to the run.
        simulated_seconds: The cost of the queries so far; see `Budget`.
        failed: The number of queries so far without a finite loss.
        sources: For each source of answers, the number of queries so far that it answered.
        incumbents: The queries with a lower loss than all before them.
        torn: True if the history ends within a line or a batch, as it does while it is being written.
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
        """The seed of the search method; None if the configuration has none."""
        return self.config.get("seed")

    @property
    def queries(self) -> int:
        """The number of queries."""
        return len(self.best)

    def spent(self, axis: Axis) -> NDArray[np.float64]:
        """Returns the queries, distinct programs or simulated seconds spent after each query."""
        if axis == "queries":
            return np.arange(1, self.queries + 1, dtype=np.float64)
        return self.distinct.astype(np.float64) if axis == "distinct" else self.simulated_seconds

    def queries_within(self, axis: Axis, budget: float) -> int:
        """Returns the number of queries within a budget."""
        return int(np.searchsorted(self.spent(axis), budget, side="right"))

    def best_within(self, axis: Axis, budget: float) -> HistoryEntry | None:
        """Returns the query with the lowest loss within a budget.

        It is None if no loss was finite.
        """
        queries = self.queries_within(axis, budget)
        return next((entry for entry in reversed(self.incumbents) if entry.number <= queries), None)


@dataclass(frozen=True, slots=True, eq=False)
class RunGroup:
    """The runs of a search method: one configuration, several seeds.

    Attributes:
        label: Name of the method.
        config: The configuration, without the seed.
        runs: The runs, ordered by seed.
    """

    label: str
    config: Mapping[str, Any] = field(repr=False)
    runs: tuple[Run, ...] = field(repr=False)


def read_run(folder: Path | str) -> Run:
    """Reads a run folder.

    Nothing is written, and the search may still be running. An incomplete last line or batch is left out, as by a
    search that is resumed.

    Raises:
        RunError: If it is no run folder, holds no query, or is damaged. The message names the file and the line.
    """
    folder = Path(folder)
    config = read_config(folder)
    history = read_history(folder / HISTORY)
    entries = history.entries
    if not entries:
        raise RunError(f"{folder} holds no finished query yet")
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
        torn=history.torn,
    )


def entries_of(run: Run) -> list[HistoryEntry[Any]]:
    """Reads the queries of a run again.

    They are those of the first reading, even if the search has continued.

    Raises:
        RunError: If queries are missing or damaged.
    """
    entries = read_history(run.folder / HISTORY).entries
    if len(entries) < run.queries:
        raise RunError(f"{run.folder} had {run.queries} queries and now has {len(entries)}: it has changed since")
    return entries[: run.queries]


def group_runs(runs: Sequence[Run], labels: Mapping[str, str] | None = None) -> list[RunGroup]:
    """Groups runs by configuration without seed, in order of first appearance.

    Args:
        runs: The runs.
        labels: New names of methods, by their default names.

    Raises:
        ValueError: If two runs have the same configuration and seed (a copy is no independent run), a label names no
            method, or two methods have the same name.
    """
    by_config: dict[str, list[Run]] = {}
    for run in runs:
        config = json.dumps({name: value for name, value in run.config.items() if name != "seed"}, sort_keys=True)
        by_config.setdefault(config, []).append(run)
    for group in by_config.values():
        seen: dict[str, Run] = {}
        for run in group:
            other = seen.setdefault(json.dumps(run.seed), run)
            if other is not run and run.seed is not None:
                raise ValueError(
                    f"{other.folder} and {run.folder} are the same run, with one configuration and seed "
                    f"{shown(str(run.seed))}. Leave one of them out; only runs with different seeds count"
                )
    configs = [json.loads(config) for config in by_config]
    names = _names(configs)
    for old in labels or {}:
        if old not in names:
            raise ValueError(f"there is no method called {old!r} to label; there are {', '.join(map(repr, names))}")
    names = [shown(labels[name]) if labels and name in labels else name for name in names]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"two methods are called {repeated[0]!r}; each needs a label of its own")
    return [
        RunGroup(name, config, tuple(sorted(group, key=_by_seed)))
        for name, config, group in zip(names, configs, by_config.values(), strict=True)
    ]


def _by_seed(run: Run) -> tuple[str, Any]:
    return str(type(run.seed)), run.seed is None or run.seed


def different_conditions(runs: Sequence[Run]) -> list[str]:
    """Lists the conditions in which runs differ, as sentences."""
    differences = []
    for name in CONDITIONS:
        first_with: dict[str, Run] = {}
        for run in runs:
            first_with.setdefault(json.dumps(run.config[name]), run)
        if len(first_with) > 1:
            values = ", ".join(f"{shown(value)} in {run.folder}" for value, run in first_with.items())
            differences.append(f"{name} is {values}")
    return differences


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names methods after their agents and, for equal agents, their differences."""
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
    for place, name in enumerate(names):  # shortened names may be equal
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
    """Returns the name of a start program."""
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
