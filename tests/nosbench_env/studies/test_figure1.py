"""Figure 1: the runs and baselines, what is written of them, and the command."""

import csv
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, Oracle
from nosbench_env.agents import AGENTS, Budget, RandomSearch, RegularizedEvolution, search
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.cli.study import FigureMethod, FigureSize
from nosbench_env.comparison import read_run
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.studies import figure1
from nosbench_env.studies.figure1 import FIELDS, METHODS, SIZES, Figure1, Figure1Settings, Figure1Study
from nosbench_env.studies.figure1_picture import draw_figure1, spread
from nosbench_env.studies.figure1_reading import baseline_cells, markdown, reading, statement_cells
from nosbench_env.studies.processes import JobError

QUERIES = 40  # evolution begins with 100 copies of one program: these take no time
SMALL = Figure1Settings(
    task="toy",
    epochs=1,
    seeds=2,
    queries=QUERIES,
    max_instructions=14,
    methods=("rs", "re-adamw", "smac-hpo"),
    baselines=("SGD", "AdamW", "AdamW-cosine"),
)
OPTIONS = [
    *("--size", "minutes", "--epochs", "1", "--seeds", "1", "--queries", "12", "--workers", "1"),
    *("--method", "rs", "--baseline", "SGD", "--baseline", "AdamW-cosine"),
]


class RatesOfSGD:
    """Stands for SMAC_HPO: proposes optimizers of a library, the rate ten times as large each time."""

    name = "smac-hpo"

    def __init__(self, seed: int, initial_configs: int) -> None:
        self.seed, self.initial_configs, self.asked = seed, initial_configs, 0

    def ask(self, n: int = 1) -> list[OptimizerConfig]:
        self.asked += n
        return [OptimizerConfig("torch.optim.SGD", {"lr": (1 + self.seed) * 10.0 ** -(self.asked % 4)})] * n

    def tell(self, programs: Sequence[Any], evaluations: Sequence[Any]) -> None:
        pass

    def config(self) -> dict[str, Any]:
        return {"seed": self.seed, "initial_configs": self.initial_configs}

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


@pytest.fixture(autouse=True)
def _no_smac(monkeypatch: pytest.MonkeyPatch) -> None:
    """SMAC itself takes seconds to start."""
    monkeypatch.setattr(figure1, "AGENTS", {**AGENTS, "smac-hpo": RatesOfSGD})


@pytest.fixture
def study_figure1(nosbench):
    """Runs `nosbench study figure1`."""
    return partial(nosbench, "study", "figure1")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Figure1]:
    """A small study and its folder."""
    folder = tmp_path_factory.mktemp("figure1")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(figure1, "AGENTS", {**AGENTS, "smac-hpo": RatesOfSGD})
        return folder, Figure1Study(folder, SMALL).run()


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def fail(*arguments: Any, **options: Any) -> None:
    raise AssertionError("this was done before")


def test_the_runs_are_those_of_the_agents(done, tmp_path: Path) -> None:
    folder, _ = done
    oracle = Oracle("toy", tmp_path / "other.sqlite", workers=1)
    agents = {
        "rs": RandomSearch(SearchSpace(14), 1),
        "re-adamw": RegularizedEvolution(SearchSpace(14), 1, KNOWN_PROGRAMS["AdamW"]),
    }
    for name, agent in agents.items():
        search(agent, oracle, Budget(queries=QUERIES), epochs=1, folder=tmp_path / name)
        ours, theirs = read_run(folder / "runs" / f"{name}-1"), read_run(tmp_path / name)
        assert ours.config == theirs.config
        np.testing.assert_allclose(ours.best, theirs.best, rtol=1e-6)  # programs taken to be the same share a result


