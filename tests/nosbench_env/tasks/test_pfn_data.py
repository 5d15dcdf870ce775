from typing import Any

import numpy as np
import torch
from pfns.model.bar_distribution import FullSupportBarDistribution

from nosbench_env.tasks.pfn_data import (
    bucket_borders,
    context_sizes,
    initial_model,
    prepared_batch,
    prepared_batches,
    sample_batch,
)
from nosbench_env.tasks.pfn_model import standardise


def test_borders_are_the_papers_codes(pfn_curves: dict[str, Any]) -> None:
    # Random numbers of torch differ in the last place between processors; buckets are 1e-2 wide or more.
    np.testing.assert_allclose(bucket_borders().numpy(), pfn_curves["borders"], rtol=0, atol=2e-6)


def test_data_depend_on_step_and_seed_alone() -> None:
    assert all(torch.equal(a, b) for a, b in zip(sample_batch(7), sample_batch(7), strict=True))
    x, y = sample_batch(7)
    assert (x.shape, y.shape) == ((20, 8, 1), (20, 8))
    assert not torch.equal(x, sample_batch(8)[0])
    assert not torch.equal(x, sample_batch(7, seed=1)[0])
    assert context_sizes(8) == [2, 7, 16, 14, 6, 15, 0, 4]
    assert context_sizes(300)[:50] == context_sizes(50)
    assert set(context_sizes(2000)) == set(range(20))
    assert context_sizes(50, seed=1) != context_sizes(50)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (torch.cat([p.flatten() for p in initial_model(seed).parameters()]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_prepared_batches_are_the_drawn_ones() -> None:
    for step in (0, 99, 100):  # the first two are of one block
        x, y = sample_batch(step)
        batch = prepared_batch(step)
        assert torch.equal(batch.x.view(20, 8, 1), standardise(x))
        assert torch.equal(batch.y.view(20, 8), y)
    block = prepared_batches(0)
    by_number, by_tensor = block.at(7), block.at(torch.tensor([7]))
    assert all(torch.equal(a, b) for a, b in zip(by_number[:4], by_tensor[:4], strict=True))


def test_the_loss_of_labels_beyond_the_borders_is_that_of_pfns() -> None:
    """The outermost buckets have tails; no label of the usual steps lies there."""
    borders = bucket_borders()
    step = next(
        step
        for step in range(400)
        if (sample_batch(step)[1] > borders[-2]).any() or (sample_batch(step)[1] < borders[1]).any()
    )
    criterion = FullSupportBarDistribution(borders.double())
    _, y = sample_batch(step)
    logits = torch.randn(20, 8, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = criterion(logits, y.double().contiguous())
    batch = prepared_batch(step)
    log_probabilities = torch.log_softmax(logits, -1).view(160, 100).gather(-1, batch.bucket).squeeze(-1)
    torch.testing.assert_close(batch.offset - log_probabilities, expected.view(160), rtol=0, atol=1e-6)
