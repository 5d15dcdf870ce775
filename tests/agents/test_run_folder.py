import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_folders import config, write_run
from searches import history, small_evolution, told

from nosbench_env import KNOWN_PROGRAMS, Oracle
from nosbench_env.agents import Budget, RandomSearch, RegularizedEvolution, RunError, run_folder, search
from nosbench_env.agents.run_folder import read_config


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


def test_lost_files_that_follow_from_the_history_are_made_again(oracle: Oracle, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    search(RandomSearch(), oracle, Budget(queries=10), epochs=1, folder=folder)
    best = (folder / "best.txt").read_text()
    (folder / "best.txt").unlink()
    (folder / "agent.json").write_text("")  # as a power cut may leave it
    search(RandomSearch(), oracle, Budget(queries=10), epochs=1, folder=folder)
    assert (folder / "best.txt").read_text() == best
    assert json.loads((folder / "agent.json").read_text())["queries"] == 10


def test_a_folder_that_cannot_be_made_is_refused(oracle: Oracle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="can't use the run folder"):
        search(RandomSearch(), oracle, Budget(queries=1), folder=tmp_path / "file" / "r")


@pytest.mark.parametrize(("share", "saves"), [(1e-9, 2), (math.inf, 13)])
def test_an_agent_that_takes_long_to_save_is_saved_less_often(
    oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, saves: int
) -> None:
    saved: list[None] = []
    monkeypatch.setattr(run_folder, "_SAVE_AGENT_EVERY_S", -1.0)
    monkeypatch.setattr(run_folder, "_SAVING_SHARE", share)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.pop("task"), "task .* a text, got nothing"),
        (lambda config: config.update(epochs="5"), "epochs .* an integer, got '5'"),
        (lambda config: config.update(training_seed=True), "training_seed .* an integer, got True"),
        (lambda config: config.update(agent=None), "agent .* a text, got None"),
    ],
)
def test_a_damaged_configuration_is_named(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    folder = write_run(tmp_path / "run", [1.0])
    settings = config()
    change(settings)
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(RunError, match=rf"config\.json is damaged: .*{message}"):
        read_config(folder)
    (folder / "config.json").write_text('{"agent": "rs"')
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        read_config(folder)


def test_a_configuration_is_read_as_it_was_written_and_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    assert read_config(write_run(tmp_path / "run", [1.0], seed=4)) == config(seed=4)
    with pytest.raises(RunError, match=r"no run folder.*config\.json"):
        read_config(tmp_path)


def test_unfinished_files_of_a_killed_process_are_removed(oracle: Oracle, tmp_path: Path) -> None:
    search(RandomSearch(), oracle, Budget(queries=1), epochs=1, folder=tmp_path / "r")
    unfinished = tmp_path / "r" / ".agent.json.123456789.tmp"
    unfinished.write_text("{")
    search(RandomSearch(), oracle, Budget(queries=2), epochs=1, folder=tmp_path / "r")
    assert not unfinished.exists()


def test_a_configuration_that_is_no_json_data_is_refused(oracle: Oracle, tmp_path: Path) -> None:
    agent = RandomSearch()
    agent.config = lambda: {"rate": math.inf}
    with pytest.raises(RunError, match="JSON"):
        search(agent, oracle, Budget(queries=1), epochs=1, folder=tmp_path / "r")
