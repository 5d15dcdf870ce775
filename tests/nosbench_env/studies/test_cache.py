"""The study of the cache as a whole, on the toy task, by its command."""

import csv
import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nosbench_env import Program
from nosbench_env.agents import RandomSearch, RegularizedEvolution
from nosbench_env.cli.study import IdentityName, Part, Size
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.studies import cache_plots, search_runs, trainings
from nosbench_env.studies.cache import CAPTIONS, PARTS, SIZES, CacheStudy, CacheStudySettings
from nosbench_env.studies.cache_growth import cache_sizes
from nosbench_env.studies.identities import IDENTITIES, Key, key_of, keys_of
from nosbench_env.studies.study_folder import StudyError, StudyFolder
from nosbench_env.tasks import make_task

QUERIES = 120  # evolution's first population, and 20 children
SMALL = CacheStudySettings(
    task="toy", queries=QUERIES, merged_pairs=20, split_programs=20, diverged_programs=6, max_instructions=8
)
OPTIONS = [
    *("--task", "toy", "--device", "cpu", "--workers", "1", "--queries", str(QUERIES), "--max-instructions", "8"),
    *("--merged-pairs", "20", "--split-programs", "20", "--diverged-programs", "6"),
]


@pytest.fixture
def study_cache(nosbench):
    """Runs `nosbench study cache`."""
    return partial(nosbench, "study", "cache")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[CacheStudy, dict[str, list[dict[str, Any]]]]:
    """A small study of everything."""
    study = CacheStudy(tmp_path_factory.mktemp("study"), SMALL, device="cpu")
    return study, study.run(list(PARTS))


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def fail(*arguments: Any, **options: Any) -> None:
    raise AssertionError("this was done before")


def test_the_runs_are_those_of_the_agents(done) -> None:
    study, _ = done
    space = SearchSpace(max_instructions=8)
    assert study.programs("rs", 1) == RandomSearch(space, 1).ask(QUERIES)
    evolved = study.programs("re", 1)
    assert evolved[:100] == RegularizedEvolution(space, 1).ask(100)
    assert evolved[100:] != RandomSearch(space, 1).ask(QUERIES)[100:]


def test_growth_tables_hold_the_cache_sizes(done) -> None:
    study, tables = done
    within = read_csv(study.folder / "growth-within-runs.csv")
    assert len(within) == len(IDENTITIES) * 2 * 3 * QUERIES
    for method in ("rs", "re"):
        sizes = cache_sizes(study.keys(method, 2, "paper"))
        rows = [row for row in within if (row["identity"], row["method"], row["seed"]) == ("paper", method, "2")]
        assert [int(row["cache_size"]) for row in rows] == sizes.tolist()
        assert [float(row["speed_up"]) for row in rows] == (np.arange(1, QUERIES + 1) / sizes).tolist()
    across = read_csv(study.folder / "growth-across-runs.csv")
    last = next(row for row in reversed(across) if (row["identity"], row["seeds"]) == ("paper", "1-2-0"))
    assert int(last["queries"]) == 3 * QUERIES
    distinct = {key.text for seed in range(3) for key in study.keys("re", seed, "paper")}
    assert int(last["cache_size"]) == len(distinct)
    summary = next(row for row in tables["growth"] if (row["identity"], row["method"]) == ("paper", "re"))
    assert summary["cache size after 3 runs"] == len(distinct)


def test_hit_rates_are_means_over_pairs_of_runs(done) -> None:
    study, tables = done
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


def test_differing_pairs_are_listed_with_their_losses(done) -> None:
    study, tables = done
    listed = json.loads((study.folder / "false-positives.json").read_text())
    for row in tables["false-positives"]:
        own = [
            found for found in listed if all(found[name] == row[name] for name in ("method", "identity", "drawn over"))
        ]
        assert len(own) == row["distinct different"]
        assert sum(found["times drawn"] for found in own) == row["different"] >= row["tame"]
    row = tables["false-positives"][0]
    counts = Counter(key.text for key in study.pooled("rs", "paper")[1] if not key.diverged).values()
    assert (row["method"], row["identity"], row["drawn over"]) == ("rs", "paper", "pairs")
    share = row["groups' pairs"] / sum(count * (count - 1) / 2 for count in counts)
    assert 0 < share < 1
    assert row["rate of all"] == pytest.approx(row["rate"] * share)
    for found in listed:
        a, b = (np.array(losses, dtype=float) for losses in found["losses"])
        step = found["first differing step"]
        assert len(a) == len(b) == 21
        assert found["canonical"][0] != found["canonical"][1]
        assert abs(a[step] - b[step]) > 1e-4 or np.isfinite(a[step]) != np.isfinite(b[step])


