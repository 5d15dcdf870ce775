"""The cache study: savings and errors by identity (Appendix D)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nosbench_env.agents import RandomSearch, RegularizedEvolution, RunError
from nosbench_env.agents.history import read_history
from nosbench_env.agents.run_folder import HISTORY
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
from nosbench_env.studies.settings import DEFAULT_RESOURCES, Resources, StudySettings, check_some
from nosbench_env.studies.study_folder import Row, StudyFolder, finite
from nosbench_env.studies.trainings import FIRST_STEPS, TrainingLog, final_losses, first_losses, to_json
from nosbench_env.tasks import make_task
from nosbench_env.tasks.task import Task

METHODS = ("rs", "re")
_DRAW_SEED = 0  # seed of all random pairs and programs
_LARGEST_GROUPS = 20  # groups of equal curves that are listed with their programs
_LISTED_PROGRAMS = 10  # programs listed of each group


@dataclass(frozen=True)
class CacheStudySettings(StudySettings):
    """The content and the size of the study.

    Each method has a run with each seed.

    Attributes:
        queries: Number of queries of a run.
        max_instructions: Largest length of a program. With 14, as in the paper's code, hit rates are those of Table 3;
            the paper's text says 20.
        methods: "rs", random search; "re", regularized evolution from random programs.
        identities: Identities to compare; None for the default of each part.
        search_identity: Identity of the oracle in the runs of evolution.
        seed_pairs: Number of pairs of runs, one filling the cache and one querying it.
        merged_pairs: Number of pairs of merged programs for each method, identity and way to draw them.
        split_programs: Number of programs with different keys whose curves are compared, for each method and identity.
        diverged_programs: Number of programs called diverged that are trained nevertheless, of both methods together,
            for each identity.

    Raises:
        ValueError: If an integer is not positive, or a name is unknown.
    """

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
        SearchSpace(self.max_instructions)
        super().__post_init__()
        check_some("search_identity", (self.search_identity,), IDENTITIES)
        check_some("methods", self.methods, METHODS)
        check_some("identities", IDENTITIES if self.identities is None else self.identities, IDENTITIES)


# Appendix D: 18 runs of 8,000 queries at the task's full length, 9 pairs of runs, and 1,000 pairs of programs.
SIZES: Mapping[str, CacheStudySettings] = MappingProxyType(
    {
        "afternoon": CacheStudySettings(),
        "paper": CacheStudySettings(epochs=20, seeds=18, merged_pairs=1000, split_programs=5000, diverged_programs=500),
    }
)


class CacheStudy:
    """The study's folder: runs, keys, trainings and tables.

    Nothing in the folder is computed twice. An interrupted study is resumed, and a larger study reuses a smaller one of
    the same task, epochs and programs.

    Args:
        folder: The folder.
        settings: The settings.
        resources: The resources. The runs of evolution use the store.
    """

    def __init__(
        self, folder: Path | str, settings: CacheStudySettings, resources: Resources = DEFAULT_RESOURCES
    ) -> None:
        self.files, self.settings, self._resources = StudyFolder(folder), settings, resources
        self.folder, self.report = self.files.path, resources.report
        self._runs = SearchRuns(
            self.folder / "runs",
            resources.store or str(self.folder / "results.sqlite"),
            settings.task,
            resources.device,
            settings.epochs,
            settings.queries,
            settings.search_identity,
        )
        self._programs: dict[tuple[str, int], list[Program]] = {}
        self._keys: dict[tuple[str, int, Identity], list[Key]] = {}

    def run(self, parts: Sequence[str]) -> dict[str, list[Row]]:
        """Does parts of the study; writes their tables and `summary.json`.

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
        names = ("task", "epochs", "max_instructions", "search_identity")
        with self.files.opened({name: getattr(self.settings, name) for name in names}):
            tables: dict[str, list[Row]] = {}
            for part in parts:
                tables[part] = PARTS[part](self)
                self._summarise(part, tables[part])
            return tables

    def identities(self, default: Sequence[Identity]) -> Sequence[Identity]:
        """Returns the chosen identities, or a part's default."""
        return default if self.settings.identities is None else self.settings.identities

    def programs(self, method: str, seed: int) -> list[Program]:
        """Returns the programs of a run in the order of its queries."""
        if (method, seed) not in self._programs:
            # Random search proposes the same programs whatever their losses, so its runs need no training.
            self._programs[method, seed] = (
                self._evolved(seed)
                if method == "re"
                else RandomSearch(SearchSpace(self.settings.max_instructions), seed).ask(self.settings.queries)
            )
        return self._programs[method, seed]

    def _evolved(self, seed: int) -> list[Program]:
        """Returns the programs of a run of evolution, which depend on losses."""
        self._complete_runs  # noqa: B018  # at the first call
        try:
            history = read_history(self._runs.path(f"re-{seed}") / HISTORY)
        except RunError as error:
            raise RunError(f"{error}; delete its folder to run it again") from error
        return [entry.program for entry in history.entries[: self.settings.queries]]

    @cached_property
    def _complete_runs(self) -> None:
        space = SearchSpace(self.settings.max_instructions)
        agents = {f"re-{seed}": partial(RegularizedEvolution, space, seed) for seed in range(self.settings.seeds)}
        self._runs.complete(agents, self._resources.workers, self.report)

    def keys(self, method: str, seed: int, identity: Identity) -> list[Key]:
        """Returns the keys of a run's programs."""
        name = method, seed, identity
        if name not in self._keys:
            file = self.folder / "keys" / f"{method}-{seed}-{identity}.json"
            # The paper's proxy is slow and will not change. The other identities are fast and not kept.
            kept = file if identity == "paper" else None
            self._keys[name] = keys_of(self.programs(method, seed), identity, self._task, kept)
        return self._keys[name]

    @cached_property
    def _task(self) -> Task:
        """The task whose probe is used."""
        return make_task(self.settings.task, "cpu")

    def pooled(self, method: str, identity: Identity) -> tuple[list[Program], list[Key]]:
        """Returns the programs of all runs of a method, and their keys."""
        seeds = range(self.settings.seeds)
        return (
            [program for seed in seeds for program in self.programs(method, seed)],
            [key for seed in seeds for key in self.keys(method, seed, identity)],
        )

    def first_losses(self, programs: Iterable[Program]) -> dict[Program, Losses]:
        """Returns the losses of the first `FIRST_STEPS` steps with each program."""
        return self._first_losses.losses(programs)

    def final_losses(self, programs: Iterable[Program]) -> dict[Program, Losses]:
        """Returns the mean loss of the last epoch with each program, `(1,)`."""
        return self._final_losses.losses(programs)

    @cached_property
    def _first_losses(self) -> TrainingLog:
        train = first_losses(self.settings.task, self._resources.device, self._resources.workers)
        return TrainingLog(self.folder / "trainings" / "first-losses.jsonl", train, self.report)

    @cached_property
    def _final_losses(self) -> TrainingLog:
        train = final_losses(self.settings.task, self._resources.device, self._resources.workers, self.settings.epochs)
        return TrainingLog(self.folder / "trainings" / "final-losses.jsonl", train, self.report)

    def _summarise(self, part: str, rows: Sequence[Row]) -> None:
        """Adds a part's table to the summary."""
        summary = self.files.read_json("summary.json")
        summary[part] = {"settings": asdict(self.settings), "rows": [finite(row) for row in rows]}
        self.files.write_json("summary.json", summary)


