import contextlib
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from workers import random_search

from nosbench_env import KNOWN_PROGRAMS, Oracle, ResultStore, StoreError
from nosbench_env.agents import Budget, HistoryEntry, RandomSearch, RegularizedEvolution, RunError, search


def small_evolution(seed: int = 0) -> RegularizedEvolution:
    return RegularizedEvolution(seed=seed, population_size=6, tournament_size=3)


def history(folder: Path) -> list[HistoryEntry]:
    return [HistoryEntry.from_json(json.loads(line)) for line in (folder / "history.jsonl").read_text().splitlines()]


def told(entries: list[HistoryEntry]) -> list[tuple[Any, ...]]:
    """What does not depend on how a run was interrupted."""
    return [(e.number, e.batch, e.program, e.status, e.loss, e.key, e.new, e.simulated_seconds) for e in entries]


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


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (Budget(queries=12), lambda result: result.queries == 12),
        (Budget(distinct=5), lambda result: result.distinct == 5),
        (Budget(simulated_seconds=1.0), lambda result: 1.0 <= result.simulated_seconds < 1.0 + 0.3),
        (Budget(queries=1000, distinct=3), lambda result: result.distinct == 3),
    ],
)
def test_budgets_end_the_search(oracle: Oracle, budget: Budget, spent: Any) -> None:
    assert spent(search(RandomSearch(), oracle, budget, epochs=1))


def test_bad_budgets_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one of"):
        Budget()
    for bad in (0, -1, 2.5, True, "7"):
        with pytest.raises(ValueError, match="queries must be a positive integer, got"):
            Budget(queries=bad)
    with pytest.raises(ValueError, match="simulated_seconds must be a positive number, got nan"):
        Budget(simulated_seconds=float("nan"))


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


