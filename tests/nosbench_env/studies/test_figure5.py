"""Figure 5: trainings that are watched, the proxy, and the command."""

import csv
import json
import math
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, ProgramOptimizer, fingerprint, make_task
from nosbench_env.candidates.baselines import BASELINES
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.cli.study import FigureSize
from nosbench_env.studies import figure5
from nosbench_env.studies.figure5 import FIELDS, SIZES, Figure5Settings, Figure5Study
from nosbench_env.studies.figure5_picture import draw_figure5, smoothed_over
from nosbench_env.studies.figure5_reading import markdown, statement_cells
from nosbench_env.studies.figure5_training import plain_optimizer, train_on_proxy, train_with_norms
from nosbench_env.studies.processes import JobError
from nosbench_env.studies.study_folder import StudyError

OPTIONS = ["--size", "minutes", "--epochs", "2", "--seeds", "2", "--proxy-steps", "12", "--workers", "1"]
SMALL = Figure5Settings(task="toy", epochs=2, seeds=2, proxy_steps=12)
WILD = Program.parse("r9 = div(step, r10)")  # infinite at once
ADAMW = OptimizerConfig("torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.1}, "cosine")


@pytest.fixture
def study_figure5(nosbench):
    """Runs `nosbench study figure5`."""
    return partial(nosbench, "study", "figure5")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Figure5Study, list[dict[str, Any]]]:
    """A small study."""
    study = Figure5Study(tmp_path_factory.mktemp("figure5"), SMALL)
    return study, study.run()


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.parametrize(
    "candidate",
    [KNOWN_PROGRAMS["Incumbent"], KNOWN_PROGRAMS["Adadelta"], ADAMW],
    ids=["Incumbent", "Adadelta", "config"],
)
def test_watching_does_not_change_a_training(oracle: Oracle, candidate: Any) -> None:
    curve, norms = train_with_norms(oracle.task, candidate, 3, 1)
    assert curve.epoch_means.tolist() == list(oracle.query(candidate, 3, 1).curve)  # to the last bit
    assert norms.shape == (30,)
    assert (norms > 0).all()


def test_update_norms_are_the_distances_between_parameters() -> None:
    task = make_task("toy", "cpu")
    weights: list[np.ndarray] = []

    def make_optimizer(params):
        params = list(params)
        optimizer = plain_optimizer(ADAMW, params, 2, task.steps_per_epoch)

        def keep(*_: Any) -> None:
            weights.append(np.concatenate([param.detach().double().numpy().ravel() for param in params]))

        keep()
        optimizer.register_step_post_hook(keep)
        return optimizer

    task.train(make_optimizer, 2)
    expected = [np.linalg.norm(after - before) for before, after in pairwise(weights)]
    _, norms = train_with_norms(task, ADAMW, 2, 0)
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_the_norm_of_sgd_is_its_rate_times_that_of_the_clipped_gradient() -> None:
    _, norms = train_with_norms(make_task("toy", "cpu"), Program.parse("r9 = mul(grad, 0.1)"), 1, 0)
    assert (norms <= 0.1 * (1 + 1e-6)).all()  # gradients are clipped to a norm of 1


def test_steps_after_a_blow_up_have_no_norm() -> None:
    curve, norms = train_with_norms(make_task("toy", "cpu"), WILD, 1, 0)
    assert curve.stopped_at == 1
    assert not np.isfinite(norms).any()
    assert len(norms) == 10


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_the_proxy_is_the_one_of_the_papers_fingerprint(name: str) -> None:
    average = 0.0
    for loss in train_on_proxy(KNOWN_PROGRAMS[name], 10).tolist():
        average = 0.9 * average + 0.1 * loss
    assert average == fingerprint(KNOWN_PROGRAMS[name], "paper").value


def test_the_proxy_has_other_draws_and_takes_configs() -> None:
    first, second = (train_on_proxy(ADAMW, 30, seed) for seed in (0, 1))
    assert first[0] != second[0]
    assert first[-1] < first[0]
    assert second[-1] < second[0]


