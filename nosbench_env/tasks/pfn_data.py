"""The PFN task's data, drawn from the prior (paper, Appendix C)."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import torch
from pfns.model.bar_distribution import FullSupportBarDistribution, get_bucket_borders
from torch import Tensor

from nosbench_env.execution.numerics import seeded
from nosbench_env.tasks.pfn_model import PFN, standardise
from nosbench_env.tasks.pfn_population import Batch
from nosbench_env.tasks.priors import sample_ridge_regression

NUM_DATASETS, NUM_POINTS, NUM_FEATURES = 8, 20, 1  # a batch
NUM_BUCKETS = 100
NUM_BORDER_DATASETS = 100_000  # the bucket borders are quantiles of their labels
BLOCK_SIZE = 100  # batches that are drawn and cached together

# The seeds of the paper's code, used at seed 0. The stride keeps the random streams of other seeds apart.
BASE_SEED = 42
SEED_STRIDE = 10**6


def initial_model(seed: int = 0) -> PFN:
    """Makes the initial model of trainings with this seed."""
    with seeded(BASE_SEED + SEED_STRIDE * seed):
        return PFN(NUM_FEATURES, NUM_BUCKETS)


def sample_batch(step: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws a training step's batch: `x` `(20, 8, 1)` and `y` `(20, 8)`."""
    generator = torch.Generator().manual_seed(step + SEED_STRIDE * seed)
    return sample_ridge_regression(generator, NUM_DATASETS, NUM_POINTS, NUM_FEATURES)


def context_sizes(num_steps: int, seed: int = 0) -> list[int]:
    """Draws the numbers of context points of all steps."""
    generator = torch.Generator().manual_seed(BASE_SEED + SEED_STRIDE * seed)
    sizes: list[int] = torch.randint(NUM_POINTS, (num_steps,), generator=generator).tolist()
    return sizes


@cache
def bucket_borders() -> Tensor:
    """Returns the 101 bucket borders: quantiles of the prior, equal for all seeds."""
    generator = torch.Generator().manual_seed(BASE_SEED)
    _, y = sample_ridge_regression(generator, NUM_BORDER_DATASETS, NUM_POINTS, NUM_FEATURES)
    borders: Tensor = get_bucket_borders(NUM_BUCKETS, ys=y)
    return borders


def prepared_batch(step: int, seed: int = 0) -> Batch:
    """Returns the batch of a step for populations, on the CPU."""
    block, place = divmod(step, BLOCK_SIZE)
    return prepared_batches(block, seed).at(place)


@lru_cache(maxsize=100)  # 26 MB: five trainings of the paper's length with five seeds
def prepared_batches(block: int, seed: int = 0) -> Batch:
    """Returns the batches of steps `100 * block` to `100 * block + 99`; see `prepared_batch`."""
    drawn = [sample_batch(step, seed) for step in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE)]
    x = torch.stack([x for x, _ in drawn])  # (steps, points, data sets, 1)
    y = torch.stack([y for _, y in drawn])
    # The loss of a label is the cross entropy of its bucket plus an offset, which depends on its place in the bucket.
    # With equal logits the cross entropy is log(buckets).
    criterion = FullSupportBarDistribution(bucket_borders().double())
    equal = torch.zeros(*y.shape, NUM_BUCKETS, dtype=torch.float64)
    offset = criterion(equal, y.double()) - math.log(NUM_BUCKETS)
    bucket = criterion.map_to_bucket_idx(y.double()).clamp(0, NUM_BUCKETS - 1)
    rows = (BLOCK_SIZE, NUM_POINTS * NUM_DATASETS)
    return Batch(
        standardise(x).view(*rows, 1), y.view(*rows, 1), bucket.view(*rows, 1), offset.float().view(rows), NUM_DATASETS
    )