def test_tables_hold_the_runs_and_the_baselines(done) -> None:
    folder, figure = done
    for name in FIELDS:
        assert list(read_csv(folder / name)[0]) == list(FIELDS[name])
    runs = {(row["method"], row["seed"]): row for row in read_csv(folder / "figure1_runs.csv")}
    assert set(runs) == {(label, seed) for label in ("RS", "RE from AdamW", "SMAC_HPO") for seed in "01"}
    for method in SMALL.methods:
        for seed in "01":
            run, row = read_run(folder / "runs" / f"{method}-{seed}"), runs[METHODS[method].label, seed]
            assert float(row["loss"]) == run.best[-1]
            assert (int(row["queries"]), int(row["distinct"])) == (QUERIES, run.distinct[-1])
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
    assert [found.name for found in figure.scores] == [row["name"] for row in figure_rows(folder)]


def figure_rows(folder: Path) -> list[dict[str, str]]:
    return read_csv(folder / "figure1_baselines.csv")


def test_a_second_time_nothing_is_done_again(done, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = done
    before = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    assert len(before) == 4
    monkeypatch.setattr(figure1, "search", fail)
    monkeypatch.setattr(Oracle, "_train", fail)
    Figure1Study(folder, SMALL).run()
    assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == before


@pytest.mark.slow
def test_a_larger_study_builds_on_a_smaller_one_and_a_smaller_one_is_part_of_it(done, tmp_path: Path) -> None:
    folder, figure = done
    copy = shutil.copytree(folder, tmp_path / "copy")
    settings = {"task": "toy", "epochs": 1, "seeds": 2, "max_instructions": 14, "baselines": SMALL.baselines}
    larger = Figure1Study(copy, Figure1Settings(**settings, queries=QUERIES + 7, methods=("rs", "re-adamw"))).run()
    assert {row["queries"] for row in larger.run_rows} == {QUERIES + 7}
    assert larger.left_out == {}
    again = Figure1Study(copy, SMALL).run()
    assert again.run_rows == figure.run_rows
    assert [row for row in again.curve_rows if row["x"] < QUERIES] == [
        row for row in figure.curve_rows if row["x"] < QUERIES
    ]


def test_the_first_optimizers_of_smac_hpo_are_part_of_the_study(done) -> None:
    folder, _ = done
    assert read_run(folder / "runs" / "smac-hpo-0").config["initial_configs"] == SMALL.hpo_initial
    with pytest.raises(ValueError, match="holds another study: hpo_initial is 50, now 5"):
        Figure1Study(folder, replace(SMALL, hpo_initial=5)).run()


def test_a_method_that_is_not_installed_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure1, "find_spec", lambda name: None)
    told: list[str] = []
    settings = Figure1Settings("toy", 1, 1, 3, methods=("rs", "smac-nos"), baselines=("SGD", "AdamW-cosine"))
    figure = Figure1Study(tmp_path, settings, report=told.append).run()
    assert figure.left_out == {"SMAC_NOS": "needs smac: pip install 'nosbench_env[smac]'"}
    assert "SMAC_NOS is left out: it needs smac: pip install 'nosbench_env[smac]'" in told
    assert [row["method"] for row in figure.method_rows] == ["RS"]
    assert "Left out: SMAC_NOS, which needs smac" in markdown(figure)
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
    assert [found.name for found in figure.scores] == ["SGD"]


@pytest.mark.slow
def test_runs_in_processes_of_their_own_are_the_same(done, tmp_path: Path) -> None:
    folder, _ = done
    settings = Figure1Settings("toy", 1, 2, QUERIES, 14, methods=("rs", "re-adamw"), baselines=SMALL.baselines)
    Figure1Study(tmp_path, settings, workers=2).run()
    ours = [row for row in read_csv(folder / "figure1_runs.csv") if row["method"] != "SMAC_HPO"]
    theirs = read_csv(tmp_path / "figure1_runs.csv")
    assert [row["program"] for row in ours] == [row["program"] for row in theirs]


