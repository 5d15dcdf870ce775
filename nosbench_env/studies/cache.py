"""The study of the cache (paper, Appendix D): how much it saves, and what it gets wrong, for each identity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nosbench_env.execution.settings import check_device_name, check_epochs
from nosbench_env.identity.identify import Identity
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.program import Program
from nosbench_env.language.search_space import SearchSpace
from nosbench_env.studies.cache_errors import (
    BLOWN_UP_LOSS,
    PLATEAUS,
    SAME_CURVE,
    SAME_LOSS,
    Losses,
    curve_groups,
    differ_while_tame,
    draw_distinct,
    draw_over_forms,
    draw_over_groups,
    draw_over_pairs,
    first_difference,
    first_of_each,
    merged_groups,
)
from nosbench_env.studies.cache_growth import cache_sizes, hits, sampled_queries, seed_pairs, trails
from nosbench_env.studies.identities import IDENTITIES, Key, keys_of
from nosbench_env.studies.search_runs import SearchRuns
from nosbench_env.studies.study_folder import Row, StudyFolder, finite
from nosbench_env.studies.trainings import FIRST_STEPS, TrainingLog, final_losses, first_losses, to_json
from nosbench_env.tasks import check_task_name, make_task
from nosbench_env.tasks.task import Task
from nosbench_env.tasks.worker_pool import check_workers

METHODS = ("rs", "re")
_DRAW_SEED = 0  # of everything drawn here: pairs and programs
_LARGEST_GROUPS = 20  # of equal curves, listed with their programs
_LISTED_PROGRAMS = 10  # of each


@dataclass(frozen=True, slots=True)
class CacheStudySettings:
    """What is studied, and how large.

    Attributes:
        task: Name of the task.
        epochs: Length of its trainings.
        seeds: Runs of each method: with seeds 0, 1, ...
        queries: Programs that a run asks for.
        max_instructions: Length of the longest programs. With 14, as in the paper's code, the hit rates are those of
            Table 3; the paper's text says 20.
        methods: "rs", random search; "re", regularized evolution from random programs.
        identities: Identities to compare; None for those that a part is about.
        search_identity: How the oracle knew programs in the runs of evolution.
        seed_pairs: Pairs of runs, one filling the cache and one querying it.
        merged_pairs: Pairs of merged programs drawn for each method, identity and way to draw them.
        split_programs: Programs with different keys whose curves are compared, for each method and identity.
        diverged_programs: Programs called diverged that are trained all the same, of both methods together, for each
            identity.

    Raises:
        ValueError: If a number is not positive, or a name is unknown.
    """

    task: str = "pfn"
    epochs: int = 1
    seeds: int = 3
    queries: int = 8000
    max_instructions: int = 14
    methods: tuple[str, ...] = METHODS
    identities: tuple[Identity, ...] | None = None
    search_identity: Identity = "fingerprint"
    seed_pairs: int = 9
    merged_pairs: int = 200
    split_programs: int = 500
    diverged_programs: int = 100

    def __post_init__(self) -> None:
        check_task_name(self.task)
        check_epochs(self.epochs)
        SearchSpace(self.max_instructions)
        for name in ("seeds", "queries", "seed_pairs", "merged_pairs", "split_programs", "diverged_programs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
        if self.search_identity not in IDENTITIES:
            raise ValueError(f"search_identity must be one of {', '.join(IDENTITIES)}, got {self.search_identity!r}")
        for name, known in (("methods", METHODS), ("identities", IDENTITIES)):
            values = getattr(self, name)
            if values is not None and (not values or set(values) - set(known) or len(set(values)) < len(values)):
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {values!r}")


# Appendix D has 18 runs of 8,000 queries at the task's full length, 9 pairs of them, and 1,000 pairs of programs.
SIZES: Mapping[str, CacheStudySettings] = MappingProxyType(
    {
        "afternoon": CacheStudySettings(),
        "paper": CacheStudySettings(epochs=20, seeds=18, merged_pairs=1000, split_programs=5000, diverged_programs=500),
    }
)


class CacheStudy:
    """The runs of a study, their keys, and the trainings that tell right from wrong; all kept in a folder.

    Nothing in the folder is computed twice: the same study continues where it was stopped, and a larger one builds on a
    smaller one of the same task, epochs and programs.

    Args:
        folder: Where all is kept.
        settings: What is studied.
        store: The store of the runs of evolution; None for one in the folder.
        device: Where to train.
        workers: How many runs or trainings at once, on the CPU.
        report: Is told how far it is, now and then.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: CacheStudySettings,
        *,
        store: str | None = None,
        device: str = "auto",
        workers: int = 1,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.settings = Path(folder), settings
        self.files = StudyFolder(folder)
        self.report = report
        self._device, self._workers = check_device_name(device), check_workers(workers)
        self._runs = SearchRuns(
            self.folder / "runs",
            store or str(self.folder / "results.sqlite"),
            settings.task,
            device,
            settings.epochs,
            settings.queries,
            settings.max_instructions,
            settings.search_identity,
        )
        self._programs: dict[tuple[str, int], list[Program]] = {}
        self._keys: dict[tuple[str, int, Identity], list[Key]] = {}

    def run(self, parts: Sequence[str]) -> dict[str, list[Row]]:
        """Does some parts of the study, and writes the tables of each and `summary.json`.

        Args:
            parts: Keys of `PARTS`.

        Returns:
            The table of each part, as rows of equal names.

        Raises:
            StudyError: If the folder belongs to another study, is in use or damaged.
            ValueError: If a part is unknown.
        """
        if unknown := set(parts) - set(PARTS):
            raise ValueError(f"unknown part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
        with self.files.opened(self._config):
            tables: dict[str, list[Row]] = {}
            for part in parts:
                tables[part] = PARTS[part](self)
                self._summarise(part, tables[part])
            return tables

    def identities(self, default: Sequence[Identity]) -> Sequence[Identity]:
        """Those asked for, or a part's default."""
        return default if self.settings.identities is None else self.settings.identities

    def programs(self, method: str, seed: int) -> list[Program]:
        """The programs of a run, in the order they were asked for."""
        if method == "re":
            self._evolved  # noqa: B018  # runs evolution when it is first asked for
        if (method, seed) not in self._programs:
            self._programs[method, seed] = self._runs.programs(method, seed)
        return self._programs[method, seed]

    @cached_property
    def _evolved(self) -> bool:
        self._runs.evolve(range(self.settings.seeds), self._workers, self.report)
        return True

    def keys(self, method: str, seed: int, identity: Identity) -> list[Key]:
        """The keys of a run's programs."""
        name = method, seed, identity
        if name not in self._keys:
            programs = self.programs(method, seed)
            file = self.folder / "keys" / f"{method}-{seed}-{identity}.json"
            # The paper's proxy is slow and will not change; the others are quick, and never told from an old file.
            kept = identity == "paper"
            self._keys[name] = keys_of(programs, identity, self._task, file if kept else None)
        return self._keys[name]

    @cached_property
    def _task(self) -> Task:
        """The task whose probe takes fingerprints."""
        return make_task(self.settings.task, "cpu")

    def pooled(self, method: str, identity: Identity) -> tuple[list[Program], list[Key]]:
        """The programs of all runs of a method, and their keys."""
        seeds = range(self.settings.seeds)
        return (
            [program for seed in seeds for program in self.programs(method, seed)],
            [key for seed in seeds for key in self.keys(method, seed, identity)],
        )

    def first_losses(self, programs: Iterable[Program]) -> dict[Program, Losses]:
        """The losses of the first `FIRST_STEPS` steps with each program."""
        return self._first_losses.losses(programs)

    def final_losses(self, programs: Iterable[Program]) -> dict[Program, Losses]:
        """The mean loss of the last epoch with each program, as an array of one."""
        return self._final_losses.losses(programs)

    @cached_property
    def _first_losses(self) -> TrainingLog:
        train = first_losses(self.settings.task, self._device, self._workers)
        return TrainingLog(self.folder / "trainings" / "first-losses.jsonl", train, self.report)

    @cached_property
    def _final_losses(self) -> TrainingLog:
        train = final_losses(self.settings.task, self._device, self._workers, self.settings.epochs)
        return TrainingLog(self.folder / "trainings" / "final-losses.jsonl", train, self.report)

    @property
    def _config(self) -> Row:
        """What may not change from one call to the next."""
        settings = self.settings
        return {
            "task": settings.task,
            "epochs": settings.epochs,
            "max_instructions": settings.max_instructions,
            "search_identity": settings.search_identity,
        }

    def _summarise(self, part: str, rows: Sequence[Row]) -> None:
        """Puts a part's table into the summary, beside those of other parts."""
        summary = self.files.read_json("summary.json")
        summary[part] = {"settings": asdict(self.settings), "rows": [finite(row) for row in rows]}
        self.files.write_json("summary.json", summary)


def growth(study: CacheStudy) -> list[Row]:
    """How the cache grows within a run and across three, and the speed-up that it gives (Figures 3 and 4)."""
    within: list[Row] = []
    across: list[Row] = []
    queries, seeds = study.settings.queries, study.settings.seeds
    if seeds < 3:
        study.report("growth across runs needs at least 3 seeds; it is left out")
    for identity in study.identities(IDENTITIES):
        for method in study.settings.methods:
            keys = [study.keys(method, seed, identity) for seed in range(seeds)]
            for seed in range(seeds):
                within += _growth_rows({"identity": identity, "method": method, "seed": seed}, keys[seed])
            for trail in trails(seeds):
                label = {"identity": identity, "method": method, "seeds": "-".join(map(str, trail))}
                across += _growth_rows(label, [key for seed in trail for key in keys[seed]])
    study.files.write_csv("growth-within-runs.csv", within)
    study.files.write_csv("growth-across-runs.csv", across)
    table = []
    for identity in study.identities(IDENTITIES):
        for method in study.settings.methods:
            row: Row = {"identity": identity, "method": method}
            for rows, end, name in ((within, queries, "after 1 run"), (across, 3 * queries, "after 3 runs")):
                sizes = [
                    r["cache_size"]
                    for r in rows
                    if (r["identity"], r["method"], r["queries"]) == (identity, method, end)
                ]
                row[f"cache size {name}"] = float(np.mean(sizes)) if sizes else math.nan
                row[f"speed-up {name}"] = float(np.mean(end / np.array(sizes))) if sizes else math.nan
            table.append(row)
    return table


def _growth_rows(label: Row, keys: Sequence[Key]) -> list[Row]:
    sizes = cache_sizes(keys)
    return [
        {**label, "queries": number, "cache_size": int(sizes[number - 1]), "speed_up": number / int(sizes[number - 1])}
        for number in sampled_queries(len(keys))
    ]


def hit_rates(study: CacheStudy) -> list[Row]:
    """The share of queries that a cache filled by another run answers (Table 3)."""
    pairs = seed_pairs(study.settings.seeds, study.settings.seed_pairs)
    if not pairs:
        study.report("hit rates need at least 2 seeds; they are left out")
    table: list[Row] = []
    singles: list[Row] = []
    for identity in study.identities(IDENTITIES) if pairs else ():
        for filled_by in study.settings.methods:
            for queried_by in study.settings.methods:
                for without_diverged in (False, True):
                    label = {
                        "identity": identity,
                        "runs": f"{filled_by}-{queried_by}".upper(),
                        "diverged": "left out" if without_diverged else "counted",
                    }
                    found = []
                    for first, second in pairs:
                        shares = hits(
                            study.keys(filled_by, first, identity),
                            study.keys(queried_by, second, identity),
                            without_diverged=without_diverged,
                        )
                        found.append((shares.filled, shares.own, shares.either))
                        singles.append({**label, "filled by seed": first, "queried by seed": second, **asdict(shares)})
                    row: Row = {**label, "pairs": len(pairs)}
                    for name, shares_of_pairs in zip(
                        ("filled", "own", "either"), zip(*found, strict=True), strict=True
                    ):
                        row[name] = float(np.mean(shares_of_pairs))
                        row[f"{name} std"] = float(np.std(shares_of_pairs))
                    table.append(row)
    study.files.write_csv("hit-rates.csv", singles)
    return table


def false_positives(study: CacheStudy) -> list[Row]:
    """How many pairs of merged programs differ in the first steps on the task (Table 4).

    Pairs are of equal key and different canonical form; with identity "canonical", of different text. They are drawn
    over all pairs of programs seen, over all pairs of their distinct forms, and over groups of equal key.
    """
    table: list[Row] = []
    differing: list[Row] = []
    for method in study.settings.methods:
        canonical = [key.text for key in study.pooled(method, "canonical")[1]]
        for identity in study.identities(("paper", "fingerprint")):
            programs, keys = study.pooled(method, identity)
            finer = canonical if identity != "canonical" else [str(program) for program in programs]
            groups = merged_groups(programs, keys, finer)
            different_forms = sum(group.pairs for group in groups)
            counts = Counter(key.text for key in keys if not key.diverged)
            same_key = sum(count * (count - 1) // 2 for count in counts.values())
            for over, draw in (("pairs", draw_over_pairs), ("forms", draw_over_forms), ("groups", draw_over_groups)):
                pairs = draw(groups, study.settings.merged_pairs, np.random.default_rng(_DRAW_SEED))
                label = {"method": method, "identity": identity, "drawn over": over}
                row, found = _compare(study, pairs, label)
                # The paper's rate is of all pairs of equal key, most of which are the same program written otherwise.
                of_all = row["rate"] * different_forms / same_key if over == "pairs" and same_key else math.nan
                table.append(row | {"rate of all": of_all, "groups": len(groups), "groups' pairs": different_forms})
                differing += found
    study.files.write_csv("false-positives.csv", table)
    study.files.write_json("false-positives.json", differing)
    return table


def _compare(study: CacheStudy, pairs: Sequence[tuple[Program, Program]], label: Row) -> tuple[Row, list[Row]]:
    losses = study.first_losses(program for pair in pairs for program in pair)
    times_drawn: dict[tuple[Program, Program], int] = {}
    for first, second in pairs:
        pair = (first, second) if (second, first) not in times_drawn else (second, first)
        times_drawn[pair] = times_drawn.get(pair, 0) + 1
    different = tame = 0
    found = []
    for (first, second), times in times_drawn.items():
        step = first_difference(losses[first], losses[second])
        if step is not None:
            different += times
            tame += times * differ_while_tame(losses[first], losses[second], step)
            found.append(
                {
                    **label,
                    "times drawn": times,
                    "first differing step": step,
                    "programs": [first.to_json(), second.to_json()],
                    "texts": [str(first).splitlines(), str(second).splitlines()],
                    "canonical": [canonical_form(program).text.splitlines() for program in (first, second)],
                    "losses": [[to_json(loss) for loss in losses[program].tolist()] for program in (first, second)],
                }
            )
    found.sort(key=lambda row: -row["times drawn"])
    row = {
        **label,
        "pairs": len(pairs),
        "different": different,
        "rate": different / len(pairs) if pairs else math.nan,
        "tame": tame,
        "distinct pairs": len(times_drawn),
        "distinct different": len(found),
    }
    return row, found


def false_splits(study: CacheStudy) -> list[Row]:
    """How many programs of different keys have the same curve in the first steps: trainings that were not needed."""
    table: list[Row] = []
    listed: list[Row] = []
    for method in study.settings.methods:
        for identity in study.identities(("paper", "fingerprint")):
            programs, keys = study.pooled(method, identity)
            texts = ((key.text, program) for program, key in zip(programs, keys, strict=True) if not key.diverged)
            distinct = first_of_each(texts)
            chosen = draw_distinct(distinct, study.settings.split_programs, np.random.default_rng(_DRAW_SEED))
            losses = study.first_losses(chosen)
            groups = curve_groups([losses[program] for program in chosen])
            label = {"method": method, "identity": identity}
            spare = sum(len(group) - 1 for group in groups)
            pairs = len(chosen) * (len(chosen) - 1) // 2
            split_pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
            table.append(
                {
                    **label,
                    "keys": len(distinct),
                    "programs": len(chosen),
                    "groups": len(groups),
                    "needless": spare,
                    "rate": spare / len(chosen) if chosen else math.nan,
                    "pairs": pairs,
                    "split pairs": split_pairs,
                    "pair rate": split_pairs / pairs if pairs else math.nan,
                }
            )
            listed += [
                {
                    **label,
                    "size": len(group),
                    "losses": [to_json(loss) for loss in losses[chosen[group[0]]].tolist()],
                    "texts": [str(chosen[index]).splitlines() for index in group[:_LISTED_PROGRAMS]],
                    "canonical": [
                        canonical_form(chosen[index]).text.splitlines() for index in group[:_LISTED_PROGRAMS]
                    ],
                    "programs": [chosen[index].to_json() for index in group[:_LISTED_PROGRAMS]],
                }
                for group in groups[:_LARGEST_GROUPS]
            ]
    study.files.write_csv("false-splits.csv", table)
    study.files.write_json("false-splits.json", listed)
    return table


def diverged(study: CacheStudy) -> list[Row]:
    """How many programs that a probe calls diverged end finite on the task all the same, and how many better than that.

    They are distinct in canonical form, half of each method while there are enough.
    """
    table: list[Row] = []
    listed: list[Row] = []
    plateau = PLATEAUS[study.settings.task]
    methods = study.settings.methods
    for identity in [name for name in study.identities(("paper", "fingerprint")) if name != "canonical"]:
        candidates: dict[str, list[Program]] = {}
        seen: set[str] = set()  # runs of both methods with the same seed begin with the same programs
        for method in methods:
            programs, keys = study.pooled(method, identity)
            canonical = [key.text for key in study.pooled(method, "canonical")[1]]
            verdicts = zip(programs, keys, canonical, strict=True)
            distinct = first_of_each((f, p) for p, key, f in verdicts if key.diverged and f not in seen)
            seen.update(canonical)
            candidates[method] = draw_distinct(distinct, len(distinct), np.random.default_rng(_DRAW_SEED))
        chosen: dict[str, list[Program]] = {}
        left = study.settings.diverged_programs
        by_number = sorted(methods, key=lambda method: len(candidates[method]))
        for place, method in enumerate(by_number):
            chosen[method] = candidates[method][: -(-left // (len(by_number) - place))]
            left -= len(chosen[method])
        losses = study.final_losses(program for programs in chosen.values() for program in programs)
        for method in methods:
            final = {program: float(losses[program][0]) for program in chosen[method]}
            finite = {program: loss for program, loss in final.items() if math.isfinite(loss)}
            table.append(
                {
                    "identity": identity,
                    "method": method,
                    "diverged forms": len(candidates[method]),
                    "trained": len(final),
                    "finite": len(finite),
                    f"below {plateau:.2f}": sum(loss < plateau for loss in finite.values()),
                    "lowest": min(finite.values(), default=math.nan),
                }
            )
            listed += [
                {
                    "identity": identity,
                    "method": method,
                    "loss": loss,
                    "text": str(program).splitlines(),
                    "program": program.to_json(),
                }
                for program, loss in sorted(finite.items(), key=lambda item: item[1])
            ]
    study.files.write_csv("diverged.csv", table)
    study.files.write_json("diverged.json", listed)
    return table


PARTS: Mapping[str, Callable[[CacheStudy], list[Row]]] = MappingProxyType(
    {
        "growth": growth,
        "hits": hit_rates,
        "false-positives": false_positives,
        "false-splits": false_splits,
        "diverged": diverged,
    }
)

# What the numbers of a part are, for its table on the terminal.
CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "growth": "Cache growth and cumulative speed-up (paper, Figures 3 and 4): means over runs.",
        "hits": "Hits on a cache filled by another run, on the run's own earlier queries, on either (paper, Table 3: "
        "the filled cache alone): mean and standard deviation over pairs of runs. RS-RE: filled by RS, queried by RE.",
        "false-positives": f"False positives (paper, Table 4): pairs of equal key and different canonical form, whose "
        f"losses of steps 0 to {FIRST_STEPS - 1} differ by more than {SAME_LOSS:g}. Drawn over pairs of programs seen, "
        f"over pairs of their forms, over groups of equal key. Tame: those that differ before both losses are beyond "
        f"{BLOWN_UP_LOSS:g}, where one bit of difference soon shows. Rate of all: as in the paper, of all pairs of "
        "equal key.",
        "false-splits": f"False splits: programs of different keys whose losses of steps 0 to {FIRST_STEPS - 1} agree "
        f"within {SAME_CURVE:g}. Needless: trainings that one key for each curve would have saved.",
        "diverged": "Programs that the probe calls diverged, trained all the same: how many end with a finite loss, "
        "and how many below that of a model that ignores its input.",
    }
)
