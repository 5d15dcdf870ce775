"""Local tuning of a program's constants with Optuna."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nosbench_env.candidates.tuned_program import ConstantUse, TunedProgram, constant_uses
from nosbench_env.language.program import Program
from nosbench_env.postprocessing.evaluator import Change, Evaluator, number

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_DIVERGED = 1e9  # the loss that the sampler is told: it can't rank infinities beside each other


@dataclass(frozen=True, slots=True)
class Tuning:
    """What tuning the constants of a program came to.

    Attributes:
        tuned: The program with the constants of the best trial.
        values: Of each constant that was tuned, the program's value and the best.
        trials: Trials done, the first of which is the program itself.
        tuning_seeds: The seeds by which trials were judged.
        tuning_change: How the best trial's losses differ from the program's there: what was selected, so too good.
        test_seeds: Seeds that took no part.
        losses: The program's own losses at these.
        tuned_losses: The best trial's losses at these.
        change: How they differ: the result.
    """

    tuned: TunedProgram
    values: dict[ConstantUse, tuple[float, float]]
    trials: int
    tuning_seeds: tuple[int, ...]
    tuning_change: Change
    test_seeds: tuple[int, ...]
    losses: tuple[float, ...]
    tuned_losses: tuple[float, ...]
    change: Change

    def to_json(self) -> dict[str, Any]:
        """As JSON data; numbers that are not finite are None. `TunedProgram.from_json` reads "tuned"."""
        return {
            "tuned": self.tuned.to_json(),
            "text": str(self.tuned),
            "constants": [
                {"line": use.line, "input": use.place, "value": value, "tuned": best}
                for use, (value, best) in self.values.items()
            ],
            "trials": self.trials,
            "tuning_seeds": list(self.tuning_seeds),
            "tuning_change": self.tuning_change.to_json(),
            "test_seeds": list(self.test_seeds),
            "losses": [number(loss) for loss in self.losses],
            "tuned_losses": [number(loss) for loss in self.tuned_losses],
            "change": self.change.to_json(),
        }


def check_optuna() -> None:
    """Raises: ValueError: If there is no Optuna to tune with."""
    if find_spec("optuna") is None:
        raise ValueError("tuning needs Optuna: install it with pip install 'nosbench_env[tune]'")


def tune(
    program: Program,
    evaluator: Evaluator,
    test_seeds: Sequence[int],
    *,
    trials: int = 50,
    reach: float = 10.0,
    uses: Sequence[ConstantUse] | None = None,
    seed: int = 0,
    storage: Path | None = None,
) -> Tuning:
    """Looks for better constants near a program's own, by the mean loss over the evaluator's seeds.

    The sampler is Optuna's tree-structured Parzen estimator, on a logarithmic scale. What it proposes depends on the
    seed and the trials before alone, so a tuning that was interrupted goes on as if it had not been.

    Args:
        program: The program.
        evaluator: Evaluates; its seeds are those to tune by.
        test_seeds: Other seeds, at which the best trial and the program are compared at the end.
        trials: How many values to try, the program's own included; those in `storage` count.
        reach: Constants are looked for between their value divided by this and multiplied by it.
        uses: Which constants to tune; None for all.
        seed: Seed of the sampler.
        storage: Optuna's journal, a file that keeps the trials, for one process at a time. None keeps none.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If an argument is out of range, test seeds are seeds to tune by, the program's own loss is not
            finite at a seed, or there is no Optuna.
    """
    check_optuna()
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials!r}")
    if not 1 < reach <= 1e6:
        raise ValueError(f"reach must be a number > 1, and at most a million, got {reach!r}")
    if set(test_seeds) & set(evaluator.seeds):
        raise ValueError(f"test seeds {tuple(test_seeds)} must not be among the tuning seeds {evaluator.seeds}")
    known = constant_uses(program)
    chosen = list(known if uses is None else dict.fromkeys(uses))
    TunedProgram(program, {use: known.get(use, 0.0) for use in chosen})  # names a use that is none
    if not chosen:
        raise ValueError("the program uses no constants: there is nothing to tune")
    tester = evaluator.at(test_seeds)
    (own,) = evaluator.losses([program])
    Change.between(own, own)  # says so if there is nothing to compare with

    def candidate(values: dict[str, float]) -> TunedProgram:
        return TunedProgram(program, {use: values[str(use)] for use in chosen})

    def objective(values: dict[str, float]) -> float:
        loss = float(evaluator.losses([candidate(values)]).mean())
        return loss if math.isfinite(loss) else _DIVERGED

    settings = {
        "program": program.to_json(),
        "task": [evaluator.oracle.task.name, evaluator.oracle.task.version, evaluator.oracle.task.arithmetic],
        "epochs": evaluator.epochs,
        "seeds": evaluator.seeds,
        "uses": [str(use) for use in chosen],
        "reach": reach,
        "seed": seed,
    }
    with _study(storage, settings) as study:
        _run(study, {str(use): known[use] for use in chosen}, reach, seed, trials, objective)
        done = _complete(study)[:trials]
        best = candidate(min(done, key=lambda trial: (trial.value, trial.number)).params)
    (best_losses,) = evaluator.losses([best])
    untuned, tuned = tester.losses([program, best])
    return Tuning(
        best,
        {use: (known[use], best.constants.get(use, known[use])) for use in chosen},
        len(done),
        evaluator.seeds,
        Change.between(own, best_losses),
        tester.seeds,
        tuple(untuned.tolist()),
        tuple(tuned.tolist()),
        Change.between(untuned, tuned),
    )


@contextmanager
def _study(storage: Path | None, settings: dict[str, Any]) -> Iterator[Study]:
    """The study of these settings; the file may hold those of others."""
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    name = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if storage is None:
            yield optuna.create_study(storage=InMemoryStorage(), study_name=name)
            return
        storage.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A lock that is a link does not work on all file systems.
            kept = JournalStorage(JournalFileBackend(str(storage), lock_obj=JournalFileOpenLock(str(storage))))
            study = optuna.create_study(storage=kept, study_name=name, load_if_exists=True)
        except OSError:
            raise
        except Exception as error:  # Optuna raises many types for a file that is no journal
            raise ValueError(f"{storage} is no journal of Optuna, or damaged ({error}); name another file") from error
        yield study
    finally:
        optuna.logging.set_verbosity(verbosity)


def _run(
    study: Study,
    values: Mapping[str, float],
    reach: float,
    seed: int,
    trials: int,
    objective: Callable[[dict[str, float]], float],
) -> None:
    """Runs the trials that are missing; the first is the program itself."""
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(value / reach, value * reach, log=True) for name, value in values.items()
    }
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        study.tell(trial.number, state=TrialState.FAIL)  # a kill has ended it
    while (done := len(_complete(study))) < trials:
        # A seed of its own for each trial, so that nothing depends on how many this process has done.
        drawn = int(np.random.default_rng([seed, done]).integers(2**31))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # which Optuna 4 takes `multivariate` to be
            study.sampler = TPESampler(seed=drawn, multivariate=True)
        if done == 0:
            study.enqueue_trial(dict(values))
        asked = study.ask(space)
        study.tell(asked, objective(dict(asked.params)))


def _complete(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
