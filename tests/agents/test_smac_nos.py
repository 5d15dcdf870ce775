from pathlib import Path

import pytest
from searches import history, small_smac

from nosbench_env import Oracle, Program, SearchSpace
from nosbench_env.agents import Budget, SmacNOS, search

pytest.importorskip("smac")


@pytest.mark.usefixtures("quick_smac")
def test_programs_are_searched_end_to_end(oracle: Oracle, tmp_path: Path) -> None:
    result = search(small_smac("smac-nos"), oracle, Budget(queries=12), epochs=1, folder=tmp_path / "run")
    assert (result.queries, len({str(entry.program) for entry in history(tmp_path / "run")})) == (12, 12)
    assert Program.parse((tmp_path / "run" / "best.txt").read_text()) == result.best.program


def test_constraints_are_refused() -> None:
    with pytest.raises(ValueError, match="constraints used"):
        SmacNOS(SearchSpace(constraints=("used",)))


def test_defaults_are_the_papers() -> None:
    assert SmacNOS().config() == {
        "space": {"max_instructions": 20, "memory_size": 20},
        "seed": 0,
        "initial_configs": 10,
        "retrain_after": 8,
        "challengers": 10_000,
    }