def test_every_part_has_its_files(done) -> None:
    study, tables = done
    summary = json.loads((study.folder / "summary.json").read_text())
    assert set(summary) == set(tables) == set(PARTS) == {part.value for part in Part}
    assert summary["hits"]["settings"]["queries"] == QUERIES
    for part, rows in (("false-positives", 12), ("false-splits", 4), ("diverged", 4)):
        assert len(read_csv(study.folder / f"{part}.csv")) == len(summary[part]["rows"]) == rows
        assert isinstance(json.loads((study.folder / f"{part}.json").read_text()), list)
    trained = sum(row["trained"] for row in tables["diverged"] if row["identity"] == "paper")
    assert trained == SMALL.diverged_programs


def test_a_second_time_nothing_is_done_again(done, monkeypatch: pytest.MonkeyPatch) -> None:
    study, tables = done
    monkeypatch.setattr(search_runs, "search", fail)
    monkeypatch.setattr(trainings, "_train", fail)
    again = CacheStudy(study.folder, SMALL, device="cpu").run(list(PARTS))
    assert json.dumps(again) == json.dumps(tables)


def test_pictures_show_what_the_tables_hold(done, tmp_path: Path) -> None:
    study, _ = done
    for name, runs in (("growth-within-runs", 1), ("growth-across-runs", 3)):
        table, picture = study.folder / f"{name}.csv", tmp_path / f"{name}.png"
        cache_plots.plot_growth(table, picture, runs=runs)
        assert picture.read_bytes().startswith(b"\x89PNG")
        curves = cache_plots._read(table)["paper"]["re"]
        assert len(curves) == 3
        assert curves[0][0] == [int(r["queries"]) for r in read_csv(table)][: len(curves[0][0])]
        assert curves[0][1][-1] == cache_sizes(study.keys("re", 0, "paper"))[-1] or runs == 3


def test_runs_in_processes_of_their_own_are_the_same(done, tmp_path: Path) -> None:
    study, _ = done
    other = CacheStudy(tmp_path, SMALL, device="cpu", workers=2)
    assert [other.programs("re", seed) for seed in range(3)] == [study.programs("re", seed) for seed in range(3)]


