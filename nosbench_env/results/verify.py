"""Training again what a store claims to know, and comparing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from nosbench_env.candidates.baselines import NOISE
from nosbench_env.candidates.candidate import Candidate, candidate_from_json
from nosbench_env.execution.numerics import resolve_device
from nosbench_env.execution.step_code import lower
from nosbench_env.language.program import Program
from nosbench_env.results.agreement import difference, mean
from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.store import Record, ResultStore, StoredRun
from nosbench_env.tasks import make_task
from nosbench_env.tasks.task import Curve, OnStep, Task
from nosbench_env.tasks.train_candidates import train_candidates

EXACT = 1e-6  # how far losses differ by rounding before training amplifies it
_SHORT = 10  # steps; until then it does not (README, "Limits")
_IDENTITY_ROUNDING = 1e-5  # values of a proxy differ by 1e-7 between processors

# A program and a key -> the program's identity under the method of the key; None if that is not known here.
IdentityLike = Callable[[Program, ResultKey], str | None]
IdentityFound = Literal["same", "other", "not compared"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A result beside a second training of the same program.

    Attributes:
        run: The result.
        program: The program, or optimizer of a library, trained.
        again: The result of the second training.
        difference: How much the means differ in the epoch that is the farthest beyond its tolerance, or the nearest to
            it; infinite if only one of the two is finite.
        tolerance: By how much they may differ in that epoch.
        within: Whether all epochs are within their tolerance.
        identity: Whether the program has the identity that the key says. If not, the result is not the key's, or this
            processor rounds the probe to another identity.
    """

    run: StoredRun
    program: Candidate
    again: Record
    difference: float
    tolerance: float
    within: bool
    identity: IdentityFound

    @property
    def right(self) -> bool:
        """Whether nothing speaks against the result."""
        return self.within and self.identity != "other"


@dataclass(frozen=True, slots=True)
class NotVerifiable:
    """A result that can't be compared here, and why."""

    run: StoredRun
    reason: str


OnVerified = Callable[[Comparison | NotVerifiable], None]


def draw_sample(store: ResultStore, size: int, seed: int, selection: Selection | None = None) -> list[StoredRun]:
    """Draws results, each with the same chance; the same ones as long as the store holds the same results.

    Raises:
        ValueError: If the size is not positive.
    """
    if size < 1:
        raise ValueError(f"the sample must have 1 result or more, got {size}")
    selection, rng = selection or Selection(), random.Random(seed)
    sample: list[StoredRun] = []
    count = 0
    for run in store.runs():
        try:
            if not selection.matches(ResultKey.parse(run.key), run.record.provenance):
                continue
        except ValueError:
            pass  # a key of another form: not verifiable, which is worth saying
        count += 1
        if len(sample) < size:
            sample.append(run)
        elif (place := rng.randrange(count)) < size:  # algorithm R
            sample[place] = run
    return sorted(sample, key=lambda run: run.id)


