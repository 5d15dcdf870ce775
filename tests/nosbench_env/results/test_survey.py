import math

from results import full_provenance, key, record

from nosbench_env import ResultStore
from nosbench_env.results.survey import Group, survey


def test_a_survey_counts_all_there_is() -> None:
    store = ResultStore("sqlite://")
    store.add(key("a"), record(3.0, 2.0, **full_provenance()))
    store.add(key("a"), record(3.0, 1.5, **full_provenance(device="GPU", date="2026-03-01T00:00:00+00:00")))
    store.add(key("b"), record(1.0, **full_provenance(torch="3.0", date="2025-01-01T00:00:00+00:00")))
    store.add(key("b"), record(1.001, **full_provenance()))
    store.add(key("c", seed=3, identity="probe-1"), record(1.0))
    store.add(key("c", seed=3, identity="probe-1"), record(1.0, note="equal"))
    store.add("another form", record(1.0))
    counts = survey(store)
    assert (counts.records, counts.keys, counts.other_keys, counts.without_program) == (7, 4, 1, 3)
    assert counts.groups == {
        Group("toy", 1, 0, "float32", "paper-1"): (4, 2),
        Group("toy", 1, 3, "float32", "probe-1"): (2, 1),
    }
    assert counts.dates == ("2025-01-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00")
    assert counts.devices == {"cpu (x86_64)": 3, "GPU": 1, "unknown": 3}
    assert counts.torch_versions == {"2.13.0": 3, "3.0": 1, "unknown": 3}
    assert (counts.disagreeing_keys, counts.disagreeing_beyond_noise, counts.largest_difference) == (2, 1, 0.5)


def test_finite_beside_not_finite_is_the_largest_difference() -> None:
    store = ResultStore("sqlite://")
    store.add(key(), record(1.0))
    store.add(key(), record(math.nan))
    assert survey(store).largest_difference == math.inf


def test_an_empty_store_holds_nothing() -> None:
    counts = survey(ResultStore("sqlite://"))
    assert (counts.records, counts.groups, counts.dates) == (0, {}, ("", ""))
