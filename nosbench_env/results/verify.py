"""Verification of a store's records by training again and comparing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nosbench_env.candidates.baselines import NOISE
from nosbench_env.candidates.candidate import Candidate, candidate_from_json
from nosbench_env.execution.numerics import resolve_device
from nosbench_env.execution.step_code import step_codes
from nosbench_env.language.program import Program
from nosbench_env.results.agreement import difference, mean
from nosbench_env.results.key import ResultKey, Selection
from nosbench_env.store import Record, ResultStore, StoredRecord
from nosbench_env.tasks import make_task
from nosbench_env.tasks.task import Curve, OnStep, Task
from nosbench_env.tasks.train_candidates import train_candidates

EXACT = 1e-6  # the difference of losses by rounding, before training amplifies it
_SHORT = 10  # steps in which training does not amplify rounding (docs/limits.md)
_IDENTITY_ROUNDING = 1e-5  # values of the paper's proxy differ by 1e-7 between processors

# Maps a program and a key to the program's value under the key's identity; to None if that is unknown here.
IdentityValueOf = Callable[[Program, ResultKey], str | None]
IdentityVerdict = Literal["same", "other", "not compared"]


@dataclass(frozen=True, slots=True)
class Verified:
    """A stored record and a second training of the same program.

    Attributes:
        stored: The stored record.
        program: The program, or optimizer of a library, trained.
        again: The result of the second training.
        difference: The difference of the means in the epoch that exceeds its tolerance most, or comes closest to it;
            infinite if only one of the two is finite.
        tolerance: The allowed difference in that epoch.
        within: True if all epochs are within their tolerance.
        identity: "same" if the program has the identity value of the key. If it is "other", the result is not the
            key's, or this processor rounds the probe differently.
    """

    stored: StoredRecord
    program: Candidate
    again: Record
    difference: float
    tolerance: float
    within: bool
    identity: IdentityVerdict

    @property
    def right(self) -> bool:
        """True if losses and identity agree with the record."""
        return self.within and self.identity != "other"


@dataclass(frozen=True, slots=True)
class NotVerifiable:
    """A stored record that can't be trained again here, and the reason."""

    stored: StoredRecord
    reason: str


OnVerified = Callable[[Verified | NotVerifiable], None]


def draw_sample(store: ResultStore, size: int, seed: int, selection: Selection | None = None) -> list[StoredRecord]:
    """Draws records uniformly; equal stores give equal samples.

    Raises:
        ValueError: If the size is not positive.
    """
    if size < 1:
        raise ValueError(f"the sample must have 1 result or more, got {size}")
    selection, rng = selection or Selection(), random.Random(seed)
    sample: list[StoredRecord] = []
    count = 0
    for stored in store.records():
        try:
            if not selection.matches(ResultKey.parse(stored.key), stored.record.provenance):
                continue
        except ValueError:
            pass  # a key of another form, to be reported as not verifiable
        count += 1
        if len(sample) < size:
            sample.append(stored)
        elif (place := rng.randrange(count)) < size:  # algorithm R
            sample[place] = stored
    return sorted(sample, key=lambda stored: stored.id)