def verify(
    runs: Sequence[StoredRun],
    on_verified: OnVerified,
    *,
    device: str = "auto",
    tolerance: float | None = None,
    identity_like: IdentityLike | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Trains each result's program, or optimizer, again, as long and from the same seed, and compares.

    By default losses of gradient-free programs and of the first ten steps may differ by 1e-6, and others by 0.15, which
    is what rounding makes of them; both relative to the loss where it is greater than 1.

    Args:
        runs: The results.
        on_verified: Called with what came of each, as soon as it is known.
        device: Where to train.
        tolerance: What losses may differ by, in place of the above.
        identity_like: Gives the identity that a program has under a key's method; None compares no identities.
        on_step: As in `Task.train_programs`.

    Raises:
        ValueError: If the device is unknown or not available, or the tolerance is negative.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance must be a number from 0 on, got {tolerance}")
    device = resolve_device(device)
    tasks: dict[tuple[str, str], Task] = {}
    groups: dict[tuple[ResultKey, int, bool], list[tuple[StoredRun, Candidate]]] = {}
    for run in runs:
        try:
            key, program = _training(run, tasks, device)
        except ValueError as error:
            on_verified(NotVerifiable(run, str(error)))
            continue
        record = run.record
        alike = ResultKey(key.task, key.task_version, key.seed, key.arithmetic, "")
        group = alike, record.first_epoch + len(record.epoch_means), record.first_epoch > 0
        groups.setdefault(group, []).append((run, program))
    for (key, epochs, last_epoch_only), members in groups.items():
        task = tasks[key.task, key.arithmetic]

        def compare(
            index: int,
            curve: Curve,
            members: list[tuple[StoredRun, Candidate]] = members,
            steps_per_epoch: int = task.steps_per_epoch,
        ) -> None:
            run, program = members[index]
            on_verified(_compare(run, program, curve, steps_per_epoch, tolerance, identity_like))

        train_candidates(
            task,
            [program for _, program in members],
            epochs,
            key.seed,
            on_step=on_step,
            on_curve=compare,
            last_epoch_only=last_epoch_only,
        )


def _training(run: StoredRun, tasks: dict[tuple[str, str], Task], device: str) -> tuple[ResultKey, Candidate]:
    """What was trained. Raises ValueError, saying why, if it can't be trained again here."""
    if "program" not in run.record.provenance:
        raise ValueError("it does not say which program was trained")
    program = candidate_from_json(run.record.provenance["program"])
    key = ResultKey.parse(run.key)
    if (name := (key.task, key.arithmetic)) not in tasks:
        tasks[name] = make_task(key.task, device, key.arithmetic)
    if tasks[name].version != key.task_version:
        raise ValueError(f"it is of version {key.task_version} of the task; here is version {tasks[name].version}")
    return key, program


def _compare(
    run: StoredRun,
    program: Candidate,
    curve: Curve,
    steps_per_epoch: int,
    tolerance: float | None,
    identity_like: IdentityLike | None,
) -> Comparison:
    record = run.record
    again = Record(tuple(curve.epoch_means.tolist()), curve.stopped_at, {}, curve.first_epoch)
    reads_gradient = not isinstance(program, Program) or lower(program).reads_gradient
    exact_epochs = _SHORT // steps_per_epoch if reads_gradient else math.inf
    differences = []
    for epoch in range(max(record.first_epoch, again.first_epoch), record.first_epoch + len(record.epoch_means)):
        stored = mean(record, epoch)
        allowed = (EXACT if epoch < exact_epochs else NOISE) if tolerance is None else tolerance
        allowed *= max(1.0, abs(stored)) if math.isfinite(stored) else 1.0
        found = difference(stored, mean(again, epoch))
        differences.append((found, allowed))
    worst, allowed = max(differences, key=lambda pair: pair[0] - pair[1])
    return Comparison(
        run=run,
        program=program,
        again=again,
        difference=worst,
        tolerance=allowed,
        within=worst <= allowed,
        identity=_identity(run, program, record.first_epoch + len(record.epoch_means), identity_like),
    )


def _identity(run: StoredRun, program: Candidate, epochs: int, identity_like: IdentityLike | None) -> IdentityFound:
    key = ResultKey.parse(run.key)
    if not isinstance(program, Program):
        return "same" if program.identity(epochs) == key.identity else "other"
    found = None if identity_like is None else identity_like(program, key)
    if found is None:
        return "not compared"
    return "same" if found == key.identity or _nearly_equal(found, key.identity) else "other"


def _nearly_equal(first: str, second: str) -> bool:
    """Whether the values are floats, as `float.hex` writes them, that another processor's rounding explains."""
    values = [identity.partition(":")[2] for identity in (first, second)]
    if not all("0x" in value for value in values):  # digests are hexadecimal too
        return False
    try:
        return math.isclose(*map(float.fromhex, values), rel_tol=_IDENTITY_ROUNDING)
    except (ValueError, OverflowError):
        return False
