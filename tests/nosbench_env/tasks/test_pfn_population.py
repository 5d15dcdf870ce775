"""The written-out passes of a population against `PFN`, autograd and the loss of pfns, in float64."""

import math

import pytest
import torch
from pfns.model.bar_distribution import FullSupportBarDistribution
from torch import Tensor

from nosbench_env.tasks.pfn_data import bucket_borders, prepared_batch, sample_batch
from nosbench_env.tasks.pfn_model import PFN, standardise
from nosbench_env.tasks.pfn_population import Batch, PFNPopulation

STEP = 3  # whose data are used


def models(count: int) -> list[PFN]:
    """Models with weights that differ from each other and from the initial ones."""
    torch.manual_seed(0)
    made = [PFN(1, 100).double() for _ in range(count)]
    for model in made:
        for param in model.parameters():
            param.data += torch.randn_like(param) * 0.1
    return made


def population_of(made: list[PFN]) -> PFNPopulation:
    rows = torch.stack([torch.cat([p.detach().reshape(-1) for p in model.parameters()]) for model in made])
    population = PFNPopulation(rows, [param.shape for param in made[0].parameters()])
    population.grads.fill_(torch.nan)
    return population


def batch(step: int = STEP) -> Batch:
    single = prepared_batch(step)
    x = standardise(sample_batch(step)[0].double()).reshape(single.x.shape)
    return single._replace(x=x, y=single.y.double(), offset=single.offset.double())


def autograd(model: PFN, num_context: int) -> tuple[Tensor, Tensor]:
    x, y = (data.double() for data in sample_batch(STEP))
    criterion = FullSupportBarDistribution(bucket_borders().double())
    model.zero_grad()
    losses = criterion(model(x, y, num_context), y[num_context:].contiguous())
    loss = losses.mean(dim=0).nanmean()
    loss.backward()
    return loss.detach(), torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("num_context", [0, 1, 5, 19])
@pytest.mark.parametrize("size", [1, 3])
def test_losses_and_gradients_are_autograds(size: int, num_context: int) -> None:
    made = models(size)
    population = population_of(made)
    losses = population.loss_and_gradients(batch(), num_context)
    torch.testing.assert_close(population.loss(batch(), num_context), losses)
    for number, model in enumerate(made):
        loss, grads = autograd(model, num_context)
        torch.testing.assert_close(losses[number], loss, rtol=0, atol=1e-6)  # the loss's constant is kept in float32
        torch.testing.assert_close(population.grads[number], grads, rtol=1e-9, atol=1e-12)


def test_a_data_set_whose_loss_is_nan_does_not_count_in_the_loss_but_spoils_the_gradient() -> None:
    """As with autograd: the mean leaves it out, and its NaN logits still reach every weight."""
    made = models(1)
    population = population_of(made)
    spoilt = batch()
    x = spoilt.x.clone()
    x.view(20, 8)[:, 2] = math.inf
    loss = population.loss_and_gradients(spoilt._replace(x=x), 5)
    assert loss.isfinite().all()
    assert population.grads.isnan().any()
    assert not torch.equal(loss, population.loss(batch(), 5))


def test_a_model_of_nans_does_not_touch_the_others() -> None:
    made = models(3)
    population = population_of(made)
    expected = population.loss_and_gradients(batch(), 7), population.grads.clone()
    population.weights[1] = torch.nan
    losses = population.loss_and_gradients(batch(), 7)
    assert losses[1].isnan()
    for number in (0, 2):
        assert torch.equal(losses[number], expected[0][number])
        assert torch.equal(population.grads[number], expected[1][number])


def test_dropped_models_are_gone_and_the_rest_as_they_were() -> None:
    population = population_of(models(3))
    losses = population.loss(batch(), 7)
    kept = population.keep([0, 2])
    assert kept.size == 2
    assert torch.equal(kept.weights, population.weights[[0, 2]])
    torch.testing.assert_close(kept.loss(batch(), 7), losses[[0, 2]])  # stacks of other sizes may round differently
