import numpy as np

from nosbench_env import Curve
from nosbench_env.identity.probe import ANY_PROBE
from nosbench_env.tasks.task import probe_of
from nosbench_env.tasks.toy import TOY_PROBE, ToyTask

STEP_LOSSES = np.array([[1.0, 3.0], [0.5, np.nan]])


def test_epochs_have_the_mean_of_their_steps() -> None:
    np.testing.assert_array_equal(Curve(STEP_LOSSES).epoch_means, [2.0, np.nan])


def test_epochs_have_the_validation_loss_where_there_is_one() -> None:
    validation_losses = np.array([0.75, 0.25])
    curve = Curve(STEP_LOSSES, validation_losses=validation_losses)
    np.testing.assert_array_equal(curve.epoch_means, validation_losses)


def test_a_task_without_a_probe_has_the_probe_for_any_task() -> None:
    class Plain:
        name = "plain"

    assert probe_of(ToyTask) == probe_of(ToyTask("cpu")) == TOY_PROBE
    assert probe_of(Plain) == ANY_PROBE
