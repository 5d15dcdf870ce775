"""The paper's task: training a small PFN on Bayesian linear regression (Section 3.3 and Appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from pfns.model.bar_distribution import FullSupportBarDistribution, get_bucket_borders
from torch import Tensor, nn

from nosbench_env.program import Program
from nosbench_env.tasks import check_epochs, check_seed
from nosbench_env.tasks.pfn_model import PFN
from nosbench_env.tasks.priors import sample_ridge_regression
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep
from nosbench_env.tasks.training import (
    exact_arithmetic,
    resolve_device,
    seeded,
    train_model,
    train_programs_in_turn,
)

NUM_DATASETS, NUM_POINTS, NUM_FEATURES = 8, 20, 1  # a batch
NUM_BUCKETS = 100
NUM_BORDER_DATASETS = 100_000  # data sets whose quantiles are the bucket borders

# Seeds of the paper's code, at seed 0. Other seeds are so far off that no stream is shared.
BASE_SEED = 42
SEED_STRIDE = 10**6


class PFNTask:
    """Trains a Prior-Data Fitted Network for Bayesian ridge regression, as the paper's benchmark does.

    Each step draws 8 data sets of 20 points and the number of points that are context, 0 to 19; the loss is the mean
    negative log likelihood of the others, in nats per point. At seed 0 data, context sizes, bucket borders and initial
    weights are those of the paper's code.

    The loss of a run is noisy: float rounding alone moves AdamW's final loss by 0.08 and other seeds by as much, so
    rankings closer than 0.15 need several seeds.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: If the device is unknown or not available.
    """

    name = "pfn"
    version = 1
    arithmetic = "float32"
    default_epochs = 20  # Appendix F
    steps_per_epoch = 100

    def __init__(self, device: str = "auto") -> None:
        self.device = resolve_device(device)

    def train(
        self,
        make_optimizer: MakeOptimizer,
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        checkpoint: Path | str | None = None,
    ) -> Curve:
        """Trains with any optimizer; see `Task.train`."""
        epochs, seed = check_epochs(epochs) or self.default_epochs, check_seed(seed)
        with exact_arithmetic():
            contexts = context_sizes(epochs * self.steps_per_epoch, seed)
            # The loss of pfns counts what it has seen in its buffers; a fresh one leaves no trace between trainings.
            criterion = FullSupportBarDistribution(bucket_borders(), ignore_nan_targets=True).to(self.device)
            with seeded(BASE_SEED + SEED_STRIDE * seed):
                model = PFN(NUM_FEATURES, NUM_BUCKETS).to(self.device)

            def batch_loss(model: nn.Module, step: int) -> Tensor:
                x, y = (data.to(self.device) for data in sample_batch(step, seed))
                num_context = contexts[step]
                losses = criterion(model(x, y, num_context), y[num_context:].contiguous())
                loss: Tensor = losses.mean(dim=0).nanmean()
                return loss

            return train_model(self, model, batch_loss, make_optimizer, epochs, seed, on_step, checkpoint)

    def train_programs(
        self,
        programs: Sequence[Program],
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        on_curve: OnCurve | None = None,
        last_epoch_only: bool = False,
    ) -> list[Curve]:
        """Trains once with each program; see `Task.train_programs`."""
        return train_programs_in_turn(self, programs, epochs, seed, on_step, on_curve)


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
