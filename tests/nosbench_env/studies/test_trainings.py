from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, Program, make_task
from nosbench_env.studies.trainings import FIRST_STEPS, TrainingLog, final_losses, first_losses

ADAM, SGD = KNOWN_PROGRAMS["Adam"], KNOWN_PROGRAMS["SGD"]
CONSTANT = Program.parse("r9 = mul(0.01, 0.1)")  # reads no gradient


def trained(train: Callable, programs: Sequence[Program]) -> list[list[float]]:
    losses_of: dict[int, list[float]] = {}
    train(programs, lambda index, losses: losses_of.__setitem__(index, losses.tolist()))
    return [losses_of[index] for index in range(len(programs))]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_first_losses_are_the_first_of_the_ordinary_pfn_task(workers: int) -> None:
    programs = [ADAM, CONSTANT]
    task = make_task("pfn", "cpu")
    assert task.steps_per_epoch == 100  # left alone by what came before
    whole = [curve.step_losses[0, :FIRST_STEPS].tolist() for curve in task.train_programs(programs, epochs=1)]
    assert trained(first_losses("pfn", "cpu", workers), programs) == whole


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_first_losses_on_the_toy_task_go_over_several_epochs(workers: int) -> None:
    programs = [ADAM, SGD]
    curves = make_task("toy", "cpu").train_programs(programs, epochs=3)
    expected = [curve.step_losses.ravel()[:FIRST_STEPS].tolist() for curve in curves]
    assert trained(first_losses("toy", "cpu", workers), programs) == expected


def test_final_losses_are_means_of_the_last_epoch() -> None:
    curves = make_task("toy", "cpu").train_programs([ADAM, SGD], epochs=2)
    expected = [[curve.epoch_means[-1]] for curve in curves]
    assert trained(final_losses("toy", "cpu", 1, epochs=2), [ADAM, SGD]) == expected


class Recorder:
    """Stands in for training; the loss of a program is its length."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.programs: list[Program] = []
        self._interrupt_after = interrupt_after

    def __call__(self, programs: Sequence[Program], on_losses: Callable) -> None:
        for index, program in enumerate(programs):
            if len(self.programs) == self._interrupt_after:
                raise KeyboardInterrupt
            self.programs.append(program)
            on_losses(index, np.array([float(len(program)), np.nan, -np.inf]))


def test_a_program_is_trained_once(tmp_path: Path) -> None:
    train = Recorder()
    log = TrainingLog(tmp_path / "log.jsonl", train, print)
    assert set(log.losses([ADAM, SGD, ADAM])) == {ADAM, SGD}
    log.losses([SGD])
    again = TrainingLog(tmp_path / "log.jsonl", train, print).losses([CONSTANT, ADAM])
    assert train.programs == [ADAM, SGD, CONSTANT]
    np.testing.assert_equal(again[ADAM], [float(len(ADAM)), np.nan, -np.inf])


def test_what_was_trained_before_an_interrupt_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        TrainingLog(tmp_path / "log.jsonl", Recorder(interrupt_after=1), print).losses([ADAM, SGD])
    train = Recorder()
    assert len(TrainingLog(tmp_path / "log.jsonl", train, print).losses([ADAM, SGD])) == 2
    assert train.programs == [SGD]


def test_a_line_cut_short_by_a_kill_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    TrainingLog(file, Recorder(), print).losses([ADAM, SGD])
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    train = Recorder()
    TrainingLog(file, train, print).losses([ADAM, SGD])
    assert train.programs == [SGD]
    assert file.read_bytes() == whole


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    TrainingLog(file, Recorder(), print).losses([ADAM, SGD])
    file.write_bytes(file.read_bytes().replace(b'"losses"', b'"lasses"', 1))
    with pytest.raises(ValueError, match=r"log.jsonl, line 1, is damaged"):
        TrainingLog(file, Recorder(), print)
