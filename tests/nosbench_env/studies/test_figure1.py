"""Figure 1: the runs, the baselines and the tables."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_studies import FIGURE1, FIGURE1_QUERIES, fail, read_csv

from nosbench_env import KNOWN_PROGRAMS, Oracle
from nosbench_env.agents import Budget, RandomSearch, RegularizedEvolution, search
from nosbench_env.comparison import read_run
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.oracles.leased_training import LeasedTraining
from nosbench_env.studies import figure1, search_runs
from nosbench_env.studies.figure1 import FIELDS, METHODS, Figure1Settings, Figure1Study
from nosbench_env.studies.pages import figure1_page
from nosbench_env.studies.settings import Resources

pytestmark = pytest.mark.usefixtures("quick_smac")


def test_the_runs_are_those_of_the_agents(small_figure1, tmp_path: Path) -> None:
    folder, _ = small_figure1
    oracle = Oracle("toy", tmp_path / "other.sqlite", workers=1)
    agents = {
        "rs": RandomSearch(SearchSpace(14), 1),
        "re-adamw": RegularizedEvolution(SearchSpace(14), 1, KNOWN_PROGRAMS["AdamW"]),
    }
    for name, agent in agents.items():
        search(agent, oracle, Budget(queries=FIGURE1_QUERIES), epochs=1, folder=tmp_path / name)
        ours, theirs = read_run(folder / "runs" / f"{name}-1"), read_run(tmp_path / name)
        assert ours.config == theirs.config
        np.testing.assert_allclose(ours.best, theirs.best, rtol=1e-6)  # programs taken to be the same share a result


def test_tables_hold_the_runs_and_the_baselines(small_figure1) -> None:
    folder, figure = small_figure1
    for name in FIELDS:
        assert list(read_csv(folder / name)[0]) == list(FIELDS[name])
    runs = {(row["method"], row["seed"]): row for row in read_csv(folder / "figure1_runs.csv")}
    assert set(runs) == {(label, seed) for label in ("RS", "RE from AdamW", "SMAC_HPO") for seed in "01"}
    for method in FIGURE1.methods:
        for seed in "01":
            run, row = read_run(folder / "runs" / f"{method}-{seed}"), runs[METHODS[method].label, seed]
            assert float(row["loss"]) == run.best[-1]
            assert (int(row["queries"]), int(row["distinct"])) == (FIGURE1_QUERIES, run.distinct[-1])
            assert int(row["failed"]) == run.failed[-1]
    assert runs["SMAC_HPO", "0"]["program"].startswith("torch.optim.SGD(lr=")
    curves = [row for row in read_csv(folder / "figure1_curves.csv") if row["method"] == "RS"]
    best = np.array([read_run(folder / "runs" / f"rs-{seed}").best for seed in (0, 1)])
    for row in curves:
        assert float(row["iqm"]) == pytest.approx(best[:, int(float(row["x"])) - 1].mean())
    oracle = Oracle("toy", workers=1)
    for row in read_csv(folder / "figure1_baselines.csv"):
        candidate = figure1.named_baselines([row["name"]])[0].candidate
        losses = [oracle.query(candidate, 1, seed).loss for seed in (0, 1)]
        assert float(row["mean"]) == pytest.approx(np.mean(losses), rel=1e-6)
        assert row["paper"] == ""  # the paper has none for this task
    names = [row["name"] for row in read_csv(folder / "figure1_baselines.csv")]
    assert [score.name for score in figure.scores] == names


def test_a_second_time_nothing_is_done_again(small_figure1, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = small_figure1
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    assert len(before) == 4
    monkeypatch.setattr(search_runs, "search", fail)
    monkeypatch.setattr(LeasedTraining, "_train", fail)
    Figure1Study(folder, FIGURE1).run()
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before


@pytest.mark.slow
def test_a_larger_study_builds_on_a_smaller_one_and_a_smaller_one_is_part_of_it(small_figure1, tmp_path: Path) -> None:
    folder, figure = small_figure1
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = {"task": "toy", "epochs": 1, "seeds": 2, "max_instructions": 14, "baselines": FIGURE1.baselines}
    larger = Figure1Study(
        copy, Figure1Settings(**settings, queries=FIGURE1_QUERIES + 7, methods=("rs", "re-adamw"))
    ).run()
    assert {row["queries"] for row in larger.run_rows} == {FIGURE1_QUERIES + 7}
    assert larger.left_out == {}
    again = Figure1Study(copy, FIGURE1).run()
    assert again.run_rows == figure.run_rows
    assert [row for row in again.curve_rows if row["x"] < FIGURE1_QUERIES] == [
        row for row in figure.curve_rows if row["x"] < FIGURE1_QUERIES
    ]


def test_the_first_optimizers_of_smac_hpo_are_part_of_the_study(small_figure1) -> None:
    folder, _ = small_figure1
    assert read_run(folder / "runs" / "smac-hpo-0").config["initial_configs"] == FIGURE1.hpo_initial
    with pytest.raises(ValueError, match="holds another study: hpo_initial is 50, now 5"):
        Figure1Study(folder, replace(FIGURE1, hpo_initial=5)).run()


def test_a_method_that_is_not_installed_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure1, "find_spec", lambda name: None)
    told: list[str] = []
    settings = Figure1Settings("toy", 1, 1, 3, methods=("rs", "smac-nos"), baselines=("SGD", "AdamW-cosine"))
    figure = Figure1Study(tmp_path, settings, Resources(report=told.append)).run()
    assert figure.left_out == {"SMAC_NOS": "needs smac: pip install 'nosbench_env[smac]'"}
    assert "SMAC_NOS is left out: it needs smac: pip install 'nosbench_env[smac]'" in told
    assert [row["method"] for row in figure.method_rows] == ["RS"]
    assert "Left out: SMAC_NOS, which needs smac" in figure1_page(figure)
    alone = Figure1Settings("toy", 1, 1, 3, methods=("smac-nos",), baselines=("SGD",))
    with pytest.raises(ValueError, match="SMAC_NOS needs smac: pip install"):
        Figure1Study(tmp_path, alone).run()


def test_a_baseline_that_is_not_installed_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nosbench_env.candidates.optimizer_config.find_spec", lambda name: None)
    settings = Figure1Settings("toy", 1, 1, 3, methods=("rs",), baselines=("SGD", "Lion"))
    figure = Figure1Study(tmp_path, settings).run()
    assert list(figure.left_out) == ["Lion"]
    assert [score.name for score in figure.scores] == ["SGD"]


@pytest.mark.slow
def test_runs_in_processes_of_their_own_are_the_same(small_figure1, tmp_path: Path) -> None:
    folder, _ = small_figure1
    settings = Figure1Settings(
        "toy", 1, 2, FIGURE1_QUERIES, 14, methods=("rs", "re-adamw"), baselines=FIGURE1.baselines
    )
    Figure1Study(tmp_path, settings, Resources(workers=2)).run()
    ours = [row for row in read_csv(folder / "figure1_runs.csv") if row["method"] != "SMAC_HPO"]
    theirs = read_csv(tmp_path / "figure1_runs.csv")
    assert [row["program"] for row in ours] == [row["program"] for row in theirs]
