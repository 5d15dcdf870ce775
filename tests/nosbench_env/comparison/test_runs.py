import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import config, history, write_run

from nosbench_env import KNOWN_PROGRAMS, SearchSpace
from nosbench_env.agents import Budget, RandomSearch, RunError, search
from nosbench_env.comparison import group_runs, read_run
from nosbench_env.comparison.runs import different_conditions
from nosbench_env.oracles.oracle import Oracle


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", [None, 3.0, 5.0, 3.0, math.inf, 1.0], known=3))
    assert run.best.tolist() == [math.inf, 3.0, 3.0, 3.0, 3.0, 1.0]
    assert run.distinct.tolist() == [1, 2, 3, 3, 4, 5]
    assert run.simulated_seconds.tolist() == [0.0, 1.5, 3.0, 3.0, 4.5, 6.0]
    assert run.failed.tolist() == [1, 1, 1, 1, 2, 2]
    assert {source: counts.tolist() for source, counts in run.sources.items()} == {
        "trained": [0, 0, 0, 0, 1, 2],
        "store": [0, 1, 2, 3, 3, 3],
        "shipped": [0] * 6,
        "probe": [1] * 6,
    }
    assert [entry.number for entry in run.incumbents] == [2, 6]
    assert not run.torn
    assert run.queries == 6
    assert run.seed == 0


