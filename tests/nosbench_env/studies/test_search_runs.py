from functools import partial
from pathlib import Path

import pytest

from nosbench_env.agents import RandomSearch
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.studies import search_runs
from nosbench_env.studies.processes import JobError
from nosbench_env.studies.search_runs import SearchRuns

AGENTS = {f"rs-{seed}": partial(RandomSearch, SearchSpace(8), seed) for seed in range(2)}


def test_complete_runs_are_not_repeated_and_longer_ones_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    runs = SearchRuns(tmp_path, str(tmp_path / "store.sqlite"), "toy", "cpu", 1, 3)
    runs.complete(AGENTS, 1, told.append)
    assert [runs.done(name) for name in AGENTS] == [3, 3]
    SearchRuns(tmp_path, str(tmp_path / "store.sqlite"), "toy", "cpu", 1, 4).complete(AGENTS, 1, told.append)
    assert [runs.done(name) for name in AGENTS] == [4, 4]
    assert told == ["2 of 2 runs of 3 queries to do", "2 of 2 runs of 4 queries to do"]
    monkeypatch.delattr(search_runs, "search")
    runs.complete(AGENTS, 1, told.append)
    assert len(told) == 2


def test_a_run_that_fails_in_its_process_says_why(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("no database, and longer than the header of one" * 100)
    runs = SearchRuns(tmp_path / "runs", str(tmp_path / "store.sqlite"), "toy", "cpu", 1, 5, "paper")
    with pytest.raises(JobError, match=r"a process of the study failed: can't .* the store"):
        runs.complete(AGENTS, 2, print)
