"""The training loop, on the toy task: losses, deaths, checkpoints."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, make_task
from nosbench_env.language.status import loss_status
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.training import MAX_GRAD_NORM, Learner, train_learners

ADAMW = partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"])
TOY = make_task("toy", "cpu")
# Sets the parameters to NaN in the update of step 25: log(2.5 - 0.1 * step) turns NaN there.
DIES_AT_26 = Program.parse(
    "r9 = mul(0.1, step); r10 = add(1.0, 1.0); r10 = add(r10, 0.5); r9 = sub(r10, r9); r9 = add(r9, 0.01)"
    "; r9 = log(r9); r9 = mul(r9, 1e-06)"
)


def test_curve_holds_each_steps_loss_before_its_update() -> None:
    curve = TOY.train(ADAMW, epochs=2)
    assert curve.step_losses.shape == (2, 10)
    assert curve.stopped_at is None
    np.testing.assert_array_equal(curve.epoch_means, curve.step_losses.mean(axis=1))
    still = TOY.train(partial(ProgramOptimizer, program=Program()), epochs=1)
    assert curve.step_losses[0, 0] == still.step_losses[0, 0]


def line_learner(slope: float, trace: list[str]) -> Learner:
    """A model of one weight `w` with the loss `slope * w`, and the validation loss `w`."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def validation_loss() -> float:
        trace.append(f"validated, gradients {torch.is_grad_enabled()}")
        return float(model.weight.item())

    return Learner(model, lambda step: slope * model.weight.sum() + step, validation_loss)