def test_what_a_run_had_within_a_budget(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", [None, 3.0, 3.0, 1.0]))
    assert run.spent("queries").tolist() == [1, 2, 3, 4]
    assert run.spent("distinct").tolist() == [1, 2, 2, 3]
    assert run.spent("seconds").tolist() == [0, 1.5, 1.5, 3.0]
    assert [run.queries_within("distinct", budget) for budget in (0, 1, 2, 3)] == [0, 1, 3, 4]
    assert run.best_within("queries", 1) is None
    assert run.best_within("seconds", 2.9).number == 2
    assert run.best_within("seconds", 3).number == 4


def test_a_real_run_is_read(tmp_path: Path, oracle: Oracle) -> None:
    result = search(RandomSearch(seed=3), oracle, Budget(queries=12), epochs=1, folder=tmp_path / "run", batch_size=4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    run = read_run(tmp_path / "run")
    assert run.queries == result.queries
    assert run.distinct[-1] == result.distinct
    assert run.sources["trained"][-1] == result.trained
    assert run.simulated_seconds[-1] == result.simulated_seconds
    assert run.incumbents[-1] == result.best
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_torn_line_and_a_batch_cut_short_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [4.0, 3.0, 2.0, 1.0], batch_size=2)
    path = folder / "history.jsonl"
    whole = path.read_text()
    for text in (whole + '{"number": 5, "ba', whole[:-1], whole[:-30]):  # the second lacks but the line's end
        path.write_text(text)
        run = read_run(folder)
        assert run.torn
        assert run.queries == (4 if text.startswith(whole) else 2)
        assert path.read_text() == text


def test_no_queries_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run folder.*runs/\*"):
        read_run(tmp_path)
    folder = write_run(tmp_path / "run", [1.0])
    (folder / "history.jsonl").write_text('{"number": 1')
    with pytest.raises(RunError, match="no finished query"):
        read_run(folder)
    (folder / "history.jsonl").unlink()
    with pytest.raises(RunError, match="no finished query"):
        read_run(folder)


def read(tmp_path: Path, *configs: dict[str, Any]) -> list[Any]:
    return [read_run(write_run(tmp_path / f"{i}", [1.0], **found)) for i, found in enumerate(configs)]


def test_runs_that_differ_in_their_seed_are_of_one_method(tmp_path: Path) -> None:
    runs = read(tmp_path, {"seed": 2}, {"seed": 0, "agent": "ppo"}, {"seed": 1}, {"seed": 1, "agent": "ppo"})
    methods = group_runs(runs)
    assert [method.label for method in methods] == ["random search", "ppo"]
    assert [[run.seed for run in method.runs] for method in methods] == [[1, 2], [0, 1]]
    assert "seed" not in methods[0].config


def test_labels_say_what_methods_start_from_and_are_constrained_to(tmp_path: Path) -> None:
    admitted = SearchSpace().admit(KNOWN_PROGRAMS["Adadelta"]).to_json()
    constrained = {"max_instructions": 20, "memory_size": 20, "constraints": ["gradient", "used"]}
    runs = read(
        tmp_path,
        {"agent": "re", "start": None},
        {"agent": "re", "start": KNOWN_PROGRAMS["AdamW"].to_json()},
        {"agent": "re", "start": admitted},
        {"agent": "re", "start": [["mul", [1, 5], 9]]},
        {"agent": "re", "start": "AdamW", "space": constrained},
        {"agent": "re", "start": "<b>"},
    )
    assert [method.label for method in group_runs(runs)] == [
        "regularized evolution from random programs",
        "regularized evolution from AdamW",
        "regularized evolution from Adadelta",
        "regularized evolution from program 448a3bfa",
        "regularized evolution from AdamW, constraints gradient + used",
        "regularized evolution from <b>",
    ]


def test_methods_of_one_name_are_told_apart_by_what_they_differ_in(tmp_path: Path) -> None:
    small = {"max_instructions": 5, "memory_size": 20}
    runs = read(tmp_path, {}, {"batch_size": 1, "space": small}, {"learning_rate": 0.1}, {"agent": "ppo"})
    assert [method.label for method in group_runs(runs)] == [
        "random search, learning_rate=null, space.max_instructions=20",
        "random search, learning_rate=null, space.max_instructions=5",
        "random search, learning_rate=0.1, space.max_instructions=20",
        "ppo",
    ]


def test_names_cut_off_to_the_same_stay_apart(tmp_path: Path) -> None:
    runs = read(tmp_path, {"agent": "a" * 100}, {"agent": "a" * 101})
    first, second = [method.label for method in group_runs(runs)]
    assert first != second
    assert len(first) <= len(second) < 90


def test_labels_hold_nothing_that_a_terminal_would_obey(tmp_path: Path) -> None:
    (method,) = group_runs(read(tmp_path, {"agent": "a\x1b[31m\n\tb\u202e"}))
    assert method.label == "a\\x1b[31m b\\u202e"


def test_labels_can_be_given(tmp_path: Path) -> None:
    runs = read(tmp_path, {}, {"agent": "ppo"})
    assert [method.label for method in group_runs(runs, {"ppo": "ours"})] == ["random search", "ours"]
    with pytest.raises(ValueError, match=r"no method called 'rs'.*'random search', 'ppo'"):
        group_runs(runs, {"rs": "RS"})
    with pytest.raises(ValueError, match="two methods are called 'ppo'"):
        group_runs(runs, {"random search": "ppo"})


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"0 and .*1 are the same run, with one configuration and seed 0"):
        group_runs(read(tmp_path, {}, {}))
    (method,) = group_runs(read(tmp_path / "seedless", {"seed": None}, {"seed": None}))  # nobody can tell
    assert len(method.runs) == 2


def test_differing_conditions_are_named(tmp_path: Path) -> None:
    runs = read(tmp_path, {}, {"seed": 1, "epochs": 20}, {"seed": 2, "identity": "paper"}, {"seed": 3})
    epochs, identity = different_conditions(runs)
    assert epochs == f"epochs is 5 in {tmp_path}/0, 20 in {tmp_path}/1"
    assert identity.startswith('identity is "fingerprint" in')
    assert different_conditions([runs[0], runs[3]]) == []


def test_the_made_up_histories_are_as_a_search_would_leave_them(tmp_path: Path, oracle: Oracle) -> None:
    search(RandomSearch(), oracle, Budget(queries=3), epochs=1, folder=tmp_path / "run")
    (made,) = history([1.0])
    assert made.keys() == lines_of(tmp_path / "run")[0].keys()
    assert config().keys() == json.loads((tmp_path / "run" / "config.json").read_text()).keys()
    assert np.isfinite(made["loss"])