def test_the_proxy_ends_with_the_parameter() -> None:
    losses = train_on_proxy(WILD, 5)
    assert math.isfinite(losses[0])
    assert np.isnan(losses[1:]).all()


def test_tables_hold_what_the_trainings_showed(done) -> None:
    study, summary = done
    for name in FIELDS:
        assert list(read_csv(study.files.path / name)[0]) == list(FIELDS[name])
    curve, norms = train_with_norms(make_task("toy", "cpu"), KNOWN_PROGRAMS["AdamW"], 2, 1)
    rows = read_csv(study.files.path / "figure5_update_norms.csv")
    found = [row for row in rows if (row["candidate"], row["seed"]) == ("AdamW", "1")]
    assert [float(row["update_norm"]) for row in found] == norms.tolist()
    rows = read_csv(study.files.path / "figure5_task_curves.csv")
    found = [row for row in rows if (row["candidate"], row["seed"]) == ("AdamW", "1")]
    assert [float(row["loss"]) for row in found] == curve.epoch_means.tolist()
    rows = read_csv(study.files.path / "figure5_proxy_curves.csv")
    assert len(rows) == 3 * 2 * 12
    of_adamw = next(row for row in summary if row["candidate"] == "AdamW")
    finals = [
        train_with_norms(make_task("toy", "cpu"), KNOWN_PROGRAMS["AdamW"], 2, s)[0].epoch_means[-1] for s in (0, 1)
    ]
    assert of_adamw["final loss"] == np.mean(finals)


def test_what_is_trained_is_not_trained_again_and_more_seeds_build_on_it(
    done, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    study, summary = done
    folder = shutil.copytree(study.files.path, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    trained: list[int] = []
    train = train_with_norms

    def counted(task, candidate, epochs, seed, **options):
        trained.append(seed)
        return train(task, candidate, epochs, seed, **options)

    monkeypatch.setattr(figure5, "train_with_norms", counted)
    assert Figure5Study(folder, SMALL).run() == summary
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before
    assert trained == []
    some = {"AdamW": BASELINES["AdamW"].candidate}
    Figure5Study(folder, Figure5Settings("toy", 2, 3, 12), some).run()
    assert trained == [2]


def test_a_failed_training_is_shown_as_such(tmp_path: Path) -> None:
    study = Figure5Study(tmp_path, SMALL, {"wild": WILD, "SGD": KNOWN_PROGRAMS["SGD"]})
    wild, sgd = study.run()
    assert math.isnan(wild["final loss"])
    assert math.isfinite(sgd["final loss"])
    assert json.loads((tmp_path / "figure5.json").read_text())["table"][0]["final loss"] is None
    assert "| wild | - | - |" in markdown(SMALL, [wild, sgd])
    assert draw_figure5(tmp_path, "toy").startswith(b"\x89PNG")


@pytest.mark.slow
def test_trainings_in_processes_are_the_same(done, tmp_path: Path) -> None:
    study, _ = done
    other = Figure5Study(tmp_path, SMALL, {"AdamW": BASELINES["AdamW"].candidate}, workers=2)
    other.run()
    ours, theirs = (
        [row for row in read_csv(path / "figure5_update_norms.csv") if row["candidate"] == "AdamW"]
        for path in (study.files.path, tmp_path)
    )
    assert ours == theirs


def test_a_training_that_fails_in_its_process_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise JobError("no reason")

    monkeypatch.setattr(figure5, "in_processes", fail)
    with pytest.raises(StudyError, match="a training failed: no reason"):
        Figure5Study(tmp_path, SMALL).run()


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


def test_a_task_of_several_models_has_one_norm_a_step() -> None:
    task = make_task("mlp-iris", "cpu")
    curve, norms = train_with_norms(task, Program.parse("r9 = mul(grad, 0.1)"), 2, 0)
    assert norms.shape == (curve.step_losses.size,)
    # Ten models, each of whose gradients is clipped to a norm of 1.
    assert (norms <= 0.1 * 10**0.5 * (1 + 1e-6)).all()
    assert (norms > 0.1).all()


def test_what_the_paper_states_is_judged_by_the_numbers() -> None:
    columns = ("update norm", "proxy after 10", "proxy at the end", "final loss")
    rows = [
        {"candidate": name, **dict(zip(columns, values, strict=True))}
        for name, values in (
            ("Incumbent", (1, 1, 1, 1)),
            ("AdamW", (2, 2, 0.5, 2)),
            ("Adadelta", (0.5, 2, 2, math.nan)),
        )
    ]
    cells = statement_cells(rows)
    assert [cell["so"] for cell in cells] == ["yes", "no", "yes", "yes", "no", "yes", "yes", "no"]
    assert cells[0]["the paper"] == "the incumbent's updates are more conservative than AdamW's"
    assert statement_cells(rows[:2]) == []


def test_long_lines_are_smoothed() -> None:
    assert [smoothed_over(steps) for steps in (1, 60, 61, 2000)] == [1, 1, 1, 50]


def test_the_command_writes_everything(study_figure5) -> None:
    run = study_figure5(*OPTIONS, "--output", "here", "--candidate", "SGD", "--candidate", "torch.optim.SGD(lr=0.1)")
    assert run.code == 0
    assert "4 of 4 trainings to do" in run.err
    assert "torch.optim.SGD(lr=0.1)" in run.out
    assert Path("here/figure5.png").stat().st_size > 10_000
    assert "# Figure 5" in Path("here/figure5.md").read_text()
    as_json = study_figure5(*OPTIONS, "--output", "here", "--candidate", "SGD", "--json", "--no-plots")
    assert as_json.err == ""
    data = json.loads(as_json.out)
    assert data["settings"] == {"task": "toy", "epochs": 2, "seeds": 2, "proxy_steps": 12}
    assert data["candidates"] == {"SGD": KNOWN_PROGRAMS["SGD"].to_json()}
    assert data["made_by"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["--proxy-steps", "0"], "proxy_steps must be an integer >= 1, got 0"),
        (["--epochs", "-1"], "epochs must be an integer >= 1"),
        (["--task", "mnist"], "unknown task 'mnist'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--workers", "0"], "workers must be an integer >= 1"),
        (["--candidate", "Nobody"], "'Nobody'"),
        (["--candidate", "torch.optim.LBFGS()"], "can't train with torch.optim.LBFGS"),
    ],
)
def test_wrong_options_give_one_message(study_figure5, arguments: list[str], message: str) -> None:
    run = study_figure5(*OPTIONS, *arguments)
    assert run.code == 2
    assert run.err.startswith("nosbench: ")
    assert message in run.err
    assert not Path("studies").exists()


