import contextlib
import json
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from searches import history, small_evolution, told
from workers import random_search

from nosbench_env import KNOWN_PROGRAMS, Oracle, ResultStore, StoreError
from nosbench_env.agents import Budget, HistoryEntry, RandomSearch, RegularizedEvolution, RunError, search
from nosbench_env.agents.history import count_queries


def test_a_run_is_reproducible_from_its_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        oracle = Oracle("toy", tmp_path / f"{name}.sqlite", "cpu")
        search(small_evolution(), oracle, Budget(queries=25), epochs=1, folder=tmp_path / name)
    assert told(history(tmp_path / "one")) == told(history(tmp_path / "two"))


def test_the_result_counts_what_was_done(oracle: Oracle, tmp_path: Path) -> None:
    seen: list[int] = []
    result = search(
        RandomSearch(),
        oracle,
        Budget(queries=40),
        epochs=2,
        folder=tmp_path / "r",
        on_query=lambda entry, so_far: seen.append(so_far.queries),
    )
    entries = history(tmp_path / "r")
    assert seen == [entry.number for entry in entries] == list(range(1, 41))
    finite = [entry.loss for entry in entries if entry.loss is not None]
    assert result.best.loss == min(finite)
    assert result.distinct == len({entry.key for entry in entries}) == sum(entry.new for entry in entries)
    assert result.trained == oracle.statistics.trained == sum(not entry.hit for entry in entries)
    trained = {entry.key for entry in entries if entry.source != "probe"}
    assert result.simulated_seconds == pytest.approx(len(trained) * 2 * 10 * 0.03)
    best = (tmp_path / "r" / "best.txt").read_text()
    assert best.endswith(f"{result.best.program}\n")


def test_a_reference_is_evaluated_outside_of_the_budget(oracle: Oracle, tmp_path: Path) -> None:
    adam = KNOWN_PROGRAMS["Adam"]
    result = search(RandomSearch(), oracle, Budget(queries=3), epochs=1, folder=tmp_path / "r", reference=adam)
    assert result.reference.loss == oracle.query(adam, epochs=1).loss
    assert result.queries == len(history(tmp_path / "r")) == 3


@pytest.mark.parametrize("arguments", [{"epochs": 0}, {"training_seed": -1}, {"batch_size": 0}])
def test_bad_arguments_are_refused_before_anything_is_made(
    oracle: Oracle, tmp_path: Path, arguments: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="must be an integer"):
        search(RandomSearch(), oracle, Budget(queries=3), folder=tmp_path / "r", **arguments)
    assert not (tmp_path / "r").exists()


def test_a_filled_store_changes_nothing_but_the_hits(oracle: Oracle) -> None:
    first = search(RandomSearch(), oracle, Budget(queries=30), epochs=1)
    second = search(RandomSearch(), oracle, Budget(queries=30), epochs=1)
    assert (second.best.loss, second.distinct, second.simulated_seconds) == (
        first.best.loss,
        first.distinct,
        first.simulated_seconds,
    )
    assert second.trained == 0 < first.trained


def test_batches_are_asked_for_and_told_together(oracle: Oracle, tmp_path: Path) -> None:
    search(small_evolution(), oracle, Budget(queries=10), epochs=1, folder=tmp_path / "r", batch_size=4)
    assert [entry.batch for entry in history(tmp_path / "r")] == [1] * 4 + [2] * 4 + [3] * 2


def test_worker_processes_change_nothing_but_the_time(oracle: Oracle, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"epochs": 1, "batch_size": 6}
    with contextlib.closing(Oracle("toy", tmp_path / "s.sqlite", "cpu", workers=2)) as parallel:
        for name, asked in (("one", oracle), ("two", parallel)):
            search(RandomSearch(), asked, Budget(queries=40), folder=tmp_path / name, **arguments)
    assert told(history(tmp_path / "one")) == told(history(tmp_path / "two"))
    assert parallel.statistics == oracle.statistics