def growth(study: CacheStudy) -> list[Row]:
    """Measures the growth and the speed-up of the cache (Figures 3 and 4).

    Both are measured within a run and across three runs.
    """
    within: list[Row] = []
    across: list[Row] = []
    queries, seeds = study.settings.queries, study.settings.seeds
    if seeds < 3:
        study.report("growth across runs is left out: it needs at least 3 seeds")
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
    """Measures hits on a cache that another run has filled (Table 3)."""
    pairs = seed_pairs(study.settings.seeds, study.settings.seed_pairs)
    if not pairs:
        study.report("hit rates are left out: they need at least 2 seeds")
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
                    of_pairs = []
                    for first, second in pairs:
                        shares = hits(
                            study.keys(filled_by, first, identity),
                            study.keys(queried_by, second, identity),
                            without_diverged=without_diverged,
                        )
                        of_pairs.append(asdict(shares))
                        singles.append({**label, "filled by seed": first, "queried by seed": second, **of_pairs[-1]})
                    row: Row = {**label, "pairs": len(pairs)}
                    for name in ("filled", "own", "either"):
                        values = [shares_of_pair[name] for shares_of_pair in of_pairs]
                        row |= {name: float(np.mean(values)), f"{name} std": float(np.std(values))}
                    table.append(row)
    study.files.write_csv("hit-rates.csv", singles)
    return table