def verify(
    records: Sequence[StoredRecord],
    on_verified: OnVerified,
    *,
    device: str = "auto",
    tolerance: float | None = None,
    identity_value_of: IdentityValueOf | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Trains each record's program again and compares the losses.

    The trainings have the same seed and length. The default tolerance is 1e-6 for programs that ignore the gradient and
    for the first ten steps, and 0.15 otherwise, which is the effect of rounding. Both are relative to the loss where it
    is greater than 1.

    Args:
        records: The records.
        on_verified: Called with the outcome of each record as soon as it is known.
        device: The device of training.
        tolerance: The allowed difference of losses; None for the default.
        identity_value_of: Computes a program's value under a key's identity; None compares no identity values.
        on_step: As in `Task.train_programs`.

    Raises:
        ValueError: If the device is unknown or not available, or the tolerance is negative.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance must be a number from 0 on, got {tolerance}")
    device = resolve_device(device)
    tasks: dict[tuple[str, str], Task] = {}
    groups: dict[tuple[ResultKey, int, bool], list[tuple[StoredRecord, Candidate]]] = {}
    for stored in records:
        try:
            key, program = _training(stored, tasks, device)
        except ValueError as error:
            on_verified(NotVerifiable(stored, str(error)))
            continue
        record = stored.record
        group = replace(key, identity_value=""), record.first_epoch + len(record.epoch_means), record.first_epoch > 0
        groups.setdefault(group, []).append((stored, program))
    for (key, epochs, last_epoch_only), members in groups.items():
        task = tasks[key.task, key.arithmetic]

        def compare(index: int, curve: Curve) -> None:
            steps = task.steps_per_epoch  # noqa: B023  # called before the next iteration
            on_verified(_compare(*members[index], curve, steps, tolerance, identity_value_of))  # noqa: B023

        train_candidates(
            task,
            [program for _, program in members],
            epochs,
            key.seed,
            on_step=on_step,
            on_curve=compare,
            last_epoch_only=last_epoch_only,
        )


def _training(stored: StoredRecord, tasks: dict[tuple[str, str], Task], device: str) -> tuple[ResultKey, Candidate]:
    """Returns the key and the program of a record.

    Raises a ValueError with the reason if the program can't be trained again here.
    """
    if "program" not in stored.record.provenance:
        raise ValueError("its provenance does not name the program that was trained")
    program = candidate_from_json(stored.record.provenance["program"])
    key = ResultKey.parse(stored.key)
    if (name := (key.task, key.arithmetic)) not in tasks:
        tasks[name] = make_task(key.task, device, key.arithmetic)
    if tasks[name].version != key.task_version:
        raise ValueError(f"it is of version {key.task_version} of the task; here is version {tasks[name].version}")
    return key, program


def _compare(
    stored: StoredRecord,
    program: Candidate,
    curve: Curve,
    steps_per_epoch: int,
    tolerance: float | None,
    identity_value_of: IdentityValueOf | None,
) -> Verified:
    record = stored.record
    again = Record(tuple(curve.epoch_means.tolist()), curve.stopped_at, {}, curve.first_epoch)
    reads_gradient = not isinstance(program, Program) or step_codes(program).reads_gradient
    exact_epochs = _SHORT // steps_per_epoch if reads_gradient else math.inf
    end = record.first_epoch + len(record.epoch_means)
    differences = []
    for epoch in range(max(record.first_epoch, again.first_epoch), end):
        loss = mean(record, epoch)
        allowed = (EXACT if epoch < exact_epochs else NOISE) if tolerance is None else tolerance
        allowed *= max(1.0, abs(loss)) if math.isfinite(loss) else 1.0
        differences.append((difference(loss, mean(again, epoch)), allowed))
    worst, allowed = max(differences, key=lambda pair: pair[0] - pair[1])
    return Verified(
        stored=stored,
        program=program,
        again=again,
        difference=worst,
        tolerance=allowed,
        within=worst <= allowed,
        identity=_identity(ResultKey.parse(stored.key), program, end, identity_value_of),
    )


def _identity(
    key: ResultKey, program: Candidate, epochs: int, identity_value_of: IdentityValueOf | None
) -> IdentityVerdict:
    if not isinstance(program, Program):
        return "same" if program.identity_value(epochs) == key.identity_value else "other"
    value = None if identity_value_of is None else identity_value_of(program, key)
    if value is None:
        return "not compared"
    return "same" if value == key.identity_value or _nearly_equal(value, key.identity_value) else "other"


def _nearly_equal(first: str, second: str) -> bool:
    """Returns True for hexadecimal floats that differ by rounding between processors."""
    values = [identity_value.partition(":")[2] for identity_value in (first, second)]
    if not all("0x" in value for value in values):  # digests are hexadecimal too
        return False
    try:
        return math.isclose(*map(float.fromhex, values), rel_tol=_IDENTITY_ROUNDING)
    except (ValueError, OverflowError):
        return False