def test_a_run_that_fails_in_its_process_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise JobError("no reason")

    monkeypatch.setattr(figure1, "in_processes", failing)
    with pytest.raises(ValueError, match="a run failed: no reason"):
        Figure1Study(tmp_path, Figure1Settings("toy", 1, 1, 3, methods=("rs",), baselines=("SGD",))).run()


def test_the_picture_is_drawn_whatever_there_is(done) -> None:
    _, figure = done
    assert draw_figure1(figure).startswith(b"\x89PNG")


def test_names_are_moved_apart_as_little_as_needed() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 13, 20):
        heights = sorted(rng.beta(0.3, 2, count).tolist())
        moved = spread(heights, 0.04)
        assert all(second - first > 0.04 - 1e-9 for first, second in pairwise(moved))
        assert min(moved) >= 0.02 - 1e-9
        assert max(moved) <= 0.98 + 1e-9
    assert spread([0.1, 0.5, 0.9], 0.04) == [0.1, 0.5, 0.9]
    assert spread([], 0.04) == []


class Stub:
    """A figure of given losses."""

    def __init__(
        self, losses: dict[str, float], papers: dict[str, float], methods: dict[str, float], epochs: int
    ) -> None:
        self.settings = Figure1Settings("pfn", epochs)
        self.scores = sorted(
            (StubScore(name, loss, papers.get(name)) for name, loss in losses.items()), key=lambda found: found.mean
        )
        self.method_rows = [{"method": name, "iqm": loss} for name, loss in methods.items()]


class StubScore:
    def __init__(self, name: str, mean: float, paper_loss: float | None) -> None:
        self.name, self.mean, self.paper_loss = name, mean, paper_loss
        self.losses = np.array([mean - 0.01, mean + 0.01])
        self.evaluations = [type("Evaluation", (), {"program": KNOWN_PROGRAMS["SGD"]})()]


PAPERS = {"SGD": 0.5, "Adam": -0.14, "AdamW": -0.09}


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({"SGD": 0.55, "Adam": -0.2, "AdamW": 0.0}, ["All our means agree within that.", "1.00", "No two baselines"]),
        ({"SGD": 0.9, "Adam": -0.2, "AdamW": 0.0}, ["Farther from it than that: SGD (+0.400).", "1.00", "No two"]),
        ({"SGD": -0.5, "Adam": -0.1, "AdamW": 0.0}, ["SGD (-1.000)", "-0.50", "SGD is ahead of Adam; SGD is ahead of"]),
        ({"SGD": math.inf, "Adam": -0.14, "AdamW": -0.09}, ["SGD (fails)", "No two baselines"]),
        (
            {"SGD": 0.5, "Adam": -0.05, "AdamW": -0.08},
            ["agree", "0.50", "No two baselines"],
        ),  # within the paper's noise
    ],
)
def test_the_reading_names_what_differs_from_the_paper(losses: dict[str, float], expected: list[str]) -> None:
    sentences = list(reading(Stub(losses, PAPERS, {}, 20)))
    assert len(sentences) == len(expected)
    for sentence, part in zip(sentences, expected, strict=True):
        assert part in sentence


def test_the_reading_compares_orders_alone_at_other_lengths() -> None:
    figure = Stub({"SGD": 9.0, "Adam": 1.0, "AdamW": 2.0}, PAPERS, {}, 1)
    sentences = list(reading(figure))
    assert "here it is 1 epoch: only their order can be compared" in sentences[0]
    assert not any("Farther" in sentence for sentence in sentences)
    assert all("difference" not in cell for cell in baseline_cells(figure))
    assert list(reading(Stub({"SGD": 1.0}, {}, {}, 1))) == ["The paper has no values for this task."]


