"""Trainings with update norms, and on the proxy."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, ProgramOptimizer, fingerprint, make_task
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.studies.figure5_training import plain_optimizer, train_on_proxy, train_with_norms

WILD = Program.parse("r9 = div(step, r10)")  # infinite at once
ADAMW = OptimizerConfig("torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.1}, "cosine")


@pytest.mark.parametrize(
    "candidate",
    [KNOWN_PROGRAMS["Incumbent"], KNOWN_PROGRAMS["Adadelta"], ADAMW],
    ids=["Incumbent", "Adadelta", "config"],
)
def test_watching_does_not_change_a_training(oracle: Oracle, candidate: Any) -> None:
    curve, norms = train_with_norms(oracle.task, candidate, 3, 1)
    assert curve.epoch_means.tolist() == list(oracle.query(candidate, 3, 1).curve)  # to the last bit
    assert norms.shape == (30,)
    assert (norms > 0).all()


def test_update_norms_are_the_distances_between_parameters() -> None:
    task = make_task("toy", "cpu")
    weights: list[np.ndarray] = []

    def make_optimizer(params):
        params = list(params)
        optimizer = plain_optimizer(ADAMW, params, 2, task.steps_per_epoch)

        def keep(*_: Any) -> None:
            weights.append(np.concatenate([param.detach().double().numpy().ravel() for param in params]))

        keep()
        optimizer.register_step_post_hook(keep)
        return optimizer

    task.train(make_optimizer, 2)
    expected = [np.linalg.norm(after - before) for before, after in pairwise(weights)]
    _, norms = train_with_norms(task, ADAMW, 2, 0)
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_the_norm_of_sgd_is_its_rate_times_that_of_the_clipped_gradient() -> None:
    _, norms = train_with_norms(make_task("toy", "cpu"), Program.parse("r9 = mul(grad, 0.1)"), 1, 0)
    assert (norms <= 0.1 * (1 + 1e-6)).all()  # gradients are clipped to a norm of 1


def test_steps_after_a_blow_up_have_no_norm() -> None:
    curve, norms = train_with_norms(make_task("toy", "cpu"), WILD, 1, 0)
    assert curve.stopped_at == 1
    assert not np.isfinite(norms).any()
    assert len(norms) == 10


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_the_proxy_is_the_one_of_the_papers_fingerprint(name: str) -> None:
    average = 0.0
    for loss in train_on_proxy(KNOWN_PROGRAMS[name], 10).tolist():
        average = 0.9 * average + 0.1 * loss
    assert average == fingerprint(KNOWN_PROGRAMS[name], "paper").value


def test_the_proxy_has_other_draws_and_takes_configs() -> None:
    first, second = (train_on_proxy(ADAMW, 30, seed) for seed in (0, 1))
    assert first[0] != second[0]
    assert first[-1] < first[0]
    assert second[-1] < second[0]


def test_the_proxy_ends_with_the_parameter() -> None:
    losses = train_on_proxy(WILD, 5)
    assert math.isfinite(losses[0])
    assert np.isnan(losses[1:]).all()


def test_a_task_of_several_models_has_one_norm_a_step() -> None:
    task = make_task("mlp-iris", "cpu")
    curve, norms = train_with_norms(task, Program.parse("r9 = mul(grad, 0.1)"), 2, 0)
    assert norms.shape == (curve.step_losses.size,)
    # Ten models, each of whose gradients is clipped to a norm of 1.
    assert (norms <= 0.1 * 10**0.5 * (1 + 1e-6)).all()
    assert (norms > 0.1).all()


def test_programs_are_run_by_the_plain_optimizer() -> None:
    optimizer = plain_optimizer(KNOWN_PROGRAMS["SGD"], [torch.nn.Parameter(torch.ones(2))], 1, 1)
    assert isinstance(optimizer, ProgramOptimizer)
    assert not optimizer.fused
