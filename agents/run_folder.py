"""`RunFolder`: the files of a search run, and their reading."""

from __future__ import annotations

import json
import os
import reprlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from nosbench_env.agents.agent import Agent
from nosbench_env.agents.events import Events
from nosbench_env.agents.history import HistoryEntry, RunError, SearchResult, read_bytes, read_history, strict_json
from nosbench_env.whole_files import write_whole

CONFIG, HISTORY, AGENT, BEST = "config.json", "history.jsonl", "agent.json", "best.txt"

# The parts of a configuration on which a loss depends beside the program. Losses of runs that differ in them can't be
# compared.
CONDITIONS: Mapping[str, type] = {
    "task": str,
    "task_version": int,
    "arithmetic": str,
    "epochs": int,
    "training_seed": int,
    "identity": str,
}

_SAVE_AGENT_EVERY_S = 10.0
_SAVING_SHARE = 0.02  # the most of a search's time that saving may take, for agents with a large state


def read_config(folder: Path) -> dict[str, Any]:
    """Reads and checks the configuration of a run; changes nothing.

    Raises:
        RunError: If the folder has no `config.json`, or it is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} is no run folder: it has no {CONFIG}. Name the folders of runs, such as runs/*")
    try:
        config = strict_json(read_bytes(path))
        if not isinstance(config, dict):
            raise ValueError("it holds no JSON object")
        for name, kind in {"agent": str, **CONDITIONS}.items():
            value = config.get(name)
            if not isinstance(value, kind) or isinstance(value, bool):
                got = reprlib.repr(value) if name in config else "nothing"
                raise ValueError(f"expected {name} to be {'a text' if kind is str else 'an integer'}, got {got}")
    except RunError:
        raise
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return config


@contextmanager
def open_run_folder(folder: Path, config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Opens the folder of a run for writing.

    It makes a new folder, or continues a run of the same configuration. The folder is locked against other processes
    until the block ends.

    Raises:
        RunError: If the folder is in use, of another configuration or damaged, or can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except filelock.Timeout:
        raise RunError(f"{folder} is in use by another process; wait for it or choose another folder") from None
    except OSError as error:
        raise RunError(f"can't use the run folder {folder}: {error}; choose another with --run") from error
    try:
        for unfinished in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
            unfinished.unlink(missing_ok=True)
        run = RunFolder(folder, config)
        try:
            yield run
        finally:
            run.close()
    finally:
        lock.release()


class RunFolder:
    """The folder of a run, opened for writing; see `open_run_folder`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self._events = Events(folder, 0, {})
        self._saved_at, self._saved = 0, time.monotonic()
        self._saving = 0.0  # seconds that the last saving took
        self._check_config(config)

    def _check_config(self, config: Mapping[str, Any]) -> None:
        """Writes a new run's configuration; refuses to continue another configuration."""
        path = self.folder / CONFIG
        try:
            text = json.dumps(config, indent=1, allow_nan=False)
        except ValueError as error:
            raise RunError(f"the agent's config() must be JSON data without NaN or infinity: {error}") from error
        if not path.exists():
            if (self.folder / HISTORY).exists():
                raise RunError(f"{self.folder} has a history but no {CONFIG}; choose another folder with --run")
            self._write(path, text + "\n")
            return
        try:
            stored = read_config(self.folder)
        except RunError as error:
            raise RunError(f"{error}; choose another folder with --run") from error
        asked = json.loads(text)
        different = [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]
        if different:
            was, now = ({name: reprlib.repr(values.get(name)) for name in different} for values in (stored, asked))
            changes = "; ".join(f"{name} is {was[name]}, now {now[name]}" for name in different)
            raise RunError(f"{self.folder} holds another run: {changes}. Choose another folder with --run")

    def history(self) -> list[HistoryEntry[Any]]:
        """Reads the finished queries, and removes an incomplete last line or batch.

        The results of a removed query are in the store.
        """
        path = self.folder / HISTORY
        history = read_history(path)
        if history.torn:
            with self._writing():
                os.truncate(path, history.size)
        return history.entries

    def append(self, entries: Sequence[HistoryEntry[Any]]) -> None:
        """Adds queries to the history; they are on disk when this returns."""
        text = "".join(json.dumps(entry.to_json(), allow_nan=False) + "\n" for entry in entries)
        with self._writing(), (self.folder / HISTORY).open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())

    def note(self, entry: HistoryEntry[Any], result: SearchResult[Any]) -> None:
        """Writes a query's events, unless the saved state covers it."""
        if entry.number > self._saved_at:
            with self._writing():
                self._events.query(entry, result)

    def note_agent(self, agent: Agent[Any], queries: int) -> None:
        """Writes the agent's metrics after so many queries, if it has any."""
        if queries > self._saved_at:
            with self._writing():
                self._events.agent(agent.name, _metrics(agent), queries)

    def save_best(self, entry: HistoryEntry[Any]) -> None:
        """Writes the best program so far as text that `nosbench evaluate` reads."""
        self._write(self.folder / BEST, f"# query {entry.number}, loss {entry.loss}\n{entry.program}\n")

    def save_agent(self, agent: Agent[Any], queries: int) -> None:
        """Saves the agent's state after so many queries."""
        started = time.monotonic()
        with self._writing():
            self._events.flush()  # a resumed run writes events only for the queries after the saved state
        self._write(self.folder / AGENT, json.dumps({"queries": queries, "state": agent.state_dict()}))
        self._saved = time.monotonic()
        self._saving = self._saved - started

    def save_agent_now_and_then(self, agent: Agent[Any], queries: int) -> None:
        """Saves the agent's state if the last time was long ago.

        A resumed run replays the queries after the saved state.
        """
        if time.monotonic() - self._saved > max(_SAVE_AGENT_EVERY_S, self._saving / _SAVING_SHARE):
            self.save_agent(agent, queries)

    def load_agent(self, agent: Agent[Any]) -> int:
        """Loads the agent's saved state; returns its number of queries."""
        self._saved_at = self._load_agent(agent)
        self._events = Events(self.folder, self._saved_at, _metrics(agent))
        return self._saved_at

    def _load_agent(self, agent: Agent[Any]) -> int:
        path = self.folder / AGENT
        if not path.exists():
            return 0
        fresh = agent.state_dict()
        try:
            data = json.loads(read_bytes(path))
            if not isinstance(data["queries"], int) or data["queries"] < 0:
                raise ValueError("queries")
            agent.load_state_dict(data["state"])
            return data["queries"]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            # Damaged, as a power cut may leave it. The state only saves time: the history is enough to restore it.
            agent.load_state_dict(fresh)
            return 0

    def close(self) -> None:
        """Closes the file of events."""
        with self._writing():
            self._events.close()

    def _write(self, path: Path, text: str) -> None:
        with self._writing():
            write_whole(path, text)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"can't write to {self.folder}: {error}. All queries before are kept. "
                "Fix this and run the same command again to continue"
            ) from error


def _metrics(agent: Agent[Any]) -> dict[str, float]:
    metrics: dict[str, float] = getattr(agent, "metrics", dict)()
    return metrics
