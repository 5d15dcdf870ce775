"""SMAC's search as `ask` and `tell`: resuming, proposals, and side effects."""

import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searches import SMALL_SMAC, evaluation, history, small_smac, told

from nosbench_env import BASELINES, Oracle, Program, SearchSpace
from nosbench_env.agents import Budget, HistoryEntry, SmacHPO, SmacNOS, search
from nosbench_env.agents.run_folder import RunFolder

pytest.importorskip("smac")

pytestmark = pytest.mark.usefixtures("quick_smac")


both = pytest.mark.parametrize("name", ["smac-nos", "smac-hpo"])


class TestStopping:
    @both
    @pytest.mark.parametrize("batch_size", [1, 5])
    @pytest.mark.parametrize("saved", [True, False], ids=["state saved", "state lost"])
    def test_a_continued_run_is_the_uninterrupted_one(
        self, tmp_path: Path, name: str, batch_size: int, saved: bool
    ) -> None:
        """The interruptions are in the initial design, in a round and between rounds. Losses agree to the last bit."""

        def run(folder: str, *stops: int) -> list[tuple[Any, ...]]:
            oracle = Oracle("toy", tmp_path / f"{folder}.sqlite", "cpu", workers=1)
            for queries in (*stops, 10):
                budget = Budget(queries=queries)
                search(small_smac(name), oracle, budget, epochs=1, folder=tmp_path / folder, batch_size=batch_size)
                if not saved:
                    (tmp_path / folder / "agent.json").unlink()
            return told(history(tmp_path / folder))

        stops = (2, 6, 7) if batch_size == 1 else (5,)
        assert run("stopped", *stops) == run("whole")

    def test_an_interrupt_between_two_saves_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(folder: str, **more: Any) -> None:
            oracle = Oracle("toy", tmp_path / f"{folder}.sqlite", "cpu", workers=1)
            search(small_smac("smac-hpo"), oracle, Budget(queries=12), epochs=1, folder=tmp_path / folder, **more)

        def interrupt(entry: HistoryEntry[Any], _: Any) -> None:
            if entry.number == 9:
                raise KeyboardInterrupt

        save = RunFolder.save_agent
        monkeypatch.setattr(
            RunFolder,
            "save_agent_now_and_then",
            lambda self, agent, queries: save(self, agent, queries) if queries == 6 else None,
        )
        with pytest.raises(KeyboardInterrupt):
            run("stopped", on_query=interrupt)
        assert json.loads((tmp_path / "stopped" / "agent.json").read_text())["queries"] == 6
        run("stopped")
        run("whole")
        assert told(history(tmp_path / "stopped")) == told(history(tmp_path / "whole"))


class TestProposals:
    @both
    def test_nothing_is_proposed_twice_though_much_is_pending(self, name: str) -> None:
        agent = small_smac(name)
        first = agent.ask(6)
        agent.tell(first[:3], [evaluation(program, float(place)) for place, program in enumerate(first[:3])])
        everything = [*first, *agent.ask(10)]
        assert len(set(everything)) == 16

    def test_an_exhausted_space_gives_what_it_has(self) -> None:
        agent = SmacNOS(SearchSpace(1, 10), initial_configs=2, retrain_after=2, challengers=5)
        agent._pending = _Everything()
        asked = agent.ask(3)
        assert all(program in agent.space for program in asked)

    def test_all_that_fails_or_is_equal_leaves_the_agent_working(self) -> None:
        for losses in ([math.nan] * 4, [math.inf, math.nan] * 2, [1e300] * 4, [1.5] * 4, [0.0] * 4, [-3e9] * 4):
            agent = SmacHPO(**SMALL_SMAC)
            asked = agent.ask(4)
            agent.tell(asked, [evaluation(one, loss) for one, loss in zip(asked, losses, strict=True)])
            assert len(set(agent.ask(3))) == 3

    def test_of_what_is_told_twice_the_first_counts(self) -> None:
        agents = [SmacHPO(**SMALL_SMAC), SmacHPO(**SMALL_SMAC)]
        for agent, more in zip(agents, ([], [7.0]), strict=True):
            asked = agent.ask(4)
            agent.tell(asked, [evaluation(one, float(place)) for place, one in enumerate(asked)])
            agent.tell(asked[: len(more)], [evaluation(asked[0], loss) for loss in more])
        assert agents[0].state_dict() == agents[1].state_dict()

    @both
    def test_what_is_not_in_the_space_is_refused_and_nothing_learnt(self, name: str) -> None:
        agent = small_smac(name)
        good = agent.ask(1)
        foreign = (
            Program.parse("; ".join(["r9 = sqrt(grad)"] * 4)) if name == "smac-nos" else BASELINES["Lion"].candidate
        )
        with pytest.raises(ValueError, match="is not in the space"):
            agent.tell([*good, foreign], [evaluation(program, 1.0) for program in (*good, foreign)])
        assert agent.state_dict()["told"] == []

    @pytest.mark.parametrize("argument", ["initial_configs", "retrain_after", "challengers"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, True])
    def test_bad_numbers_are_refused(self, argument: str, value: Any) -> None:
        with pytest.raises(ValueError, match=f"{argument} must be an integer >= 1, got"):
            SmacHPO(**{argument: value})


class _Everything(set[Any]):
    """A set that contains everything."""

    def __contains__(self, _: object) -> bool:
        return True


class TestManners:
    @pytest.mark.parametrize(
        "module", ["nosbench_env.agents", "nosbench_env.cli.app", "nosbench_env.agents.smac_spaces"]
    )
    def test_smac_is_imported_by_those_who_use_it(self, module: str) -> None:
        code = f"import sys, {module}; assert not {{'smac', 'ConfigSpace', 'dask'}} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)

    @both
    def test_it_is_quiet_and_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        root = logging.getLogger()
        before = (root.level, list(root.handlers), logging.getLogger("smac").level)
        np.random.seed(0)
        state = np.random.get_state()[1].copy()
        agent = small_smac(name)
        asked = agent.ask(4)
        agent.tell(asked, [evaluation(one, float(place)) for place, one in enumerate(asked)])
        agent.ask(3)
        assert (root.level, list(root.handlers), logging.getLogger("smac").level) == before
        assert np.array_equal(np.random.get_state()[1], state)
        assert list(tmp_path.iterdir()) == []
        assert capfd.readouterr() == ("", "")
