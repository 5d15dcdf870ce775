"""The search loop: asks an agent, evaluates, tells it; owns the budget, the run folder and resuming, for all agents."""

from __future__ import annotations

import json
import math
import os
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Generic

import filelock

from nosbench_env.agents.agent import Agent, check_number_asked
from nosbench_env.agents.events import Events
from nosbench_env.candidates.candidate import AnyCandidate, Candidate, Evaluated, candidate_from_json
from nosbench_env.evaluation import Evaluation, Source
from nosbench_env.execution.settings import check_epochs, check_seed
from nosbench_env.language.program import Program
from nosbench_env.language.status import Status
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.tasks.task import OnStep

# What a training step costs in simulated seconds. The paper's training takes "about a minute" (Section 3.3) of 2,000
# steps; a constant makes runs comparable whatever they ran on, and whatever the store already knew.
SIMULATED_SECONDS_PER_STEP = 0.03
_SAVE_AGENT_EVERY_S = 10.0
_SAVING_SHARE = 0.02  # of the time, at most, for agents whose state is large


class RunError(ValueError):
    """The run folder can't be used: of another configuration, in use, or damaged. No finished query in it is lost."""


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends: as soon as any of these is spent.

    Attributes:
        queries: Programs asked about, hits included.
        distinct: Programs new to this run (by key), whether or not a store knew them.
        simulated_seconds: Training steps of those, times `SIMULATED_SECONDS_PER_STEP`.

    Raises:
        ValueError: If none is given, or one is not positive.
    """

    queries: int | None = None
    distinct: int | None = None
    simulated_seconds: float | None = None

    def __post_init__(self) -> None:
        limits = asdict(self)
        if all(limit is None for limit in limits.values()):
            raise ValueError("a budget needs at least one of queries, distinct, simulated_seconds")
        for name, limit in limits.items():
            kinds = (int, float) if name == "simulated_seconds" else int
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, kinds) or not limit > 0):
                kind = "number" if name == "simulated_seconds" else "integer"
                raise ValueError(f"budget: {name} must be a positive {kind}, got {limit!r}")


@dataclass(frozen=True, slots=True)
class HistoryEntry(Generic[Evaluated]):
    """One query of a run: a line of `history.jsonl`.

    Attributes:
        number: Counted from 1.
        batch: Queries asked for together share it; counted from 1.
        asked: How many were asked for together.
        program: What was asked: a program or an `OptimizerConfig`.
        status: "ok", "nan" or "inf".
        loss: The loss; None if it is not finite.
        key: Key of the result in the store.
        hit: Whether it was answered without training.
        source: "trained", "store" or "probe".
        seconds: Wall time of the query (of its batch, divided by the batch's size).
        new: Whether the key is new to this run.
        simulated_seconds: Cost of all queries of the run so far; see `Budget`.
    """

    number: int
    batch: int
    asked: int
    program: Evaluated
    status: Status
    loss: float | None
    key: str
    hit: bool
    source: Source
    seconds: float
    new: bool
    simulated_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {name: getattr(self, name) for name in _FIELDS} | {"program": self.program.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> HistoryEntry[Any]:
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError, KeyError: If a field is missing, unknown or of the wrong type.
        """
        entry: HistoryEntry[Candidate] = HistoryEntry(**(data | {"program": candidate_from_json(data["program"])}))
        for name, kinds in _FIELD_TYPES.items():
            if not isinstance(getattr(entry, name), kinds):
                raise ValueError(f"{name} is {reprlib.repr(getattr(entry, name))}")
        if entry.loss is not None and not math.isfinite(entry.loss):
            raise ValueError(f"loss is {entry.loss!r}")
        if entry.status not in ("ok", "nan", "inf") or (entry.loss is None) == (entry.status == "ok"):
            raise ValueError(f"status {reprlib.repr(entry.status)} and loss {entry.loss!r} don't go together")
        return entry


_FIELD_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "number": int,
    "batch": int,
    "asked": int,
    "status": str,
    "loss": (float, int, type(None)),
    "key": str,
    "hit": bool,
    "source": str,
    "seconds": (float, int),
    "new": bool,
    "simulated_seconds": (float, int),
}


_FIELDS = tuple(field.name for field in fields(HistoryEntry))


