"""The paper's Figure 1: search methods' anytime curves beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nosbench_env.agents import AGENTS, Agent
from nosbench_env.candidates.baselines import Baseline, named_baselines
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.comparison import Comparison, compare, group_runs, read_run
from nosbench_env.comparison.comparison import CURVE_FIELDS, RUN_FIELDS, TABLE_FIELDS
from nosbench_env.evaluation import Evaluation
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.studies.baselines import SCORE_FIELDS, Score, score, score_rows
from nosbench_env.studies.search_runs import SearchRuns
from nosbench_env.studies.settings import DEFAULT_RESOURCES, Resources, StudySettings, check_some
from nosbench_env.studies.study_folder import Row, StudyFolder, finite, made_by


@dataclass(frozen=True, slots=True)
class SearchMethod:
    """A search method of Figure 1.

    Attributes:
        label: The paper's name of the method.
        agent: A key of `AGENTS`.
        start: The known program from which evolution starts.
        package: A package that must be installed.
    """

    label: str
    agent: str
    start: str | None = None
    package: str | None = None

    def make(self, max_instructions: int, hpo_initial: int, seed: int) -> Agent[Any]:
        """Returns the agent; see `Figure1Settings`."""
        options: dict[str, Any] = {"space": SearchSpace(max_instructions)}
        if self.agent == "smac-hpo":  # does not propose programs
            options = {"initial_configs": hpo_initial}
        if self.start is not None:
            options["start"] = KNOWN_PROGRAMS[self.start]
        return AGENTS[self.agent](seed=seed, **options)

    def missing(self) -> str | None:
        """Returns the command that installs a missing package, or None."""
        if self.package is None or find_spec(self.package) is not None:
            return None
        return f"needs {self.package}: pip install 'nosbench_env[{self.package}]'"


METHODS: Mapping[str, SearchMethod] = MappingProxyType(
    {
        "rs": SearchMethod("RS", "rs"),
        "re-adamw": SearchMethod("RE from AdamW", "re", start="AdamW"),
        "re-adadelta": SearchMethod("RE from Adadelta", "re", start="Adadelta"),
        "smac-nos": SearchMethod("SMAC_NOS", "smac-nos", package="smac"),
        "smac-hpo": SearchMethod("SMAC_HPO", "smac-hpo", package="smac"),
    }
)
PAPER_BASELINES = ("program", "schedule")  # the groups that Section 4.1 names, and the incumbent

_ROW_FIELDS = ("method", "seed", "queries", "distinct", "failed", "loss", "found_at", "program")
_METHOD_FIELDS = (
    *("method", "runs", "best", "iqm", "iqm_low", "iqm_high", "median", "worst"),
    *("queries", "distinct", "simulated_seconds", "repeat_rate", "failed_rate"),
)
FIELDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "figure1_baselines.csv": {
            **SCORE_FIELDS,
            "paper": "Loss of the paper's code at seed 0 after 20 epochs, for any length here.",
        },
        "figure1_methods.csv": {name: TABLE_FIELDS[name] for name in _METHOD_FIELDS},
        "figure1_runs.csv": {
            **{name: RUN_FIELDS.get(name, "") for name in _ROW_FIELDS},
            "distinct": "Programs new to the run, within the budget.",
            "failed": "Queries without a finite loss, within the budget.",
            "program": "The program or optimizer with this loss, in the form that `nosbench evaluate` reads.",
        },
        "figure1_curves.csv": {name: text for name, text in CURVE_FIELDS.items() if name != "axis"},
    }
)


@dataclass(frozen=True)
class Figure1Settings(StudySettings):
    """The content and the size of Figure 1.

    Each method has a run with each seed; all its trainings have seed 0. Each baseline has a training with each seed.

    Attributes:
        queries: Number of queries of a run.
        max_instructions: Largest length of a program. The paper's text says 20, its code 14 for random search.
        hpo_initial: Number of optimizers with which SMAC_HPO begins before it learns. SMAC takes ten per
            hyperparameter, which is 90, but at most a quarter of the budget.
        methods: Keys of `METHODS`.
        baselines: Names of baselines or of groups of them.

    Raises:
        ValueError: If an integer is not positive, or a name is unknown.
    """

    queries: int = 200
    max_instructions: int = 20
    hpo_initial: int = 50
    methods: tuple[str, ...] = tuple(METHODS)
    baselines: tuple[str, ...] = PAPER_BASELINES

    def __post_init__(self) -> None:
        SearchSpace(self.max_instructions)
        super().__post_init__()
        check_some("methods", self.methods, tuple(METHODS))
        named_baselines(self.baselines)


# The paper trains each candidate for 20 epochs (Section 4.1). It states neither the queries of a run nor the number of
# runs; 10,000 is the budget of SMAC_HPO in its code.
SIZES: Mapping[str, Figure1Settings] = MappingProxyType(
    {
        "minutes": Figure1Settings(task="toy", epochs=5, seeds=2, queries=150, hpo_initial=37),
        "machine": Figure1Settings(),
        "paper": Figure1Settings(epochs=20, seeds=5, queries=10_000, hpo_initial=90),
    }
)


@dataclass(frozen=True, slots=True)
class Figure1:
    """The data of the figure.

    Attributes:
        settings: The settings.
        scores: The evaluations of the baselines, the best first.
        comparison: The runs of the methods at the common budget.
        left_out: Methods and baselines that can't run, each with the reason.
    """

    settings: Figure1Settings
    scores: Sequence[Score]
    comparison: Comparison
    left_out: Mapping[str, str]

    @property
    def curve_rows(self) -> list[Row]:
        """The anytime curves against queries, within the budget; see `FIELDS`."""
        return [
            {name: row[name] for name in FIELDS["figure1_curves.csv"]}
            for row in self.comparison.curve_rows
            if row["axis"] == "queries" and row["x"] <= self.settings.queries
        ]

    @property
    def method_rows(self) -> list[Row]:
        """A row for each method; see `FIELDS`."""
        return [{name: row[name] for name in _METHOD_FIELDS} for row in self.comparison.table]

    @property
    def run_rows(self) -> list[Row]:
        """A row for each run; see `FIELDS`."""
        rows = []
        for row, run in zip(self.comparison.runs, self.comparison.all_runs, strict=True):
            last = row["queries"] - 1
            spent = {"distinct": int(run.distinct[last]), "failed": int(run.failed[last])}
            rows.append({name: (dict(row) | spent)[name] for name in _ROW_FIELDS})
        return rows


class Figure1Study:
    """The runs and baselines of Figure 1, and its tables, in a folder.

    Nothing in the folder is computed twice. An interrupted study is resumed, and a larger study reuses a smaller one of
    the same task and epochs.

    Args:
        folder: The folder.
        settings: The settings.
        resources: The resources. Runs and baselines share the store.
    """

    def __init__(self, folder: Path | str, settings: Figure1Settings, resources: Resources = DEFAULT_RESOURCES) -> None:
        self.files, self.settings, self._resources = StudyFolder(folder), settings, resources
        self._store = resources.store or str(self.files.path / "results.sqlite")
        self._runs = SearchRuns(
            self.files.path / "runs", self._store, settings.task, resources.device, settings.epochs, settings.queries
        )

    def run(self) -> Figure1:
        """Trains and searches as needed, and writes the tables.

        Raises:
            StudyError: If the folder belongs to another study, is in use or damaged.
            JobError, RunError, StoreError, WorkerError: If a run or a training fails. Finished work is kept.
        """
        settings = self.settings
        config = {name: getattr(settings, name) for name in ("task", "epochs", "max_instructions", "hpo_initial")}
        with self.files.opened({"figure": 1} | config):
            left_out = self._left_out({METHODS[name].label: METHODS[name].missing() for name in settings.methods})
            methods = [name for name in METHODS if name in settings.methods and METHODS[name].label not in left_out]
            baselines = named_baselines(settings.baselines)
            unknown = self._left_out({baseline.name: _missing(baseline) for baseline in baselines})
            scores, device = self._score([baseline for baseline in baselines if baseline.name not in unknown])
            # The last methods take longest. They start first, so that none of them is left alone at the end.
            runs = {(method, seed): f"{method}-{seed}" for seed in range(settings.seeds) for method in methods[::-1]}
            agents = {
                name: partial(METHODS[method].make, settings.max_instructions, settings.hpo_initial, seed)
                for (method, seed), name in runs.items()
            }
            self._runs.complete(agents, self._resources.workers, self._resources.report)
            in_order = sorted(runs, key=lambda run: (methods.index(run[0]), run[1]))
            comparison = self._compare({self._runs.path(runs[run]): run[0] for run in in_order})
            figure = Figure1(settings, scores, comparison, left_out | unknown)
            self._write(figure, device)
            return figure

    def _left_out(self, missing: Mapping[str, str | None]) -> dict[str, str]:
        """Reports the names for which something is missing, and returns the reasons.

        Raises:
            ValueError: If no name is left.
        """
        reasons = {name: reason for name, reason in missing.items() if reason is not None}
        if len(reasons) == len(missing):
            raise ValueError("; ".join(f"{name} {reason}" for name, reason in reasons.items()))
        for name, reason in reasons.items():
            self._resources.report(f"{name} is left out: it {reason}")
        return reasons

    def _score(self, baselines: Sequence[Baseline]) -> tuple[list[Score], str]:
        """Returns the scores of baselines, and the device that trains."""
        oracle = Oracle(self.settings.task, self._store, self._resources.device, workers=self._resources.workers)
        try:
            scores = score(
                oracle,
                {baseline.name: baseline.candidate for baseline in baselines},
                epochs=self.settings.epochs,
                seeds=range(self.settings.seeds),
                # For other lengths only the order of the paper's values is comparable.
                paper_losses={b.name: b.paper_loss for b in baselines if self.settings.task == "pfn"},
                on_scored=self._report_trained,
            )
            return scores, oracle.task.device
        finally:
            oracle.close()

    def _report_trained(self, name: str, evaluation: Evaluation[Any]) -> None:
        if not evaluation.hit:
            self._resources.report(f"{name}, seed {evaluation.seed}: {evaluation.loss:.4g}")

    def _compare(self, methods: Mapping[Path, str]) -> Comparison:
        """Compares runs, by their folders, under the paper's names of their methods."""
        runs = [read_run(path) for path in methods]
        labels = {group.label: METHODS[methods[group.runs[0].folder]].label for group in group_runs(runs)}
        return compare(runs, budget=self.settings.queries, labels=labels)

    def _write(self, figure: Figure1, device: str) -> None:
        tables = {
            "figure1_baselines.csv": score_rows(figure.scores),
            "figure1_methods.csv": figure.method_rows,
            "figure1_runs.csv": figure.run_rows,
            "figure1_curves.csv": figure.curve_rows,
        }
        for name, rows in tables.items():
            self.files.write_csv(name, rows)
        self.files.write_json(
            "figure1.json",
            {
                "figure": 1,
                "settings": asdict(self.settings),
                "conditions": dict(figure.comparison.conditions),
                "left_out": dict(figure.left_out),
                "notes": list(figure.comparison.notes),
                "made_by": made_by(device),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "baselines": [finite(row) for row in tables["figure1_baselines.csv"]],
                "methods": [finite(row) for row in figure.method_rows],
                "fields": {name: dict(fields) for name, fields in FIELDS.items()},
            },
        )


def _missing(baseline: Baseline) -> str | None:
    return baseline.candidate.missing() if isinstance(baseline.candidate, OptimizerConfig) else None