def test_random_search_proposes_the_same_programs_whatever_the_batch(oracle: Oracle, tmp_path: Path) -> None:
    for batch_size in (1, 7):
        folder = tmp_path / str(batch_size)
        search(RandomSearch(), oracle, Budget(queries=25), epochs=1, folder=folder, batch_size=batch_size)
    programs = [[entry.program for entry in history(tmp_path / name)] for name in ("1", "7")]
    assert programs[0] == programs[1]


def test_searches_ask_for_the_last_epoch_alone(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    query_many = oracle.query_many

    def listen(*arguments: Any, last_epoch_only: bool = False, **more: Any) -> Any:
        asked.append(last_epoch_only)
        return query_many(*arguments, last_epoch_only=last_epoch_only, **more)

    monkeypatch.setattr(oracle, "query_many", listen)
    search(RandomSearch(), oracle, Budget(queries=2), epochs=1, reference=KNOWN_PROGRAMS["SGD"])
    assert asked == [True] * 3


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_interrupted_run_continues_as_if_it_had_not_been(tmp_path: Path, batch_size: int) -> None:
    def run(name: str, interruptions: tuple[int, ...] = ()) -> list[tuple[Any, ...]]:
        pending = list(interruptions)

        def interrupt(entry: HistoryEntry, _: Any) -> None:
            if pending and entry.number == pending[0]:
                pending.pop(0)
                raise KeyboardInterrupt

        for _ in range(len(interruptions)):
            with pytest.raises(KeyboardInterrupt):
                run_once(name, interrupt)
        run_once(name, None)
        return told(history(tmp_path / name))

    def run_once(name: str, on_query: Any) -> None:
        oracle = Oracle("toy", tmp_path / f"{name}.sqlite", "cpu", workers=1)
        search(
            small_evolution(),
            oracle,
            Budget(queries=24),
            epochs=1,
            folder=tmp_path / name,
            batch_size=batch_size,
            on_query=on_query,
        )

    assert run("interrupted", (3, 9, 17)) == run("whole")


def test_an_interrupt_in_the_middle_of_a_training_loses_no_query(oracle: Oracle, tmp_path: Path) -> None:
    steps = 0

    def interrupt(_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 35:
            raise KeyboardInterrupt

    arguments: dict[str, Any] = {"epochs": 1, "folder": tmp_path / "r"}
    with pytest.raises(KeyboardInterrupt):
        search(small_evolution(), oracle, Budget(queries=15), on_step=interrupt, **arguments)
    done = history(tmp_path / "r")
    search(small_evolution(), oracle, Budget(queries=15), **arguments)
    assert history(tmp_path / "r")[: len(done)] == done
    whole = search(small_evolution(), oracle, Budget(queries=15), epochs=1, folder=tmp_path / "whole")
    assert told(history(tmp_path / "r")) == told(history(tmp_path / "whole"))
    assert whole.queries == 15


def test_a_greater_budget_prolongs_a_finished_run(oracle: Oracle, tmp_path: Path) -> None:
    search(small_evolution(), oracle, Budget(queries=10), epochs=1, folder=tmp_path / "r")
    search(small_evolution(), oracle, Budget(queries=20), epochs=1, folder=tmp_path / "r")
    search(small_evolution(), oracle, Budget(queries=20), epochs=1, folder=tmp_path / "whole")
    assert told(history(tmp_path / "r")) == told(history(tmp_path / "whole"))


def test_a_line_cut_short_is_asked_again(oracle: Oracle, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    search(small_evolution(), oracle, Budget(queries=10), epochs=1, folder=folder)
    expected = told(history(folder))
    data = (folder / "history.jsonl").read_bytes()
    (folder / "history.jsonl").write_bytes(data[: data.rstrip().rfind(b"\n") + 20])
    (folder / "agent.json").unlink()  # it was saved at the end, after that line
    search(small_evolution(), oracle, Budget(queries=10), epochs=1, folder=folder)
    assert told(history(folder)) == expected


def test_an_agent_that_gives_too_many_programs_is_refused(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = RandomSearch()
    monkeypatch.setattr(agent, "ask", lambda n: [KNOWN_PROGRAMS["SGD"]] * 3)
    with pytest.raises(ValueError, match="was asked for 1 programs and gave 3"):
        search(agent, oracle, Budget(queries=5), epochs=1)


@pytest.mark.parametrize("kept", [9, 10, 11])
def test_half_a_batch_is_asked_again_as_a_whole(oracle: Oracle, tmp_path: Path, kept: int) -> None:
    folder = tmp_path / "r"
    arguments: dict[str, Any] = {"epochs": 1, "folder": folder, "batch_size": 4}
    search(small_evolution(), oracle, Budget(queries=22), **arguments)
    expected = told(history(folder))
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:kept]))
    (folder / "agent.json").unlink()
    search(small_evolution(), oracle, Budget(queries=22), **arguments)
    assert told(history(folder)) == expected


def test_a_history_the_agent_would_not_have_made_is_refused(oracle: Oracle, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    search(RandomSearch(), oracle, Budget(queries=2), epochs=1, folder=folder)
    (folder / "agent.json").unlink()
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines[0]["program"], lines[1]["program"] = lines[1]["program"], lines[0]["program"]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RunError, match="is not what the agent proposes"):
        search(RandomSearch(), oracle, Budget(queries=5), epochs=1, folder=folder)


def test_a_failing_store_keeps_the_run_and_lets_it_continue(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = oracle.store.add, 0

    def fail_at_the_third(*arguments: Any, **more: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise StoreError("the disk is full")
        add(*arguments, **more)

    monkeypatch.setattr(oracle.store, "add", fail_at_the_third)
    with pytest.raises(StoreError, match="the disk is full"):
        search(small_evolution(), oracle, Budget(queries=12), epochs=1, folder=tmp_path / "r")
    search(small_evolution(), oracle, Budget(queries=12), epochs=1, folder=tmp_path / "r")
    search(small_evolution(), oracle, Budget(queries=12), epochs=1, folder=tmp_path / "whole")
    assert told(history(tmp_path / "r")) == told(history(tmp_path / "whole"))


def test_searches_at_the_same_time_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=random_search, args=(path, seed, 20)) for seed in (0, 0, 1, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    before = len(ResultStore(path))
    oracle = Oracle("toy", path, "cpu")
    for seed in (0, 1):
        search(RandomSearch(seed=seed), oracle, Budget(queries=20), epochs=1)
    assert oracle.statistics.trained == 0
    assert len(ResultStore(path)) == before


def test_a_killed_search_loses_no_finished_evaluation(tmp_path: Path) -> None:
    """SIGKILL at random moments; then the same command again, to the end."""
    rng, folder, queries, epochs = random.Random(0), tmp_path / "r", 70, 3
    command = [sys.executable, "-m", "nosbench_env", "search", "--task", "toy", "--device", "cpu", "--quiet"]
    command += ["--epochs", str(epochs), "--start", "random", "--budget", str(queries), "--run", str(folder)]
    environment = os.environ | {"NOSBENCH_STORE": str(tmp_path / "killed.sqlite")}
    finished: list[HistoryEntry] = []
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        kill_at = len(finished) + rng.randint(2, 15)
        while count_queries(folder / "history.jsonl") < kill_at:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # it had not ended before
        entries = history(folder)
        assert len(entries) < queries
        assert entries[: len(finished)] == finished
        finished = entries
        store = ResultStore(tmp_path / "killed.sqlite")
        assert all(store.get(entry.key, epochs) is not None for entry in entries if entry.source != "probe")
        store.close()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    with sqlite3.connect(tmp_path / "killed.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    oracle = Oracle("toy", tmp_path / "whole.sqlite", "cpu")
    search(RegularizedEvolution(start=None), oracle, Budget(queries=queries), epochs=epochs, folder=tmp_path / "w")
    assert told(history(folder)) == told(history(tmp_path / "w"))
