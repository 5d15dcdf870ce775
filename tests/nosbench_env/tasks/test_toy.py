import math
from functools import partial

import pytest
import torch

from nosbench_env.tasks.toy import BATCH_SIZE, ToyTask, iris

TOY = ToyTask("cpu")


def test_iris_is_standardised_and_has_three_species_of_fifty() -> None:
    features, species = iris()
    assert (features.shape, features.dtype) == ((150, 4), torch.float32)
    assert features.mean(dim=0).abs().max() < 1e-5
    assert (features.std(dim=0) - 1).abs().max() < 1e-5
    assert species.bincount().tolist() == [50, 50, 50]


def test_an_epoch_passes_once_over_all_flowers() -> None:
    """Without updates the mean of an epoch's batches, which are equal in size, is the loss on all flowers."""
    assert TOY.steps_per_epoch * BATCH_SIZE == len(iris()[0])
    (learner,) = TOY.learners(seed=3, steps=20)
    features, species = iris()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(learner.model(features), species).item()
        first, second = ([learner.batch_loss(step).item() for step in range(10 * e, 10 * e + 10)] for e in (0, 1))
    assert sum(first) / 10 == pytest.approx(expected, rel=1e-5)
    assert sum(second) / 10 == pytest.approx(expected, rel=1e-5)
    assert first != second  # in another order


def test_known_optimizers_learn_it() -> None:
    curve = TOY.train(partial(torch.optim.Adam, lr=1e-2))
    assert curve.epoch_means[0] > 0.7 > 0.3 > curve.epoch_means[-1]
    assert curve.step_losses[0, 0] == pytest.approx(math.log(3), abs=0.3)


def test_a_task_made_on_another_default_device_trains() -> None:
    expected = TOY.train(partial(torch.optim.SGD, lr=0.1), epochs=1)
    iris.cache_clear()
    try:
        with torch.device("meta"):
            task = ToyTask("cpu")
        assert (task.train(partial(torch.optim.SGD, lr=0.1), epochs=1).step_losses == expected.step_losses).all()
    finally:
        iris.cache_clear()