@dataclass(slots=True)
class SearchResult(Generic[Evaluated]):
    """What a run has found and spent; also shown while it goes on.

    Attributes:
        best: The query with the lowest loss, or None if none was finite.
        queries: Queries done.
        distinct: Programs new to the run.
        trained: Trainings done.
        simulated_seconds: See `Budget`.
        reference: The evaluation of the reference program, if one was named.
    """

    best: HistoryEntry[Evaluated] | None = None
    queries: int = 0
    distinct: int = 0
    trained: int = 0
    simulated_seconds: float = 0.0
    reference: Evaluation | None = None
    _keys: set[str] = field(default_factory=set, repr=False)

    def is_new(self, key: str) -> bool:
        """Whether no query of the run had this key."""
        return key not in self._keys

    def add(self, entry: HistoryEntry[Any]) -> None:
        """Counts a query."""
        self.queries += 1
        self.distinct += entry.new
        self.trained += not entry.hit
        self.simulated_seconds = entry.simulated_seconds
        self._keys.add(entry.key)
        if entry.loss is not None and (self.best is None or self.best.loss is None or entry.loss < self.best.loss):
            self.best = entry

    def within(self, budget: Budget) -> bool:
        """Whether no limit of the budget is reached."""
        spent = ((self.queries, budget.queries), (self.distinct, budget.distinct))
        return all(limit is None or used < limit for used, limit in spent) and (
            budget.simulated_seconds is None or self.simulated_seconds < budget.simulated_seconds
        )


def whole_batches(entries: Sequence[HistoryEntry[Evaluated]]) -> list[HistoryEntry[Evaluated]]:
    """The queries of a history without a last batch that was cut short."""
    last_batch = [entry for entry in entries if entry.batch == entries[-1].batch]
    cut_short = bool(last_batch) and len(last_batch) < last_batch[0].asked
    return list(entries[: len(entries) - cut_short * len(last_batch)])


OnQuery = Callable[[HistoryEntry[Any], SearchResult[Any]], None]


def search(
    agent: Agent[AnyCandidate],
    oracle: Oracle,
    budget: Budget,
    *,
    epochs: int | None = None,
    training_seed: int = 0,
    folder: Path | str | None = None,
    batch_size: int = 1,
    reference: Program | None = None,
    on_query: OnQuery | None = None,
    on_step: OnStep | None = None,
) -> SearchResult[AnyCandidate]:
    """Searches until the budget is spent.

    A run with a folder can be stopped at any moment, by Ctrl-C or otherwise; the same call continues it, with the same
    queries and losses as if it had not been stopped, as long as it finds the same store. (Only a query whose training
    was stored and whose line was not yet written counts as a hit then.) A greater budget prolongs a finished run.

    The folder holds `config.json`, `history.jsonl` (a line a query), `best.txt` (the best program so far), `agent.json`
    and events for TensorBoard: loss, best loss, distinct programs, hits and seconds by query, and the agent's figures.

    Args:
        agent: A fresh agent; a continued run brings it to where it was.
        oracle: Evaluates the programs.
        budget: When to end.
        epochs: Length of training; the task's default if None.
        training_seed: Seed of the trainings (the agent has its own).
        folder: The run folder; None keeps nothing but what the oracle stores.
        batch_size: Programs asked for and evaluated together.
        reference: A program to compare with, evaluated before the first query and outside of the budget.
        on_query: Called after each query, and for those that a continued run had already done.
        on_step: Called after each training step.

    Raises:
        ValueError: If `epochs`, `training_seed` or `batch_size` is out of range.
        RunError: If the folder belongs to another configuration, is in use by another process, or is damaged.
        StoreError: If the store fails. What was done before is kept; the same call continues.
    """
    epochs = check_epochs(epochs) or oracle.task.default_epochs
    check_number_asked(batch_size, "batch_size")
    config = {
        "agent": agent.name,
        "task": oracle.task.name,
        "task_version": oracle.task.version,
        "arithmetic": oracle.task.arithmetic,
        "epochs": epochs,
        "training_seed": check_seed(training_seed),
        "identity": oracle.identity,
        "batch_size": batch_size,
    }
    # The agent's own names stand beside these, as in the runs of old; where it has the same, both are kept.
    config |= {f"agent_{name}" if name in config else name: value for name, value in agent.config().items()}
    with _opened(Path(folder), config) if folder is not None else nullcontext() as run:
        result: SearchResult[AnyCandidate] = SearchResult()
        batch = 0

        def count(entries: Sequence[HistoryEntry]) -> None:
            for entry in entries:
                result.add(entry)
                if on_query is not None:
                    on_query(entry, result)
                if run is not None:
                    run.note(entry, result)
            if run is not None:
                run.note_agent(agent, result.queries)

        if run is not None:
            for entries in _catch_up(agent, oracle, run, epochs, training_seed):
                count(entries)
                batch = entries[-1].batch
            if result.best is not None:
                run.save_best(result.best)  # a kill may have come between the query and this
        if reference is not None:
            result.reference = oracle.query(reference, epochs, training_seed, on_step=on_step, last_epoch_only=True)
        while result.within(budget):
            batch += 1
            size = batch_size if budget.queries is None else min(batch_size, budget.queries - result.queries)
            programs = agent.ask(size)
            if len(programs) != size:
                raise ValueError(f"the agent was asked for {size} programs and gave {len(programs)}")
            started = time.perf_counter()
            evaluations = oracle.query_many(programs, epochs, training_seed, on_step=on_step, last_epoch_only=True)
            seconds = (time.perf_counter() - started) / size
            entries = _entries(result, batch, evaluations, seconds, oracle.task.steps_per_epoch)
            if run is not None:
                run.append(entries)
            agent.tell(programs, evaluations)
            best = result.best
            count(entries)
            if run is not None:
                if result.best is not None and result.best is not best:
                    run.save_best(result.best)
                run.save_agent_now_and_then(agent, result.queries)
        if run is not None:
            run.save_agent(agent, result.queries)
        return result