@pytest.mark.parametrize(
    ("agent", "arguments", "message"),
    [
        (RandomSearch(), {}, "agent is 're', now 'rs'"),
        (small_evolution(seed=1), {}, "seed is 0, now 1"),
        (RegularizedEvolution(start=KNOWN_PROGRAMS["SGD"], population_size=6, tournament_size=3), {}, "start is None"),
        (small_evolution(), {"epochs": 2}, "epochs is 1, now 2"),
        (small_evolution(), {"training_seed": 4}, "training_seed is 0, now 4"),
    ],
)
def test_a_folder_of_another_configuration_is_refused(
    oracle: Oracle, tmp_path: Path, agent: Any, arguments: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "r"
    search(small_evolution(), oracle, Budget(queries=3), epochs=1, folder=folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunError, match=f"holds another run: .*{message}.* Choose another folder"):
        search(agent, oracle, Budget(queries=5), **({"epochs": 1, "folder": folder} | arguments))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_in_use_is_refused(oracle: Oracle, tmp_path: Path) -> None:
    def again(*_: Any) -> None:
        search(small_evolution(), oracle, Budget(queries=2), epochs=1, folder=tmp_path / "r")

    with pytest.raises(RunError, match="is in use by another process"):
        search(small_evolution(), oracle, Budget(queries=2), epochs=1, folder=tmp_path / "r", on_query=again)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", "config.json is damaged"),
        ("config.json", "[]", "config.json is damaged: it holds no JSON object"),
        ("config.json", "[" * 100_000, "config.json is damaged"),
        ("history.jsonl", "garbage\n", "history.jsonl, line 1, is damaged"),
        ("history.jsonl", "[]\n", "history.jsonl, line 1, is damaged"),
        ("history.jsonl", '{"number": 1}\n', "history.jsonl, line 1, is damaged"),
        ("history.jsonl", "[" * 100_000 + "\n", "history.jsonl, line 1, is damaged"),
        ("history.jsonl", "", "lines were lost"),
    ],
)
def test_damaged_files_are_named(oracle: Oracle, tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = tmp_path / "r"
    search(small_evolution(), oracle, Budget(queries=3), epochs=1, folder=folder)
    (folder / file).write_text(content)
    with pytest.raises(RunError, match=message):
        search(small_evolution(), oracle, Budget(queries=5), epochs=1, folder=folder)


def test_fields_of_wrong_types_are_damage(oracle: Oracle, tmp_path: Path) -> None:
    search(RandomSearch(), oracle, Budget(queries=1), epochs=1, folder=tmp_path / "r")
    line = json.loads((tmp_path / "r" / "history.jsonl").read_text())
    for field in line:
        (tmp_path / "r" / "history.jsonl").write_text(json.dumps(line | {field: {"evil": []}}) + "\n")
        with pytest.raises(RunError, match="line 1, is damaged"):
            search(RandomSearch(), oracle, Budget(queries=5), epochs=1, folder=tmp_path / "r")


@pytest.mark.parametrize(
    "changes",
    [{"loss": None}, {"loss": float("nan")}, {"loss": 10**400}, {"status": "nan"}, {"status": "good"}, {"number": 2}],
)
def test_contradictions_are_damage(oracle: Oracle, tmp_path: Path, changes: dict[str, Any]) -> None:
    search(
        RegularizedEvolution(start=KNOWN_PROGRAMS["SGD"]), oracle, Budget(queries=1), epochs=1, folder=tmp_path / "r"
    )
    line = json.loads((tmp_path / "r" / "history.jsonl").read_text())
    (tmp_path / "r" / "history.jsonl").write_text(json.dumps(line | changes) + "\n")
    with pytest.raises(RunError, match="line 1, is damaged"):
        search(
            RegularizedEvolution(start=KNOWN_PROGRAMS["SGD"]),
            oracle,
            Budget(queries=2),
            epochs=1,
            folder=tmp_path / "r",
        )


@pytest.mark.parametrize("content", ["{}", "[]", '{"queries": -1, "state": {}}', '{"queries": 3, "state": {"rng": 5}}'])
def test_a_damaged_agent_state_is_made_again_from_the_history(oracle: Oracle, tmp_path: Path, content: str) -> None:
    folder = tmp_path / "r"
    search(small_evolution(), oracle, Budget(queries=8), epochs=1, folder=folder)
    (folder / "agent.json").write_text(content)
    search(small_evolution(), oracle, Budget(queries=14), epochs=1, folder=folder)
    search(small_evolution(), oracle, Budget(queries=14), epochs=1, folder=tmp_path / "whole")
    assert told(history(folder)) == told(history(tmp_path / "whole"))


def test_an_agent_that_gives_too_many_programs_is_refused(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = RandomSearch()
    monkeypatch.setattr(agent, "ask", lambda n: [KNOWN_PROGRAMS["SGD"]] * 3)
    with pytest.raises(ValueError, match="was asked for 1 programs and gave 3"):
        search(agent, oracle, Budget(queries=5), epochs=1)


def test_lost_files_that_follow_from_the_history_are_made_again(oracle: Oracle, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    search(RandomSearch(), oracle, Budget(queries=10), epochs=1, folder=folder)
    best = (folder / "best.txt").read_text()
    (folder / "best.txt").unlink()
    (folder / "agent.json").write_text("")  # as a power cut may leave it
    search(RandomSearch(), oracle, Budget(queries=10), epochs=1, folder=folder)
    assert (folder / "best.txt").read_text() == best
    assert json.loads((folder / "agent.json").read_text())["queries"] == 10


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


def test_a_folder_that_cannot_be_made_is_refused(oracle: Oracle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't use the run folder"):
        search(RandomSearch(), oracle, Budget(queries=1), folder=tmp_path / "file" / "r")


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: steps and values by tag, in the order of the steps."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: sorted((e.step, e.value) for e in events.Scalars(tag)) for tag in events.Tags()["scalars"]}


class Counting(RandomSearch):
    """Has a figure, which changes with every third program told."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.told = 0

    def tell(self, programs: Any, evaluations: Any) -> None:
        self.told += len(programs)

    def metrics(self) -> dict[str, float]:
        return {"thirds": float(self.told // 3)} if self.told >= 3 else {}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.told = state["told"]


def test_tensorboard_shows_every_query(oracle: Oracle, tmp_path: Path) -> None:
    search(Counting(), oracle, Budget(queries=20), epochs=1, folder=tmp_path / "r")
    events, entries = shown(tmp_path / "r"), history(tmp_path / "r")
    finite = [entry for entry in entries if entry.loss is not None]
    assert events["search/loss"] == [(entry.number, pytest.approx(entry.loss)) for entry in finite]
    best = events["search/best_loss"]
    assert best[-1] == (20, pytest.approx(min(entry.loss for entry in finite)))
    assert [value for _, value in best] == sorted([value for _, value in best], reverse=True)
    assert events["search/distinct"][-1] == (20, sum(entry.new for entry in entries))
    assert events["search/hits"][-1] == (20, sum(entry.hit for entry in entries))
    assert len(events["search/seconds"]) == 20
    assert events["rs/thirds"] == [(3 * k, k) for k in range(1, 7)]


@pytest.mark.parametrize("every", [-1.0, math.inf], ids=["agent saved always", "never"])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_continued_run_shows_each_step_once(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, stop: int
) -> None:
    def interrupt(entry: HistoryEntry, _: Any) -> None:
        if entry.number == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(import_module("nosbench_env.agents.search"), "_SAVE_AGENT_EVERY_S", every)
    arguments: dict[str, Any] = {"epochs": 1, "folder": tmp_path / "r", "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        search(Counting(), oracle, Budget(queries=10), on_query=interrupt, **arguments)
    search(Counting(), oracle, Budget(queries=10), **arguments)
    search(Counting(), oracle, Budget(queries=14), **arguments)
    search(Counting(), oracle, Budget(queries=14), epochs=1, folder=tmp_path / "whole", batch_size=2)
    found, whole = shown(tmp_path / "r"), shown(tmp_path / "whole")
    for tag in ("search/loss", "search/best_loss", "search/distinct", "rs/thirds"):
        assert found[tag] == whole[tag], tag
    assert [step for step, _ in found["search/hits"]] == list(range(1, 15))


def test_a_finished_run_asked_for_again_writes_no_events(oracle: Oracle, tmp_path: Path) -> None:
    search(RandomSearch(), oracle, Budget(queries=3), epochs=1, folder=tmp_path / "r")
    before = sorted(path.name for path in (tmp_path / "r").iterdir())
    search(RandomSearch(), oracle, Budget(queries=3), epochs=1, folder=tmp_path / "r")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == before


def test_without_tensorboard_it_goes_on_and_says_so(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.warns(UserWarning, match="no events for TensorBoard are written: pip install tensorboard"):
        result = search(RandomSearch(), oracle, Budget(queries=3), epochs=1, folder=tmp_path / "r")
    assert result.queries == 3
    assert {path.name for path in (tmp_path / "r").iterdir()} >= {"history.jsonl", "agent.json"}
    assert not list((tmp_path / "r").glob("events*"))


@pytest.mark.parametrize(("share", "saves"), [(1e-9, 2), (math.inf, 13)])
def test_an_agent_that_takes_long_to_save_is_saved_less_often(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, saves: int
) -> None:
    module, saved = import_module("nosbench_env.agents.search"), []
    monkeypatch.setattr(module, "_SAVE_AGENT_EVERY_S", -1.0)
    monkeypatch.setattr(module, "_SAVING_SHARE", share)
    agent = RandomSearch()
    state_dict = agent.state_dict
    monkeypatch.setattr(agent, "state_dict", lambda: saved.append(time.sleep(0.001)) or state_dict())
    search(agent, oracle, Budget(queries=12), epochs=1, folder=tmp_path / "r")
    assert len(saved) == saves  # one of them at the end


def test_runs_from_before_there_were_constraints_continue(oracle: Oracle, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    search(small_evolution(), oracle, Budget(queries=3), epochs=1, folder=folder)
    old = {
        "agent": "re",
        "space": {"max_instructions": 20, "memory_size": 20},
        "seed": 0,
        "start": None,
        "population_size": 6,
        "tournament_size": 3,
        "task": "toy",
        "task_version": 1,
        "arithmetic": "float32",
        "epochs": 1,
        "training_seed": 0,
        "identity": "fingerprint",
        "batch_size": 1,
    }
    (folder / "config.json").write_text(json.dumps(old))
    assert search(small_evolution(), oracle, Budget(queries=5), epochs=1, folder=folder).queries == 5


def test_settings_of_an_agent_named_like_those_of_the_loop_are_kept_apart(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = RandomSearch()
    monkeypatch.setattr(agent, "config", lambda: {"batch_size": 7, "own": 1})
    search(agent, oracle, Budget(queries=2), epochs=1, folder=tmp_path / "r")
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert (config["batch_size"], config["agent_batch_size"], config["own"]) == (1, 7, 1)


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


def test_eight_searches_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=random_search, args=(path, seed % 4, 20)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=300)
    assert [worker.exitcode for worker in workers] == [0] * 8
    before = len(ResultStore(path))
    oracle = Oracle("toy", path, "cpu")
    for seed in range(4):
        search(RandomSearch(seed=seed), oracle, Budget(queries=20), epochs=1)
    assert oracle.statistics.trained == 0
    assert len(ResultStore(path)) == before


def test_a_killed_search_loses_no_finished_evaluation(tmp_path: Path) -> None:
    """SIGKILL at random moments; then the same command again, to the end."""
    rng = random.Random(0)
    command = [sys.executable, "-m", "nosbench_env", "search", "--task", "toy", "--epochs", "10", "--device", "cpu"]
    command += ["--start", "random", "--budget", "110", "--run", str(tmp_path / "r"), "--quiet"]
    environment = os.environ | {"NOSBENCH_STORE": str(tmp_path / "killed.sqlite")}
    finished: list[HistoryEntry] = []
    for _ in range(4):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "r" / "history.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(2.0, 5.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = (tmp_path / "r" / "history.jsonl").read_text()
        entries = [HistoryEntry.from_json(json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]
        assert entries[: len(finished)] == finished
        finished = entries
        store = ResultStore(tmp_path / "killed.sqlite")
        assert all(store.get(entry.key, 10) is not None for entry in entries if entry.source != "probe")
        store.close()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    with sqlite3.connect(tmp_path / "killed.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    oracle = Oracle("toy", tmp_path / "whole.sqlite", "cpu")
    search(RegularizedEvolution(start=None), oracle, Budget(queries=110), epochs=10, folder=tmp_path / "w")
    assert told(history(tmp_path / "r")) == told(history(tmp_path / "w"))
