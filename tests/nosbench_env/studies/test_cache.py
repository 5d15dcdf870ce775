"""The study of the cache as a whole, on the toy task."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_studies import CACHE, CACHE_QUERIES, fail, read_csv

from nosbench_env.agents import RandomSearch, RegularizedEvolution
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.studies import search_runs, trainings
from nosbench_env.studies.cache import PARTS, CacheStudy, CacheStudySettings
from nosbench_env.studies.cache_growth import cache_sizes
from nosbench_env.studies.identities import IDENTITIES
from nosbench_env.studies.settings import Resources


def test_the_runs_are_those_of_the_agents(small_cache) -> None:
    study, _ = small_cache
    space = SearchSpace(max_instructions=8)
    assert study.programs("rs", 1) == RandomSearch(space, 1).ask(CACHE_QUERIES)
    evolved = study.programs("re", 1)
    assert evolved[:100] == RegularizedEvolution(space, 1).ask(100)
    assert evolved[100:] != RandomSearch(space, 1).ask(CACHE_QUERIES)[100:]


def test_growth_tables_hold_the_cache_sizes(small_cache) -> None:
    study, tables = small_cache
    within = read_csv(study.folder / "growth-within-runs.csv")
    assert len(within) == len(IDENTITIES) * 2 * 3 * CACHE_QUERIES
    for method in ("rs", "re"):
        sizes = cache_sizes(study.keys(method, 2, "paper"))
        rows = [row for row in within if (row["identity"], row["method"], row["seed"]) == ("paper", method, "2")]
        assert [int(row["cache_size"]) for row in rows] == sizes.tolist()
        assert [float(row["speed_up"]) for row in rows] == (np.arange(1, CACHE_QUERIES + 1) / sizes).tolist()
    across = read_csv(study.folder / "growth-across-runs.csv")
    last = next(row for row in reversed(across) if (row["identity"], row["seeds"]) == ("paper", "1-2-0"))
    assert int(last["queries"]) == 3 * CACHE_QUERIES
    distinct = {key.text for seed in range(3) for key in study.keys("re", seed, "paper")}
    assert int(last["cache_size"]) == len(distinct)
    summary = next(row for row in tables["growth"] if (row["identity"], row["method"]) == ("paper", "re"))
    assert summary["cache size after 3 runs"] == len(distinct)


def test_hit_rates_are_means_over_pairs_of_runs(small_cache) -> None:
    study, tables = small_cache
    row = next(
        row
        for row in tables["hits"]
        if (row["identity"], row["runs"], row["diverged"]) == ("paper", "RS-RE", "counted")
    )
    shares = []
    for filled_by, queried_by in ((0, 1), (1, 2), (2, 0)):
        filled = {key.text for key in study.keys("rs", filled_by, "paper")}
        shares.append(np.mean([key.text in filled for key in study.keys("re", queried_by, "paper")]))
    assert row["filled"] == pytest.approx(np.mean(shares))
    assert row["filled std"] == pytest.approx(np.std(shares))
    assert row["either"] >= max(row["filled"], row["own"])


def test_differing_pairs_are_listed_with_their_losses(small_cache) -> None:
    study, tables = small_cache
    listed = json.loads((study.folder / "false-positives.json").read_text())
    for row in tables["false-positives"]:
        own = [pair for pair in listed if all(pair[name] == row[name] for name in ("method", "identity", "drawn over"))]
        assert len(own) == row["distinct different"]
        assert sum(pair["times drawn"] for pair in own) == row["different"] >= row["tame"]
    row = tables["false-positives"][0]
    counts = Counter(key.text for key in study.pooled("rs", "paper")[1] if not key.diverged).values()
    assert (row["method"], row["identity"], row["drawn over"]) == ("rs", "paper", "pairs")
    share = row["groups' pairs"] / sum(count * (count - 1) / 2 for count in counts)
    assert 0 < share < 1
    assert row["rate of all"] == pytest.approx(row["rate"] * share)
    for pair in listed:
        a, b = (np.array(losses, dtype=float) for losses in pair["losses"])
        step = pair["first differing step"]
        assert len(a) == len(b) == 21
        assert pair["canonical"][0] != pair["canonical"][1]
        assert abs(a[step] - b[step]) > 1e-4 or np.isfinite(a[step]) != np.isfinite(b[step])


def test_every_part_has_its_files(small_cache) -> None:
    study, tables = small_cache
    summary = json.loads((study.folder / "summary.json").read_text())
    assert set(summary) == set(tables) == set(PARTS)
    assert summary["hits"]["settings"]["queries"] == CACHE_QUERIES
    for part, rows in (("false-positives", 12), ("false-splits", 4), ("diverged", 4)):
        assert len(read_csv(study.folder / f"{part}.csv")) == len(summary[part]["rows"]) == rows
        assert isinstance(json.loads((study.folder / f"{part}.json").read_text()), list)
    trained = sum(row["trained"] for row in tables["diverged"] if row["identity"] == "paper")
    assert trained == CACHE.diverged_programs


def test_a_second_time_nothing_is_done_again(small_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    study, tables = small_cache
    monkeypatch.setattr(search_runs, "search", fail)
    monkeypatch.setattr(trainings, "_train", fail)
    again = CacheStudy(study.folder, CACHE, Resources(device="cpu")).run(list(PARTS))
    assert json.dumps(again) == json.dumps(tables)


@pytest.mark.slow
def test_runs_in_processes_of_their_own_are_the_same(small_cache, tmp_path: Path) -> None:
    study, _ = small_cache
    other = CacheStudy(tmp_path, CACHE, Resources(device="cpu", workers=2))
    assert [other.programs("re", seed) for seed in range(3)] == [study.programs("re", seed) for seed in range(3)]


def test_few_seeds_leave_out_what_needs_more(tmp_path: Path) -> None:
    told: list[str] = []
    settings = CacheStudySettings(task="toy", queries=5, seeds=1, methods=("rs",), identities=("paper",))
    tables = CacheStudy(tmp_path, settings, Resources(report=told.append)).run(["growth", "hits"])
    assert tables["hits"] == []
    assert np.isnan(tables["growth"][0]["cache size after 3 runs"])
    assert len(told) == 2


def test_unknown_names_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown part cost; known are growth"):
        CacheStudy(tmp_path, CACHE).run(["cost"])