def test_a_run_that_fails_in_its_process_says_why(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("no database, and longer than the header of one" * 100)
    runs = search_runs.SearchRuns(tmp_path / "runs", str(tmp_path / "store.sqlite"), "toy", "cpu", 1, 5, 8, "paper")
    with pytest.raises(ValueError, match=r"a run of evolution failed: can't .* the store"):
        runs.evolve(range(2), 2, print)


def test_an_interrupted_study_goes_on(study_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    train_all = trainings._train

    def interrupted(task, programs, epochs, workers, on_curve, **options) -> None:
        train_all(task, programs[:3], epochs, workers, on_curve, **options)
        trained.extend(programs[:3])
        raise KeyboardInterrupt

    def counted(task, programs, epochs, workers, on_curve, **options) -> None:
        train_all(task, programs, epochs, workers, on_curve, **options)
        trained.extend(programs)

    arguments = [*OPTIONS, "--part", "false-splits", "--method", "rs", "--identity", "paper"]
    monkeypatch.setattr(trainings, "_train", interrupted)
    stopped = study_cache(*arguments)
    assert stopped.code == 130
    assert "To go on, run the same command again" in stopped.err
    monkeypatch.setattr(trainings, "_train", counted)
    assert study_cache(*arguments).code == 0
    assert len(trained) == len(set(trained)) == 20


def test_the_command_prints_tables_and_draws(study_cache) -> None:
    arguments = [*OPTIONS, "--part", "growth", "--part", "hits", "--method", "rs", "--identity", "paper"]
    run = study_cache(*arguments, "--folder", "here")
    assert run.code == 0
    assert "Figures 3 and 4" in run.out
    assert "RS-RS   counted" in run.out
    assert "RS-RE   counted" not in run.out
    assert "±" in run.out
    written = {path.name for path in Path("here").iterdir()}
    assert {"growth-within-runs.png", "growth-across-runs.png", "summary.json", "hit-rates.csv"} <= written
    assert "runs" not in written  # random search needs no training
    as_json = study_cache(*arguments, "--folder", "here", "--json", "--no-plots")
    assert set(json.loads(as_json.out)) == {"growth", "hits"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["--queries", "-3"], "queries must be an integer >= 1, got -3"),
        (["--task", "mnist"], "unknown task 'mnist'"),
        (["--epochs", "0"], "epochs must be an integer >= 1"),
        (["--max-instructions", "0"], "max_instructions must be an integer from 1"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--workers", "0"], "workers must be an integer >= 1"),
        (["--method", "rs", "--method", "rs"], "methods must be some of rs, re"),
    ],
)
def test_wrong_options_give_one_message(study_cache, arguments: list[str], message: str) -> None:
    run = study_cache(*arguments, "--part", "hits")
    assert run.code == 2
    assert run.err.startswith("nosbench: ")
    assert message in run.err
    assert not Path("studies").exists()


def test_a_folder_keeps_to_its_study(study_cache) -> None:
    arguments = [*OPTIONS, "--part", "hits", "--method", "rs", "--identity", "paper"]
    assert study_cache(*arguments).code == 0
    other = study_cache(*arguments, "--epochs", "2")
    assert other.code == 2
    assert "holds another study: epochs is 1, now 2. Choose another folder with --folder" in other.err


def test_a_folder_serves_one_process_at_a_time(tmp_path: Path) -> None:
    settings = CacheStudySettings(task="toy", queries=5, seeds=2, methods=("rs",))
    with StudyFolder(tmp_path).opened({}), pytest.raises(StudyError, match="in use by another process"):
        CacheStudy(tmp_path, settings).run(["hits"])


def test_without_matplotlib_the_message_names_the_extra(study_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    run = study_cache(*OPTIONS, "--part", "growth")
    assert run.code == 2
    assert "pip install 'nosbench_env[plot]'" in run.err
    assert study_cache(*OPTIONS, "--part", "growth", "--method", "rs", "--identity", "paper", "--no-plots").code == 0


def test_few_seeds_leave_out_what_needs_more(tmp_path: Path) -> None:
    told: list[str] = []
    settings = CacheStudySettings(task="toy", queries=5, seeds=1, methods=("rs",), identities=("paper",))
    tables = CacheStudy(tmp_path, settings, report=told.append).run(["growth", "hits"])
    assert tables["hits"] == []
    assert np.isnan(tables["growth"][0]["cache size after 3 runs"])
    assert len(told) == 2


def test_keys_are_kept_and_renewed_for_other_programs_and_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = RandomSearch(SearchSpace(8), 0).ask(40)
    file = tmp_path / "keys.json"
    task = make_task("toy", "cpu")
    keys = keys_of(programs, "paper", task, file)
    assert keys == [key_of(program, "paper", task) for program in programs]
    asked: list[object] = []

    def other_version(program: object, *_: Any) -> Key:
        asked.append(program)
        return Key("another version", False)

    def same_version(program: Any, *_: Any) -> Key:
        asked.append(program)
        return key_of(program, "paper", task)

    monkeypatch.setattr("nosbench_env.studies.identities.key_of", same_version)
    assert keys_of(programs, "paper", task, file) == keys
    assert len(asked) < len(programs)
    assert keys_of(programs[::-1], "paper", task, file) == keys[::-1]
    monkeypatch.setattr("nosbench_env.studies.identities.key_of", other_version)
    assert set(keys_of(programs[::-1], "paper", task, file)) == {Key("another version", False)}


def test_unknown_names_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown part cost; known are growth"):
        CacheStudy(tmp_path, SMALL).run(["cost"])


def test_options_offer_what_there_is() -> None:
    assert {part.value for part in Part} == set(PARTS) == set(CAPTIONS)
    assert {size.value for size in Size} == set(SIZES)
    assert {name.value for name in IdentityName} == set(IDENTITIES)


def test_equal_canonical_forms_have_one_key() -> None:
    task = make_task("toy", "cpu")
    a, b = Program.parse("r9 = mul(grad, 0.1)"), Program.parse("r11 = exp(step); r10 = mul(0.1, grad)")
    dead, other = Program.parse("r9 = div(0.1, r10)"), Program.parse("r9 = mul(grad, 0.01)")
    for name in IDENTITIES:
        assert key_of(a, name, task) == key_of(b, name, task) != key_of(other, name, task)
    assert [key_of(dead, name, task).diverged for name in IDENTITIES] == [True, True, True]
