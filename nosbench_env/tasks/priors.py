"""Priors: the distributions of a PFN's data sets (paper, Appendix C)."""

from __future__ import annotations

import torch
from torch import Tensor

NOISE_STD = 0.1  # a in Appendix C
WEIGHT_STD = 1.0  # b in Appendix C; the paper does not state it, its code uses 1


def sample_ridge_regression(
    generator: torch.Generator, num_datasets: int, num_points: int, num_features: int
) -> tuple[Tensor, Tensor]:
    """Draws data sets from Bayesian linear regression with an intercept.

    `y ~ N(w . [x, 1], a^2)`, `w ~ N(0, b^2 I)`. Weights, inputs and noise are drawn in the order of the paper's code,
    so that its seeds give its data.

    Returns:
        `x`, `(num_points, num_datasets, num_features)` float32 uniform in [0, 1], and
        `y`, `(num_points, num_datasets)` float32.
    """
    weights = torch.randn(num_datasets, num_features + 1, generator=generator) * WEIGHT_STD
    x = torch.rand(num_datasets, num_points, num_features, generator=generator)
    with_intercept = torch.cat([x, torch.ones(num_datasets, num_points, 1)], dim=-1)
    mean = torch.einsum("nmf, nf -> nm", with_intercept, weights)
    y = torch.normal(mean, torch.full_like(mean, NOISE_STD), generator=generator)
    return x.transpose(0, 1), y.transpose(0, 1)
