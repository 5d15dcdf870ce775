from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, Curve, Program, ProgramOptimizer, make_task
from nosbench_env.tasks.pfn import PFNTask

PFN_TASK = make_task("pfn", "cpu")


def check_curve(curve: Curve, expected: dict[str, Any], name: str, epochs: int) -> None:
    """The tolerances that float rounding leaves (long runs of adaptive optimizers are chaotic).

    Processors draw random numbers and sum up products differently, in the last place. A unit in the last place of a
    first loss, of about 5 nats, is 5e-7; with torch's kernels for any processor the first steps differ by 1.2e-6.

    Of AdamW on one processor, ten runs that start within one unit in the last place end their first epoch between
    -0.07 and +0.03 of the reference, whichever of our paths they take; single later epochs differ by up to 0.22, the
    last by 0.06.
    """
    difference = np.abs(curve.step_losses[0] - expected["epoch0_step_losses"])
    assert difference[:11].max() < 3e-6
    assert difference[20] < 1e-4
    means = np.abs(curve.epoch_means - expected["epoch_means"][:epochs])
    if name == "SGD":
        assert means.max() < 1e-3
    else:
        assert means[0] < 0.15
        assert means[-1] < 0.15


@pytest.mark.parametrize("name", ["AdamW", "Incumbent", "SGD", "Adadelta"])
def test_first_epoch_is_the_papers_codes(name: str, pfn_curves: dict[str, Any]) -> None:
    expected = pfn_curves["programs"][name]
    program = Program.from_json(expected["program"])
    assert program == KNOWN_PROGRAMS[name]
    check_curve(PFN_TASK.train_programs([program], epochs=1)[0], expected, name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AdamW", "Incumbent", "SGD", "Adadelta"])
def test_all_twenty_epochs_are_the_papers_codes(name: str, pfn_curves: dict[str, Any]) -> None:
    expected = pfn_curves["programs"][name]
    check_curve(PFN_TASK.train_programs([KNOWN_PROGRAMS[name]], epochs=20)[0], expected, name, 20)


def test_training_in_two_parts_equals_training_in_one_go(tmp_path: Path) -> None:
    task = make_task("pfn", "cpu")
    task.steps_per_epoch = 4  # short epochs; everything else as it is
    make_optimizer = partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"])
    whole = task.train(make_optimizer, epochs=3)
    task.train(make_optimizer, epochs=1, checkpoint=tmp_path / "c.pt")
    parts = task.train(make_optimizer, epochs=3, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(parts.step_losses, whole.step_losses)


@pytest.mark.slow
def test_twenty_epochs_in_two_parts_equal_twenty_in_one_go(tmp_path: Path) -> None:
    make_optimizer = partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"])
    whole = PFN_TASK.train(make_optimizer, epochs=20)
    PFN_TASK.train(make_optimizer, epochs=7, checkpoint=tmp_path / "c.pt")
    parts = PFN_TASK.train(make_optimizer, epochs=20, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(parts.step_losses, whole.step_losses)


def test_callers_precision_and_threads_do_not_matter() -> None:
    task = make_task("pfn", "cpu")
    task.steps_per_epoch = 3
    make_optimizer = partial(torch.optim.SGD, lr=0.1)
    expected = task.train(make_optimizer, epochs=1)
    torch.set_default_dtype(torch.float64)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        changed = task.train(make_optimizer, epochs=1)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(changed.step_losses, expected.step_losses)


@pytest.mark.parametrize("population", [0, -1, 1.5, True, "2"])
def test_bad_population_sizes_are_refused(population: Any) -> None:
    with pytest.raises(ValueError, match=r"population .* got"):
        PFNTask("cpu", population=population)


def test_reduced_precision_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"'tf32'.*'cpu'.*'float32'"):
        make_task("pfn", "cpu", "tf32")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["AdamW", "Incumbent", "SGD", "Adadelta"])
def test_gpu_curve_is_the_papers_codes(name: str, pfn_curves: dict[str, Any]) -> None:
    expected = pfn_curves["programs"][name]
    curve = make_task("pfn", "cuda").train_programs([KNOWN_PROGRAMS[name]], epochs=2)[0]
    check_curve(curve, expected, name, 2)
