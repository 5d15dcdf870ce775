"""The paper's Figure 1: baselines, and the anytime curves of search methods beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nosbench_env.agents import AGENTS, Agent, Budget, RunError, search
from nosbench_env.candidates.baselines import Baseline, named_baselines
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.comparison import Comparison, compare, group_runs, read_run
from nosbench_env.comparison.comparison import CURVE_FIELDS, RUN_FIELDS, TABLE_FIELDS
from nosbench_env.evaluation import Evaluation
from nosbench_env.execution.settings import check_device_name, check_epochs
from nosbench_env.language.known_programs import KNOWN_PROGRAMS
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.oracles.oracle import Oracle
from nosbench_env.studies.baselines import SCORE_FIELDS, Score, score, score_rows
from nosbench_env.studies.made_by import made_by
from nosbench_env.studies.processes import JobError, Report, Reporter, end_with_parent, in_processes
from nosbench_env.studies.search_runs import whole_lines
from nosbench_env.studies.study_folder import Row, StudyFolder, finite
from nosbench_env.tasks import check_task_name
from nosbench_env.tasks.worker_pool import check_workers


@dataclass(frozen=True, slots=True)
class SearchMethod:
    """A search method of Figure 1.

    Attributes:
        label: What the paper calls it.
        agent: A key of `AGENTS`.
        start: The known program it starts from, for evolution.
        package: What must be installed for it.
    """

    label: str
    agent: str
    start: str | None = None
    package: str | None = None

    def make(self, max_instructions: int, hpo_initial: int, seed: int) -> Agent[Any]:
        """The agent; see `Figure1Settings`."""
        options: dict[str, Any] = {"space": SearchSpace(max_instructions)}
        if self.agent == "smac-hpo":  # proposes no programs
            options = {"initial_configs": hpo_initial}
        if self.start is not None:
            options["start"] = KNOWN_PROGRAMS[self.start]
        return AGENTS[self.agent](seed=seed, **options)

    def missing(self) -> str | None:
        """What to do before it can run, if something is not installed; else None."""
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
            "paper": "What the paper's code reaches at seed 0 in 20 epochs, whatever the length here.",
        },
        "figure1_methods.csv": {name: TABLE_FIELDS[name] for name in _METHOD_FIELDS},
        "figure1_runs.csv": {
            **{name: RUN_FIELDS.get(name, "") for name in _ROW_FIELDS},
            "distinct": "Programs new to the run, within the budget.",
            "failed": "Queries without a finite loss, within the budget.",
            "program": "What had it: a program or an optimizer, as `nosbench evaluate` reads it.",
        },
        "figure1_curves.csv": {name: text for name, text in CURVE_FIELDS.items() if name != "axis"},
    }
)


@dataclass(frozen=True, slots=True)
class Figure1Settings:
    """What Figure 1 shows, and how large.

    Attributes:
        task: Name of the task.
        epochs: Length of its trainings.
        seeds: Runs of each method, with seeds 0, 1, ..., all trained with seed 0; and trainings with each baseline,
            with these seeds.
        queries: What a run asks for.
        max_instructions: Length of the longest programs; the paper's text says 20, as its code's random search 14.
        hpo_initial: Optimizers that SMAC_HPO begins with before it learns. SMAC takes ten a hyperparameter, which is
            90, but no more than a quarter of the budget.
        methods: Keys of `METHODS`.
        baselines: Names of baselines, or groups of them.

    Raises:
        ValueError: If a number is not positive, or a name is unknown.
    """

    task: str = "pfn"
    epochs: int = 1
    seeds: int = 3
    queries: int = 200
    max_instructions: int = 20
    hpo_initial: int = 50
    methods: tuple[str, ...] = tuple(METHODS)
    baselines: tuple[str, ...] = PAPER_BASELINES

    def __post_init__(self) -> None:
        check_task_name(self.task)
        check_epochs(self.epochs)
        SearchSpace(self.max_instructions)
        for name in ("seeds", "queries", "hpo_initial"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if not self.methods or set(self.methods) - set(METHODS) or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must be some of {', '.join(METHODS)}, got {self.methods!r}")
        named_baselines(self.baselines)


# The paper trains each candidate for 20 epochs (Section 4.1). It does not say how many queries a run has, nor how many
# runs there are: 10,000 is what its code gives SMAC_HPO.
SIZES: Mapping[str, Figure1Settings] = MappingProxyType(
    {
        "minutes": Figure1Settings(task="toy", epochs=5, seeds=2, queries=150, hpo_initial=37),
        "machine": Figure1Settings(),
        "paper": Figure1Settings(epochs=20, seeds=5, queries=10_000, hpo_initial=90),
    }
)


@dataclass(frozen=True, slots=True)
class Figure1:
    """What the figure shows.

    Attributes:
        settings: What was asked for.
        scores: The baselines' evaluations, the best first.
        comparison: The methods' runs, at the common budget.
        left_out: Methods and baselines that could not be had, and why.
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


@dataclass(frozen=True, slots=True)
class _Runs:
    """The runs of the methods: each in a folder of its own, all with one store."""

    folder: Path
    store: str
    task: str
    device: str
    epochs: int
    max_instructions: int
    hpo_initial: int

    def path(self, method: str, seed: int) -> Path:
        return self.folder / f"{method}-{seed}"

    def done(self, method: str, seed: int) -> int:
        """How many queries a run has done."""
        return len(whole_lines(self.path(method, seed) / "history.jsonl"))

    def go_on(self, method: str, seed: int, queries: int, on_query: Callable[[], None]) -> None:
        """Runs it, from where it was, to so many queries; `on_query` is called after each."""
        oracle = Oracle(self.task, self.store, self.device, workers=1)
        try:
            search(
                METHODS[method].make(self.max_instructions, self.hpo_initial, seed),
                oracle,
                Budget(queries=queries),
                epochs=self.epochs,
                folder=self.path(method, seed),
                on_query=lambda entry, so_far: on_query(),
            )
        finally:
            oracle.close()