def test_a_folder_keeps_to_its_study(study_figure5) -> None:
    assert study_figure5(*OPTIONS, "--candidate", "SGD").code == 0
    other = study_figure5(*OPTIONS, "--candidate", "SGD", "--epochs", "3")
    assert other.code == 2
    assert "holds another study: epochs is 2, now 3. Choose another folder with --output" in other.err


def test_an_interrupted_study_goes_on(study_figure5, monkeypatch: pytest.MonkeyPatch) -> None:
    train, trained = train_with_norms, []

    def interrupted(task, candidate, epochs, seed, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((str(candidate), seed))
        return train(task, candidate, epochs, seed, **options)

    monkeypatch.setattr(figure5, "train_with_norms", interrupted)
    stopped = study_figure5(*OPTIONS)
    assert stopped.code == 130
    assert "To go on, run the same command again" in stopped.err
    monkeypatch.setattr(figure5, "train_with_norms", train)
    assert "4 of 6 trainings to do" in study_figure5(*OPTIONS).err


def test_sizes_are_those_of_the_command() -> None:
    assert set(SIZES) == set(FigureSize)
    assert SIZES["paper"].epochs == 20  # Appendix F


def test_programs_are_run_by_the_plain_optimizer() -> None:
    optimizer = plain_optimizer(KNOWN_PROGRAMS["SGD"], [torch.nn.Parameter(torch.ones(2))], 1, 1)
    assert isinstance(optimizer, ProgramOptimizer)
    assert not optimizer.fused
