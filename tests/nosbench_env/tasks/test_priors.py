import torch

from nosbench_env.tasks.priors import sample_ridge_regression


def test_prior_is_ridge_regression() -> None:
    x, y = sample_ridge_regression(torch.Generator().manual_seed(0), 20_000, 20, 1)
    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 0.5) < 0.01
    # y = w1 x + w0 + noise: variance E[x^2] + 1 + 0.01 over data sets
    assert abs(y.var() - (1 / 3 + 1 + 0.01)) < 0.03
    design = torch.stack([x[:, 0, 0], torch.ones(20)], dim=1)
    residual = y[:, 0] - design @ torch.linalg.lstsq(design, y[:, :1]).solution[:, 0]
    assert 0.05 < residual.std() < 0.2