def false_positives(study: CacheStudy) -> list[Row]:
    """Counts merged pairs that differ in the first steps (Table 4).

    Pairs have equal keys and different canonical forms, or different texts with identity "canonical". They are drawn
    over all pairs of programs, over all pairs of their distinct forms, and over groups of equal key.
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
                row, differing_pairs = _compare(study, pairs, label)
                # The paper's rate is of all pairs of equal key, most of which are rewrites of the same program.
                of_all = row["rate"] * different_forms / same_key if over == "pairs" and same_key else math.nan
                table.append(row | {"rate of all": of_all, "groups": len(groups), "groups' pairs": different_forms})
                differing += differing_pairs
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
    differing = []
    for (first, second), times in times_drawn.items():
        step = first_difference(losses[first], losses[second])
        if step is not None:
            different += times
            tame += times * differ_while_tame(losses[first], losses[second], step)
            differing.append(
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
    differing.sort(key=lambda row: -row["times drawn"])
    row = {
        **label,
        "pairs": len(pairs),
        "different": different,
        "rate": different / len(pairs) if pairs else math.nan,
        "tame": tame,
        "distinct pairs": len(times_drawn),
        "distinct different": len(differing),
    }
    return row, differing


def false_splits(study: CacheStudy) -> list[Row]:
    """Counts programs of different keys with equal first losses.

    Their trainings were not needed.
    """
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
    """Counts programs that a probe wrongly calls diverged (finite final loss).

    The programs are distinct in canonical form, half of them from each method if there are enough.
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

# The captions of the parts' tables in the terminal.
CAPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "growth": "Cache growth and cumulative speed-up (paper, Figures 3 and 4): means over runs.",
        "hits": "Hits on a cache filled by another run, on the run's own earlier queries, on either (paper, Table 3: "
        "the filled cache only): mean and standard deviation over pairs of runs. RS-RE: filled by RS, queried by RE.",
        "false-positives": f"False positives (paper, Table 4): pairs of equal key and different canonical form, whose "
        f"losses of steps 0 to {FIRST_STEPS - 1} differ by more than {SAME_LOSS:g}. Drawn over pairs of programs, "
        f"over pairs of their forms, over groups of equal key. Tame: pairs that differ before both losses exceed "
        f"{BLOWN_UP_LOSS:g}, above which a difference of one bit soon shows. Rate of all: as in the paper, of all "
        "pairs of equal key.",
        "false-splits": f"False splits: programs of different keys whose losses of steps 0 to {FIRST_STEPS - 1} agree "
        f"within {SAME_CURVE:g}. Needless: trainings that one key for each curve would have saved.",
        "diverged": "Programs that the probe calls diverged, trained nevertheless: the number with a finite loss, and "
        "the number below the loss of a model that ignores its input.",
    }
)
