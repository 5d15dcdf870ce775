import pytest
from results import key, record

from nosbench_env import ResultStore
from nosbench_env.results.key import Selection
from nosbench_env.results.prune import plan_pruning
from nosbench_env.results.survey import Group


def test_pruning_chooses_by_the_parts_of_keys() -> None:
    store = ResultStore("sqlite://")
    for number in range(3):
        store.add(key(f"{number}"), record(3.0, nosbench_env="0.1.0"))
    store.add("another form", record(7.0))
    store.add(key("1", identity="probe-2"), record(1.0, nosbench_env="0.2.0"))
    store.add(key("1", task="toy-2"), record(1.0))
    for selection, ids in (
        (Selection(identity="probe-2"), [5]),
        (Selection(task="toy", task_version=2), [6]),
        (Selection(nosbench_version="0.2.0"), [5]),
        (Selection(task="toy", nosbench_version="0.1.0"), [1, 2, 3]),
        (Selection(task="pfn"), []),
    ):
        plan = plan_pruning(store, selection)
        assert plan.ids == ids
        assert plan.chosen.total() == len(ids)
        assert plan.remaining.total() == 5 - len(ids)
        assert plan.other_keys == 1
    assert plan_pruning(store, Selection(task="toy", task_version=2)).chosen == {
        Group("toy", 2, 0, "float32", "paper-1"): 1
    }
    assert len(list(store.records())) == 6


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing is selected"):
        plan_pruning(ResultStore("sqlite://"), Selection())
