"""Figure 5: the trainings and the tables."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_studies import FIGURE5, read_csv

from nosbench_env import KNOWN_PROGRAMS, Program, make_task
from nosbench_env.candidates.baselines import BASELINES
from nosbench_env.plotting import png
from nosbench_env.studies import figure5
from nosbench_env.studies.figure5 import FIELDS, Figure5Settings, Figure5Study
from nosbench_env.studies.figure5_plot import plot_figure5
from nosbench_env.studies.figure5_training import train_with_norms
from nosbench_env.studies.pages import figure5_page
from nosbench_env.studies.settings import Resources
from nosbench_env.studies.study_folder import StudyError

WILD = Program.parse("r9 = div(step, r10)")  # infinite at once


def test_tables_hold_what_the_trainings_showed(small_figure5) -> None:
    study, summary = small_figure5
    for name in FIELDS:
        assert list(read_csv(study.files.path / name)[0]) == list(FIELDS[name])
    curve, norms = train_with_norms(make_task("toy", "cpu"), KNOWN_PROGRAMS["AdamW"], 2, 1)
    rows = read_csv(study.files.path / "figure5_update_norms.csv")
    own = [row for row in rows if (row["candidate"], row["seed"]) == ("AdamW", "1")]
    assert [float(row["update_norm"]) for row in own] == norms.tolist()
    rows = read_csv(study.files.path / "figure5_task_curves.csv")
    own = [row for row in rows if (row["candidate"], row["seed"]) == ("AdamW", "1")]
    assert [float(row["loss"]) for row in own] == curve.epoch_means.tolist()
    rows = read_csv(study.files.path / "figure5_proxy_curves.csv")
    assert len(rows) == 3 * 2 * 12
    of_adamw = next(row for row in summary if row["candidate"] == "AdamW")
    finals = [
        train_with_norms(make_task("toy", "cpu"), KNOWN_PROGRAMS["AdamW"], 2, s)[0].epoch_means[-1] for s in (0, 1)
    ]
    assert of_adamw["final loss"] == np.mean(finals)


def test_what_is_trained_is_not_trained_again_and_more_seeds_build_on_it(
    small_figure5, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, summary = small_figure5
    folder = shutil.copytree(study.files.path, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    trained: list[int] = []
    train = train_with_norms

    def counted(task, candidate, epochs, seed, **options):
        trained.append(seed)
        return train(task, candidate, epochs, seed, **options)

    monkeypatch.setattr(figure5, "train_with_norms", counted)
    assert Figure5Study(folder, FIGURE5).run() == summary
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before
    assert trained == []
    some = {"AdamW": BASELINES["AdamW"].candidate}
    Figure5Study(folder, Figure5Settings("toy", 2, 3, 12), some).run()
    assert trained == [2]


def test_a_failed_training_is_shown_as_such(tmp_path: Path) -> None:
    study = Figure5Study(tmp_path, FIGURE5, {"wild": WILD, "SGD": KNOWN_PROGRAMS["SGD"]})
    wild, sgd = study.run()
    assert math.isnan(wild["final loss"])
    assert math.isfinite(sgd["final loss"])
    assert json.loads((tmp_path / "figure5.json").read_text())["table"][0]["final loss"] is None
    assert "| wild | - | - |" in figure5_page(FIGURE5, [wild, sgd])
    assert png(plot_figure5(tmp_path, "toy")).startswith(b"\x89PNG")


@pytest.mark.slow
def test_trainings_in_processes_are_the_same(small_figure5, tmp_path: Path) -> None:
    study, _ = small_figure5
    other = Figure5Study(tmp_path, FIGURE5, {"AdamW": BASELINES["AdamW"].candidate}, Resources(workers=2))
    other.run()
    ours, theirs = (
        [row for row in read_csv(path / "figure5_update_norms.csv") if row["candidate"] == "AdamW"]
        for path in (study.files.path, tmp_path)
    )
    assert ours == theirs


@pytest.mark.parametrize("text", ["", "{", "[]", '{"candidate": 1}', '{"epoch_means": []}'])
def test_a_damaged_training_is_named(tmp_path: Path, text: str) -> None:
    some = {"SGD": KNOWN_PROGRAMS["SGD"]}
    Figure5Study(tmp_path, Figure5Settings("toy", 1, 1, 2), some).run()
    (file,) = (tmp_path / "trainings").iterdir()
    file.write_text(text)
    with pytest.raises(StudyError, match=f"{file.name} is damaged: .*delete it to train again"):
        Figure5Study(tmp_path, Figure5Settings("toy", 1, 1, 2), some).run()


def test_a_training_of_another_version_of_the_task_is_named(tmp_path: Path) -> None:
    some = {"SGD": KNOWN_PROGRAMS["SGD"]}
    Figure5Study(tmp_path, Figure5Settings("toy", 1, 1, 2), some).run()
    (file,) = (tmp_path / "trainings").iterdir()
    file.write_text(file.read_text().replace('"task_version": 1', '"task_version": 99'))
    with pytest.raises(StudyError, match="it is of version 99 of the task, here is version 1; delete it"):
        Figure5Study(tmp_path, Figure5Settings("toy", 1, 1, 2), some).run()
