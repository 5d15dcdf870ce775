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

_DIVERGED = 1e9  # the loss passed to the sampler, which can't rank infinities


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result of tuning the constants of a program.

    Attributes:
        tuned: The program with the constants of the best trial.
        values: The program's value and the best value of each tuned constant.
        trials: Number of trials; the first is the program itself.
        tuning_seeds: The seeds of the trials.
        tuning_change: The change of loss at the tuning seeds. It is biased, because the best trial was selected by it.
        test_seeds: Seeds that were not used for tuning.
        losses: The program's own losses at the test seeds.
        tuned_losses: The best trial's losses at the test seeds.
        change: The change of loss at the test seeds, which is unbiased.
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
        """Returns JSON data; numbers that are not finite are None.

        `TunedProgram.from_json` reads "tuned".
        """
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
    """Checks that Optuna is installed.

    Raises:
        ValueError: If it is not.
    """
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
    """Tunes a program's constants by the mean loss over the evaluator's seeds.

    The sampler is Optuna's tree-structured Parzen estimator, on a logarithmic scale. Its proposals depend only on the
    seed and the earlier trials, so an interrupted tuning continues as if it had not stopped.

    Args:
        program: The program.
        evaluator: The evaluator; its seeds are the tuning seeds.
        test_seeds: Other seeds, at which the best trial and the program are compared at the end.
        trials: Number of trials, including the program itself and the trials in `storage`.
        reach: Constants stay between their value divided by this and multiplied by this.
        uses: The constants to tune; None for all.
        seed: Seed of the sampler.
        storage: Optuna's journal, a file that keeps the trials, for one process at a time. None keeps no trials.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If an argument is out of range, test seeds are tuning seeds, the program's own loss is not finite
            at a seed, or Optuna is not installed.
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
    TunedProgram(program, {use: known.get(use, 0.0) for use in chosen})  # raises if a use does not exist
    if not chosen:
        raise ValueError("the program uses no constants to tune")
    tester = evaluator.at(test_seeds)
    (own,) = evaluator.losses([program])
    Change.between(own, own)  # raises if the losses are not finite

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
    """Opens the study of these settings; the file may hold other studies."""
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
            # A lock by a link does not work on all file systems.
            kept = JournalStorage(JournalFileBackend(str(storage), lock_obj=JournalFileOpenLock(str(storage))))
            study = optuna.create_study(storage=kept, study_name=name, load_if_exists=True)
        except OSError:
            raise
        except Exception as error:  # Optuna raises many types for an invalid journal
            raise ValueError(f"{storage} is no journal of Optuna, or damaged ({error}); choose another file") from error
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
    """Runs the missing trials; the first is the program itself."""
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    space: dict[str, BaseDistribution] = {
        name: FloatDistribution(value / reach, value * reach, log=True) for name, value in values.items()
    }
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
        study.tell(trial.number, state=TrialState.FAIL)  # ended by a kill
    while (done := len(_complete(study))) < trials:
        # Each trial has its own seed, so that interruptions change nothing.
        drawn = int(np.random.default_rng([seed, done]).integers(2**31))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # `multivariate` is experimental in Optuna 4
            study.sampler = TPESampler(seed=drawn, multivariate=True)
        if done == 0:
            study.enqueue_trial(dict(values))
        asked = study.ask(space)
        study.tell(asked, objective(dict(asked.params)))


def _complete(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