def _entries(
    result: SearchResult[Any], batch: int, evaluations: Sequence[Evaluation[Any]], seconds: float, steps_per_epoch: int
) -> list[HistoryEntry]:
    entries: list[HistoryEntry] = []
    cost = result.simulated_seconds
    for evaluation in evaluations:
        new = result.is_new(evaluation.key) and all(entry.key != evaluation.key for entry in entries)
        if new and evaluation.source != "probe":
            cost += evaluation.epochs * steps_per_epoch * SIMULATED_SECONDS_PER_STEP
        entries.append(
            HistoryEntry(
                number=result.queries + len(entries) + 1,
                batch=batch,
                asked=len(evaluations),
                program=evaluation.program,
                status=evaluation.status,
                loss=evaluation.loss if evaluation.status == "ok" else None,
                key=evaluation.key,
                hit=evaluation.hit,
                source=evaluation.source,
                seconds=round(seconds, 4),
                new=new,
                simulated_seconds=round(cost, 6),
            )
        )
    return entries


def _catch_up(
    agent: Agent[Any], oracle: Oracle, run: _Run, epochs: int, training_seed: int
) -> Iterator[list[HistoryEntry]]:
    """Brings a fresh agent to where the run's history ends: loads its last saved state, replays the queries since.

    Yields the history batch by batch, each once the agent is told of it.
    """
    history = run.history()
    saved_at = run.load_agent(agent)
    if saved_at > len(history):
        raise RunError(
            f"{run.folder}: the history ends before the agent's saved state; lines were lost from it. "
            "Put them back, or delete agent.json to go on from where the history ends"
        )
    for _, group in groupby(history, key=lambda entry: entry.batch):
        entries = list(group)
        if entries[0].number > saved_at:
            programs = agent.ask(len(entries))
            if programs != [entry.program for entry in entries]:
                raise RunError(
                    f"{run.folder}: query {entries[0].number} of the history is not what the agent proposes there. "
                    "The run was made with another version; choose another folder with --run"
                )
            agent.tell(programs, [_told(entry, oracle, epochs, training_seed) for entry in entries])
        yield entries


def _metrics(agent: Agent[Any]) -> dict[str, float]:
    """The agent's figures; an agent need not have any."""
    found: dict[str, float] = getattr(agent, "metrics", dict)()
    return found


def _told(entry: HistoryEntry[Any], oracle: Oracle, epochs: int, training_seed: int) -> Evaluation:
    """The evaluation as the agent was told it, of which the history keeps all but the curve and the provenance."""
    loss = float(entry.status) if entry.loss is None else entry.loss
    return Evaluation(
        entry.program,
        oracle.task.name,
        epochs,
        training_seed,
        loss,
        entry.status,
        (),
        entry.key,
        entry.hit,
        entry.source,
    )


