"""The commands `nosbench study`, on the toy task."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_studies import read_csv

from nosbench_env import KNOWN_PROGRAMS, plotting
from nosbench_env.agents import search
from nosbench_env.cli.study import CacheSize, FigureMethod, FigureSize, IdentityName, Part
from nosbench_env.studies import figure1, figure5, search_runs, trainings
from nosbench_env.studies.cache import CAPTIONS, PARTS, SIZES
from nosbench_env.studies.figure5_training import train_with_norms
from nosbench_env.studies.identities import IDENTITIES

CACHE = [
    *("--task", "toy", "--device", "cpu", "--workers", "1", "--queries", "120", "--max-instructions", "8"),
    *("--merged-pairs", "20", "--split-programs", "20", "--diverged-programs", "6"),
]
FIGURE1 = [
    *("--size", "minutes", "--epochs", "1", "--seeds", "1", "--queries", "12", "--workers", "1"),
    *("--method", "rs", "--baseline", "SGD", "--baseline", "AdamW-cosine"),
]
FIGURE5 = ["--size", "minutes", "--epochs", "2", "--seeds", "2", "--proxy-steps", "12", "--workers", "1"]


@pytest.fixture
def study_cache(nosbench):
    """Runs `nosbench study cache`."""
    return partial(nosbench, "study", "cache")


@pytest.fixture
def study_figure1(nosbench):
    """Runs `nosbench study figure1`."""
    return partial(nosbench, "study", "figure1")


@pytest.fixture
def study_figure5(nosbench):
    """Runs `nosbench study figure5`."""
    return partial(nosbench, "study", "figure5")


def test_an_interrupted_study_goes_on_of_the_cache(study_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    train_all = trainings._train

    def interrupted(task, programs, epochs, workers, on_curve, **options) -> None:
        train_all(task, programs[:3], epochs, workers, on_curve, **options)
        trained.extend(programs[:3])
        raise KeyboardInterrupt

    def counted(task, programs, epochs, workers, on_curve, **options) -> None:
        train_all(task, programs, epochs, workers, on_curve, **options)
        trained.extend(programs)

    arguments = [*CACHE, "--part", "false-splits", "--method", "rs", "--identity", "paper"]
    monkeypatch.setattr(trainings, "_train", interrupted)
    stopped = study_cache(*arguments)
    assert stopped.code == 130
    assert "Run the same command again" in stopped.err
    monkeypatch.setattr(trainings, "_train", counted)
    assert study_cache(*arguments).code == 0
    assert len(trained) == len(set(trained)) == 20


def test_the_command_prints_tables_and_plots(study_cache) -> None:
    arguments = [*CACHE, "--part", "growth", "--part", "hits", "--method", "rs", "--identity", "paper"]
    run = study_cache(*arguments, "--output", "here")
    assert run.code == 0
    assert "Figures 3 and 4" in run.out
    assert "RS-RS   counted" in run.out
    assert "RS-RE   counted" not in run.out
    assert "±" in run.out
    written = {path.name for path in Path("here").iterdir()}
    assert {"growth-within-runs.png", "growth-across-runs.png", "summary.json", "hit-rates.csv"} <= written
    assert "runs" not in written  # random search needs no training
    as_json = study_cache(*arguments, "--output", "here", "--json", "--no-plot")
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
def test_wrong_options_give_one_message_of_the_cache(study_cache, arguments: list[str], message: str) -> None:
    run = study_cache(*arguments, "--part", "hits")
    assert run.code == 2
    assert run.err.startswith("nosbench: ")
    assert message in run.err
    assert not Path("studies").exists()


def test_a_folder_keeps_to_its_study_of_the_cache(study_cache) -> None:
    arguments = [*CACHE, "--part", "hits", "--method", "rs", "--identity", "paper"]
    assert study_cache(*arguments).code == 0
    other = study_cache(*arguments, "--epochs", "2")
    assert other.code == 2
    assert "holds another study: epochs is 1, now 2. Choose another folder with --output" in other.err


def test_without_matplotlib_the_message_names_the_extra(study_cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "find_spec", lambda name: None)
    run = study_cache(*CACHE, "--part", "growth")
    assert run.code == 2
    assert "pip install 'nosbench_env[plot]'" in run.err
    assert study_cache(*CACHE, "--part", "growth", "--method", "rs", "--identity", "paper", "--no-plot").code == 0


def test_options_offer_what_there_is() -> None:
    assert set(Part) == set(PARTS) == set(CAPTIONS)
    assert set(CacheSize) == set(SIZES)
    assert set(IdentityName) == set(IDENTITIES)


def test_the_command_writes_everything_of_figure_1(study_figure1) -> None:
    run = study_figure1(*FIGURE1, "--output", "here")
    assert run.code == 0
    assert "1 of 1 runs of 12 queries to do" in run.err
    assert "AdamW-cosine" in run.out
    assert Path("here/figure1.png").stat().st_size > 10_000
    assert "# Figure 1" in Path("here/figure1.md").read_text()
    as_json = study_figure1(*FIGURE1, "--output", "here", "--json", "--no-plot")
    assert as_json.err == ""
    data = json.loads(as_json.out)
    assert data["settings"]["queries"] == 12
    assert data["conditions"]["task"] == "toy"
    assert [row["name"] for row in data["baselines"]] == [
        row["name"] for row in read_csv(Path("here/figure1_baselines.csv"))
    ]
    assert {"device", "torch", "python"} <= set(data["made_by"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "seeds must be an integer >= 1, got 0"),
        (["--queries", "-3"], "queries must be an integer >= 1, got -3"),
        (["--epochs", "0"], "epochs must be an integer >= 1"),
        (["--task", "mnist"], "unknown task 'mnist'"),
        (["--max-instructions", "0"], "max_instructions must be an integer from 1"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--workers", "0"], "workers must be an integer >= 1"),
        (["--method", "rs"], "methods must be some of rs, re-adamw"),
        (["--baseline", "Nobody"], "unknown baseline 'Nobody'"),
    ],
)
def test_wrong_options_give_one_message_of_figure_1(study_figure1, arguments: list[str], message: str) -> None:
    run = study_figure1(*FIGURE1, *arguments)
    assert run.code == 2
    assert run.err.startswith("nosbench: ")
    assert message in run.err
    assert not Path("studies").exists()


def test_a_folder_keeps_to_its_study_of_figure_1(study_figure1) -> None:
    assert study_figure1(*FIGURE1).code == 0
    other = study_figure1(*FIGURE1, "--epochs", "3")
    assert other.code == 2
    assert "holds another study: epochs is 1, now 3. Choose another folder with --output" in other.err


def test_an_interrupted_study_goes_on_of_figure_1(study_figure1, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, on_query: Any, **options: Any) -> Any:
        def stop_at_five(entry: Any, so_far: Any) -> None:
            on_query(entry, so_far)
            if entry.number == 5:
                raise KeyboardInterrupt

        return search(*arguments, on_query=stop_at_five, **options)

    monkeypatch.setattr(search_runs, "search", interrupted)
    stopped = study_figure1(*FIGURE1, "--output", "stopped")
    assert stopped.code == 130
    assert "Run the same command again" in stopped.err
    assert not Path("stopped/figure1_runs.csv").exists()
    monkeypatch.setattr(search_runs, "search", search)
    assert study_figure1(*FIGURE1, "--output", "stopped").code == 0
    assert study_figure1(*FIGURE1, "--output", "whole").code == 0
    for name in figure1.FIELDS:
        assert (Path("stopped") / name).read_bytes() == (Path("whole") / name).read_bytes()


def test_sizes_and_methods_are_those_of_the_command() -> None:
    assert set(figure1.SIZES) == set(FigureSize)
    assert set(figure1.METHODS) == set(FigureMethod)
    assert figure1.SIZES["paper"].epochs == 20  # Section 4.1
    assert figure1.SIZES["paper"].seeds >= 3


def test_the_command_writes_everything_of_figure_5(study_figure5) -> None:
    run = study_figure5(*FIGURE5, "--output", "here", "--candidate", "SGD", "--candidate", "torch.optim.SGD(lr=0.1)")
    assert run.code == 0
    assert "4 of 4 trainings to do" in run.err
    assert "torch.optim.SGD(lr=0.1)" in run.out
    assert Path("here/figure5.png").stat().st_size > 10_000
    assert "# Figure 5" in Path("here/figure5.md").read_text()
    as_json = study_figure5(*FIGURE5, "--output", "here", "--candidate", "SGD", "--json", "--no-plot")
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
def test_wrong_options_give_one_message_of_figure_5(study_figure5, arguments: list[str], message: str) -> None:
    run = study_figure5(*FIGURE5, *arguments)
    assert run.code == 2
    assert run.err.startswith("nosbench: ")
    assert message in run.err
    assert not Path("studies").exists()


def test_a_folder_keeps_to_its_study_of_figure_5(study_figure5) -> None:
    assert study_figure5(*FIGURE5, "--candidate", "SGD").code == 0
    other = study_figure5(*FIGURE5, "--candidate", "SGD", "--epochs", "3")
    assert other.code == 2
    assert "holds another study: epochs is 2, now 3. Choose another folder with --output" in other.err


def test_an_interrupted_study_goes_on_of_figure_5(study_figure5, monkeypatch: pytest.MonkeyPatch) -> None:
    train, trained = train_with_norms, []

    def interrupted(task, candidate, epochs, seed, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((str(candidate), seed))
        return train(task, candidate, epochs, seed, **options)

    monkeypatch.setattr(figure5, "train_with_norms", interrupted)
    stopped = study_figure5(*FIGURE5)
    assert stopped.code == 130
    assert "Run the same command again" in stopped.err
    monkeypatch.setattr(figure5, "train_with_norms", train)
    assert "4 of 6 trainings to do" in study_figure5(*FIGURE5).err


def test_sizes_are_those_of_the_command() -> None:
    assert set(figure5.SIZES) == set(FigureSize)
    assert figure5.SIZES["paper"].epochs == 20  # Appendix F
