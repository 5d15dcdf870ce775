import math
import sys
from pathlib import Path
from typing import Any

import pytest
from searches import history

from nosbench_env import Oracle
from nosbench_env.agents import Budget, HistoryEntry, RandomSearch, run_folder, search


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads the events of a run as TensorBoard does: steps and values by tag, in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: sorted((e.step, e.value) for e in events.Scalars(tag)) for tag in events.Tags()["scalars"]}


class Counting(RandomSearch):
    """Random search with a metric that changes with every third program told."""

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

    monkeypatch.setattr(run_folder, "_SAVE_AGENT_EVERY_S", every)
    arguments: dict[str, Any] = {"epochs": 1, "folder": tmp_path / "r", "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        search(Counting(), oracle, Budget(queries=10), on_query=interrupt, **arguments)
    search(Counting(), oracle, Budget(queries=10), **arguments)
    search(Counting(), oracle, Budget(queries=14), **arguments)
    search(Counting(), oracle, Budget(queries=14), epochs=1, folder=tmp_path / "whole", batch_size=2)
    stopped, whole = shown(tmp_path / "r"), shown(tmp_path / "whole")
    for tag in ("search/loss", "search/best_loss", "search/distinct", "rs/thirds"):
        assert stopped[tag] == whole[tag], tag
    assert [step for step, _ in stopped["search/hits"]] == list(range(1, 15))


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