@contextmanager
def _opened(folder: Path, config: dict[str, Any]) -> Iterator[_Run]:
    """The run folder, made if it is new and held against other processes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise RunError(f"{folder} is in use by another process; wait for it or choose another folder") from None
    except OSError as error:
        raise RunError(f"can't use the run folder {folder}: {error}; choose another with --run") from error
    try:
        run = _Run(folder)
        run.check_config(config)
        try:
            yield run
        finally:
            run.close()
    finally:
        lock.release()


class _Run:
    """The files of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config, self._history, self._agent = (
            folder / name for name in ("config.json", "history.jsonl", "agent.json")
        )
        self._events = Events(folder, 0, {})
        self._saved_at, self._saved = 0, time.monotonic()
        self._saving = 0.0  # how long it took the last time

    def check_config(self, config: dict[str, Any]) -> None:
        """Writes the configuration of a new run; refuses to continue a run of another."""
        if not self._config.exists():
            if self._history.exists():
                raise RunError(f"{self.folder} has a history but no config.json; choose another folder with --run")
            self._replace(self._config, json.dumps(config, indent=1) + "\n")
            return
        found = self._read(self._config)
        config = json.loads(json.dumps(config))
        different = [name for name in {**found, **config} if found.get(name) != config.get(name)]
        if different:
            was, now = ({name: reprlib.repr(values.get(name)) for name in different} for values in (found, config))
            changes = "; ".join(f"{name} is {was[name]}, now {now[name]}" for name in different)
            raise RunError(f"{self.folder} holds another run: {changes}. Choose another folder with --run")

    def history(self) -> list[HistoryEntry]:
        """The queries done. A last batch cut short by a kill is removed; its results are in the store."""
        if not self._history.exists():
            return []
        data = self._bytes(self._history)
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(HistoryEntry.from_json(json.loads(line)))
                if entries[-1].number != number:
                    raise ValueError(f"it is query {entries[-1].number}")
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                raise RunError(f"{self._history}, line {number}, is damaged: {error}") from error
        entries = whole_batches(entries)
        size = sum(map(len, lines[: len(entries)]))
        if size < len(data):
            with self._writing():
                os.truncate(self._history, size)
        return entries

    def append(self, entries: Sequence[HistoryEntry]) -> None:
        """Adds queries to the history; they are on disk when this returns."""
        text = "".join(json.dumps(entry.to_json(), allow_nan=False) + "\n" for entry in entries)
        with self._writing(), self._history.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def note(self, entry: HistoryEntry[Any], result: SearchResult[Any]) -> None:
        """Writes the events of a query, unless a run before this one has."""
        if entry.number > self._saved_at:
            with self._writing():
                self._events.query(entry, result)

    def note_agent(self, agent: Agent[Any], queries: int) -> None:
        """Writes the agent's figures, if it has any."""
        if queries > self._saved_at:
            with self._writing():
                self._events.agent(agent.name, _metrics(agent), queries)

    def save_agent(self, agent: Agent[Any], queries: int) -> None:
        """Saves the agent as it is after so many queries."""
        started = time.monotonic()
        with self._writing():
            self._events.flush()  # a continued run replays, and tells again, only what comes after the saved state
        self._replace(self._agent, json.dumps({"queries": queries, "state": agent.state_dict()}))
        self._saved = time.monotonic()
        self._saving = self._saved - started

    def save_agent_now_and_then(self, agent: Agent[Any], queries: int) -> None:
        """Saves the agent if that was long enough ago; replaying is the price of saving less often."""
        if time.monotonic() - self._saved > max(_SAVE_AGENT_EVERY_S, self._saving / _SAVING_SHARE):
            self.save_agent(agent, queries)

    def close(self) -> None:
        """Ends the file of events."""
        with self._writing():
            self._events.close()

    def save_best(self, entry: HistoryEntry[Any]) -> None:
        """Writes the best program so far as text that `nosbench evaluate` reads."""
        self._replace(self.folder / "best.txt", f"# query {entry.number}, loss {entry.loss}\n{entry.program}\n")

    def load_agent(self, agent: Agent[Any]) -> int:
        """Loads the saved state into the agent; returns after how many queries it was."""
        self._saved_at = self._load_agent(agent)
        self._events = Events(self.folder, self._saved_at, _metrics(agent))
        return self._saved_at

    def _load_agent(self, agent: Agent[Any]) -> int:
        if not self._agent.exists():
            return 0
        fresh = agent.state_dict()
        try:
            data = self._read(self._agent)
            if not isinstance(data["queries"], int) or data["queries"] < 0:
                raise ValueError("queries")
            agent.load_state_dict(data["state"])
            return data["queries"]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            # Damaged, as a power cut may leave it. It only saves time: the history alone tells everything.
            agent.load_state_dict(fresh)
            return 0

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            data = json.loads(self._bytes(path))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged: {error}; choose another folder with --run") from error
        if not isinstance(data, dict):
            raise RunError(f"{path} is damaged: it holds no JSON object; choose another folder with --run")
        return data

    def _bytes(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise RunError(f"can't read {path}: {error}; choose another folder with --run") from error

    def _replace(self, path: Path, text: str) -> None:
        temporary = path.with_suffix(".tmp")
        with self._writing():
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"can't write to {self.folder}: {error}. All queries before are kept; "
                "mend that and run the same command again to continue"
            ) from error