class Figure1Study:
    """The baselines and runs of Figure 1, its tables and what they show; all kept in a folder.

    Nothing in the folder is computed twice: the same study goes on where it was stopped, and a larger one builds on a
    smaller one of the same task and epochs.

    Args:
        folder: Where all is kept.
        settings: What is shown.
        store: The store that runs and baselines share; None for one in the folder.
        device: Where to train.
        workers: How many runs at once, each in a process of its own.
        report: Is told how far it is, now and then.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: Figure1Settings,
        *,
        store: str | None = None,
        device: str = "auto",
        workers: int = 1,
        report: Report = lambda text: None,
    ) -> None:
        self.files = StudyFolder(folder, "--output")
        self.settings = settings
        self._store = store or str(self.files.path / "results.sqlite")
        self._device, self._workers, self._report = check_device_name(device), check_workers(workers), report
        self._runs = _Runs(
            self.files.path / "runs",
            self._store,
            settings.task,
            device,
            settings.epochs,
            settings.max_instructions,
            settings.hpo_initial,
        )

    def run(self) -> Figure1:
        """Trains and searches as far as it is not done yet, and writes the tables.

        Raises:
            StudyError: If the folder belongs to another study, is in use or damaged.
            RunError, StoreError, WorkerError: If a run or a training fails. What was done before is kept.
        """
        settings = self.settings
        config = {
            "figure": 1,
            "task": settings.task,
            "epochs": settings.epochs,
            "max_instructions": settings.max_instructions,
            "hpo_initial": settings.hpo_initial,
        }
        with self.files.opened(config):
            missing = {METHODS[name].label: METHODS[name].missing() for name in settings.methods}
            left_out = {label: reason for label, reason in missing.items() if reason is not None}
            for label, reason in left_out.items():
                self._report(f"{label} is left out: it {reason}")
            methods = [name for name in METHODS if name in settings.methods and METHODS[name].label not in left_out]
            if not methods:
                raise ValueError("; ".join(f"{label} {reason}" for label, reason in left_out.items()))
            scores, device, unknown = self._score()
            self._search(methods)
            figure = Figure1(settings, scores, self._compare(methods), left_out | unknown)
            self._write(figure, device)
            return figure

    def _score(self) -> tuple[list[Score], str, dict[str, str]]:
        """The baselines' scores, the device that trains, and which baselines are not installed."""
        chosen = named_baselines(self.settings.baselines)
        missing = {found.name: reason for found in chosen if (reason := _missing(found)) is not None}
        for name, reason in missing.items():
            self._report(f"{name} is left out: it {reason}")
        trainable = [found for found in chosen if found.name not in missing]
        oracle = Oracle(self.settings.task, self._store, self._device, workers=self._workers)
        try:
            if not trainable:
                raise ValueError("; ".join(f"{name} {reason}" for name, reason in missing.items()))
            scores = score(
                oracle,
                {found.name: found.candidate for found in trainable},
                epochs=self.settings.epochs,
                seeds=range(self.settings.seeds),
                # Of other lengths the paper's values are no measure, but their order is worth a look.
                paper_losses={found.name: found.paper_loss for found in trainable if self.settings.task == "pfn"},
                on_scored=self._tell_trained,
            )
            return scores, oracle.task.device, missing
        finally:
            oracle.close()

    def _tell_trained(self, name: str, evaluation: Evaluation[Any]) -> None:
        if not evaluation.hit:
            self._report(f"{name}, seed {evaluation.seed}: {evaluation.loss:.4g}")

    def _search(self, methods: Sequence[str]) -> None:
        queries, seeds = self.settings.queries, range(self.settings.seeds)
        # The last methods take longest: first begun, none of them is left alone at the end.
        all_runs = [(method, seed) for seed in seeds for method in reversed(methods)]
        waiting = [run for run in all_runs if self._runs.done(*run) < queries]
        if not waiting:
            return
        self._report(f"{len(waiting)} of {len(all_runs)} runs of {queries:,} queries to do")
        reporter = Reporter(self._report)

        def progress() -> str:
            done = sum(min(self._runs.done(*run), queries) for run in all_runs)
            return f"{done:,} of {len(all_runs) * queries:,} queries"

        def tell() -> None:
            reporter.tell(progress)

        # A run in this process tells how far it is itself.
        on_query = tell if min(self._workers, len(waiting)) == 1 else end_with_parent
        try:
            in_processes([partial(self._runs.go_on, *run, queries, on_query) for run in waiting], self._workers, tell)
        except JobError as error:
            raise RunError(f"a run failed: {error}") from None

    def _compare(self, methods: Sequence[str]) -> Comparison:
        """The runs of each method under the paper's name for it."""
        names = {
            self._runs.path(method, seed): METHODS[method].label
            for method in methods
            for seed in range(self.settings.seeds)
        }
        every = [read_run(path) for path in names]
        labels = {found.label: names[found.runs[0].folder] for found in group_runs(every)}
        return compare(every, budget=self.settings.queries, labels=labels)

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
