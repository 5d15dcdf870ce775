"""The data of the PFN task: the prior's draws for each step, drawn once (paper, Appendix C)."""

from __future__ import annotations

import math
from functools import cache, lru_cache

import torch
from pfns.model.bar_distribution import FullSupportBarDistribution, get_bucket_borders
from torch import Tensor

from nosbench_env.execution.numerics import seeded
from nosbench_env.tasks.pfn_model import PFN, standardise
from nosbench_env.tasks.pfn_population import Batch, Batches
from nosbench_env.tasks.priors import sample_ridge_regression

NUM_DATASETS, NUM_POINTS, NUM_FEATURES = 8, 20, 1  # a batch
NUM_BUCKETS = 100
NUM_BORDER_DATASETS = 100_000  # data sets whose quantiles are the bucket borders
BATCHES_TOGETHER = 100  # are drawn and kept together

# Seeds of the paper's code, at seed 0. Other seeds are so far off that no stream is shared.
BASE_SEED = 42
SEED_STRIDE = 10**6


def initial_model(seed: int = 0) -> PFN:
    """The model as every training with this seed starts, on the CPU."""
    with seeded(BASE_SEED + SEED_STRIDE * seed):
        return PFN(NUM_FEATURES, NUM_BUCKETS)


def sample_batch(step: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The batch of a step (counted over the whole training), on the CPU: `x` `(20, 8, 1)` and `y` `(20, 8)`."""
    generator = torch.Generator().manual_seed(step + SEED_STRIDE * seed)
    return sample_ridge_regression(generator, NUM_DATASETS, NUM_POINTS, NUM_FEATURES)


def context_sizes(num_steps: int, seed: int = 0) -> list[int]:
    """How many points are context in each of the first `num_steps` steps."""
    generator = torch.Generator().manual_seed(BASE_SEED + SEED_STRIDE * seed)
    sizes: list[int] = torch.randint(NUM_POINTS, (num_steps,), generator=generator).tolist()
    return sizes


@cache
def bucket_borders() -> Tensor:
    """The 101 borders of the predicted distribution's buckets: quantiles of the prior, the same for every seed."""
    generator = torch.Generator().manual_seed(BASE_SEED)
    _, y = sample_ridge_regression(generator, NUM_BORDER_DATASETS, NUM_POINTS, NUM_FEATURES)
    borders: Tensor = get_bucket_borders(NUM_BUCKETS, ys=y)
    return borders


def batch_of(step: int, seed: int = 0) -> Batch:
    """The batch of a step, counted over the whole training."""
    block, place = divmod(step, BATCHES_TOGETHER)
    return block_of_batches(block, seed).at(place)


@lru_cache(maxsize=100)  # 26 MB: five trainings of the paper's length, each with a seed of its own
def block_of_batches(block: int, seed: int = 0) -> Batches:
    """The batches of steps `100 * block` to `100 * block + 99` in the form that populations train on, on the CPU."""
    drawn = [sample_batch(step, seed) for step in range(block * BATCHES_TOGETHER, (block + 1) * BATCHES_TOGETHER)]
    x = torch.stack([x for x, _ in drawn])  # (steps, points, data sets, 1)
    y = torch.stack([y for _, y in drawn])
    # The loss without the network: with equal logits it is log(buckets) and what the label's place in its bucket adds.
    criterion = FullSupportBarDistribution(bucket_borders().double())
    equal = torch.zeros(*y.shape, NUM_BUCKETS, dtype=torch.float64)
    offset = criterion(equal, y.double()) - math.log(NUM_BUCKETS)
    bucket = criterion.map_to_bucket_idx(y.double()).clamp(0, NUM_BUCKETS - 1)
    rows = (BATCHES_TOGETHER, NUM_POINTS * NUM_DATASETS)
    return Batches(
        standardise(x).view(*rows, 1), y.view(*rows, 1), bucket.view(*rows, 1), offset.float().view(rows), NUM_DATASETS
    )