def test_models_side_by_side_share_a_curve_and_clip_on_their_own() -> None:
    trace: list[str] = []
    learners = [line_learner(4.0, trace), line_learner(0.5, trace)]  # the first gradient is clipped to 1
    task = make_task("toy", "cpu")
    task.steps_per_epoch = 2
    curve = train_learners(task, learners, partial(torch.optim.SGD, lr=1.0), 2, 0, None, None)
    assert MAX_GRAD_NORM == 1.0
    # weights after update k are -k and -k / 2
    expected = [(-4.0 * k + 0.5 * -0.5 * k) / 2 + k for k in range(4)]
    np.testing.assert_allclose(curve.step_losses.ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(curve.validation_losses, [(-2 - 1) / 2, (-4 - 2) / 2], rtol=1e-5)
    assert trace == ["validated, gradients False"] * 4


def test_validation_uses_the_weights_that_an_optimizer_is_judged_by() -> None:
    modes: list[str] = []

    class WithModes(torch.optim.SGD):
        def eval(self) -> None:
            modes.append("eval")

        def train(self) -> None:
            modes.append("train")

    learner = line_learner(1.0, modes)
    task = make_task("toy", "cpu")
    task.steps_per_epoch = 1
    train_learners(task, [learner], partial(WithModes, lr=1.0), 2, 0, None, None)
    assert modes == ["eval", "validated, gradients False", "train"] * 2


@pytest.mark.parametrize("name", ["AdamW", "Adadelta", "Incumbent"])
def test_training_in_two_parts_equals_training_in_one_go(name: str, tmp_path: Path) -> None:
    make_optimizer = partial(ProgramOptimizer, program=KNOWN_PROGRAMS[name])
    whole = TOY.train(make_optimizer, epochs=6)
    file = tmp_path / "folder" / "checkpoint.pt"
    part = TOY.train(make_optimizer, epochs=2, checkpoint=file)
    np.testing.assert_array_equal(part.step_losses, whole.step_losses[:2])
    steps: list[int] = []
    rest = TOY.train(make_optimizer, epochs=6, checkpoint=file, on_step=lambda progress: steps.append(progress.step))
    np.testing.assert_array_equal(rest.step_losses, whole.step_losses)
    assert steps == list(range(21, 61))
    again = TOY.train(make_optimizer, epochs=4, checkpoint=file)  # the file has gone further already
    np.testing.assert_array_equal(again.step_losses, whole.step_losses[:4])


def test_interrupted_training_resumes_at_its_last_whole_epoch(tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TOY.train(ADAMW, epochs=4, checkpoint=tmp_path / "c.pt", on_step=interrupt)
    steps: list[int] = []
    curve = TOY.train(ADAMW, epochs=4, checkpoint=tmp_path / "c.pt", on_step=lambda p: steps.append(p.step))
    assert steps[0] == 21
    np.testing.assert_array_equal(curve.step_losses, TOY.train(ADAMW, epochs=4).step_losses)
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


def test_torch_optimizers_resume_too(tmp_path: Path) -> None:
    make_optimizer = partial(torch.optim.Adam, lr=1e-2)
    whole = TOY.train(make_optimizer, epochs=3)
    TOY.train(make_optimizer, epochs=1, checkpoint=tmp_path / "c.pt")
    parts = TOY.train(make_optimizer, epochs=3, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(parts.step_losses, whole.step_losses)


def test_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    TOY.train(ADAMW, epochs=1, checkpoint=file)
    before = file.read_bytes()
    others = [
        partial(ProgramOptimizer, program=KNOWN_PROGRAMS["SGD"]),
        partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"], lr=0.5),
        partial(torch.optim.SGD, lr=1.0),
    ]
    with pytest.raises(ValueError, match=r"belongs to another training\.\nExpected: toy version 1 seed 1"):
        TOY.train(ADAMW, epochs=2, seed=1, checkpoint=file)
    for other in others:
        with pytest.raises(ValueError, match="belongs to another training"):
            TOY.train(other, epochs=2, checkpoint=file)
    assert file.read_bytes() == before
    for settings in ({"lr": 0.1}, {"lr": 0.01}):
        TOY.train(partial(torch.optim.SGD, **settings), epochs=1, checkpoint=tmp_path / f"{settings['lr']}.pt")
    with pytest.raises(ValueError, match="belongs to another training"):
        TOY.train(partial(torch.optim.SGD, lr=0.1), epochs=2, checkpoint=tmp_path / "0.01.pt")
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"can't resume from .*damaged"):
        TOY.train(ADAMW, epochs=2, checkpoint=file)


def test_training_stops_when_a_parameter_is_not_finite() -> None:
    steps: list[int] = []
    curve = TOY.train_programs([DIES_AT_26], epochs=4, on_step=lambda progress: steps.append(progress.step))[0]
    assert curve.stopped_at == steps[-1] == 26
    assert np.isfinite(curve.step_losses.ravel()[:26]).all()
    assert np.isnan(curve.step_losses.ravel()[26:]).all()
    assert [loss_status(mean) for mean in curve.epoch_means] == ["ok", "ok", "nan", "nan"]


def test_dying_in_the_very_last_update_leaves_a_finite_curve_that_says_so() -> None:
    # Its step 20 is the last of epoch 2: the losses, taken before the updates, are all finite.
    dies_at_20 = Program.parse(str(DIES_AT_26).replace("add(r10, 0.5)", "sub(r10, 0.1)") + "\n")
    curve = TOY.train_programs([dies_at_20], epochs=2)[0]
    assert curve.stopped_at == 20
    assert np.isfinite(curve.step_losses).all()


def test_a_curve_asked_shorter_than_its_checkpoint_does_not_know_of_a_later_death(tmp_path: Path) -> None:
    make_optimizer = partial(ProgramOptimizer, program=DIES_AT_26)
    long = TOY.train(make_optimizer, epochs=4, checkpoint=tmp_path / "c.pt")
    short = TOY.train(make_optimizer, epochs=2, checkpoint=tmp_path / "c.pt")
    assert (long.stopped_at, short.stopped_at) == (26, None)
    again = TOY.train(make_optimizer, epochs=4, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(again.step_losses, long.step_losses)
    assert again.stopped_at == 26


def test_huge_finite_parameters_do_not_stop_training() -> None:
    # Updates of 1e24: the squares overflow in float32, and so does the loss; the values do not.
    leap = Program.parse("r9 = div(0.001, 1e-06); r9 = square(r9); r9 = square(r9); r9 = square(r9)")
    curve = TOY.train_programs([leap], epochs=1)[0]
    assert not np.isfinite(curve.step_losses).all()
    assert curve.stopped_at is None