def test_statements_of_the_paper_are_judged_by_the_losses() -> None:
    losses = {"SGD": 0.5, "AdamW": -0.1, "AdamW-cosine": -0.4, "Incumbent": -0.5}
    methods = {"RS": 0.1, "RE from AdamW": -0.45, "RE from Adadelta": 0.0, "SMAC_NOS": 0.3, "SMAC_HPO": -0.9}
    cells = {cell["the paper"]: cell["so"] for cell in statement_cells(Stub(losses, {}, methods, 20))}
    assert cells == {
        "RS outperforms some of the default optimizers": "yes",
        "RE from AdamW surpasses all default optimizers": "yes",
        "RE from Adadelta surpasses all default optimizers": "no (within the noise)",
        "RS fails to surpass AdamW with cosine annealing": "yes",
        "SMAC_NOS outperforms RS": "no",
        "RE from AdamW surpasses AdamW with cosine annealing": "yes (within the noise)",
        "SMAC_HPO surpasses the incumbent": "yes",
        "SMAC_HPO surpasses what RE from AdamW found": "yes",
    }
    assert [cell["so"] for cell in statement_cells(Stub({"SGD": 0.5}, {}, {"RS": math.inf}, 20))] == ["no"]


def test_the_page_holds_tables_and_reading(done) -> None:
    _, figure = done
    page = markdown(figure)
    assert "2 runs of each method with 40 queries" in page
    assert "| RE from AdamW | 2 |" in page
    assert "| AdamW-cosine |" in page
    assert "| RS fails to surpass AdamW with cosine annealing |" in page
    assert "nan" not in page


def test_the_command_writes_everything(study_figure1) -> None:
    run = study_figure1(*OPTIONS, "--output", "here")
    assert run.code == 0
    assert "1 of 1 runs of 12 queries to do" in run.err
    assert "AdamW-cosine" in run.out
    assert Path("here/figure1.png").stat().st_size > 10_000
    assert "# Figure 1" in Path("here/figure1.md").read_text()
    as_json = study_figure1(*OPTIONS, "--output", "here", "--json", "--no-plots")
    assert as_json.err == ""
    data = json.loads(as_json.out)
    assert data["settings"]["queries"] == 12
    assert data["conditions"]["task"] == "toy"
    assert [row["name"] for row in data["baselines"]] == [row["name"] for row in figure_rows(Path("here"))]
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
def test_wrong_options_give_one_message(study_figure1, arguments: list[str], message: str) -> None:
    run = study_figure1(*OPTIONS, *arguments)
    assert run.code == 2
    assert run.err.startswith("nosbench: ")
    assert message in run.err
    assert not Path("studies").exists()


def test_a_folder_keeps_to_its_study(study_figure1) -> None:
    assert study_figure1(*OPTIONS).code == 0
    other = study_figure1(*OPTIONS, "--epochs", "3")
    assert other.code == 2
    assert "holds another study: epochs is 1, now 3. Choose another folder with --output" in other.err


def test_an_interrupted_study_goes_on(study_figure1, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, on_query: Any, **options: Any) -> Any:
        def stop_at_five(entry: Any, so_far: Any) -> None:
            on_query(entry, so_far)
            if entry.number == 5:
                raise KeyboardInterrupt

        return search(*arguments, on_query=stop_at_five, **options)

    monkeypatch.setattr(figure1, "search", interrupted)
    stopped = study_figure1(*OPTIONS, "--output", "stopped")
    assert stopped.code == 130
    assert "To go on, run the same command again" in stopped.err
    assert not Path("stopped/figure1_runs.csv").exists()
    monkeypatch.setattr(figure1, "search", search)
    assert study_figure1(*OPTIONS, "--output", "stopped").code == 0
    assert study_figure1(*OPTIONS, "--output", "whole").code == 0
    for name in FIELDS:
        assert (Path("stopped") / name).read_bytes() == (Path("whole") / name).read_bytes()


def test_sizes_and_methods_are_those_of_the_command() -> None:
    assert set(SIZES) == set(FigureSize)
    assert set(METHODS) == set(FigureMethod)
    assert SIZES["paper"].epochs == 20  # Section 4.1
    assert SIZES["paper"].seeds >= 3
