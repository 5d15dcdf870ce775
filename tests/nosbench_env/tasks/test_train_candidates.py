from functools import partial

import numpy as np
import torch

from nosbench_env import KNOWN_PROGRAMS, Curve, OptimizerConfig, Program, TunedProgram, make_task
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.train_candidates import train_candidates

TOY = make_task("toy", "cpu")
SGD = OptimizerConfig("torch.optim.SGD", {"lr": 0.1})
TUNED = TunedProgram(KNOWN_PROGRAMS["SGD"], lr=2.0)
CANDIDATES = [SGD, KNOWN_PROGRAMS["Adam"], TUNED, Program()]


def test_candidates_of_all_kinds_train_under_their_own_indices() -> None:
    curves: dict[int, Curve] = {}
    progress: list[Progress] = []
    train_candidates(TOY, CANDIDATES, 2, 1, on_step=progress.append, on_curve=curves.__setitem__)
    assert list(curves) == [1, 3, 0, 2]  # programs first
    adam, empty = TOY.train_programs([CANDIDATES[1], CANDIDATES[3]], 2, 1)
    expected = [
        TOY.train(partial(torch.optim.SGD, lr=0.1), 2, 1),
        adam,
        TOY.train(TUNED.make_optimizer, 2, 1),
        empty,
    ]
    for index, curve in enumerate(expected):
        np.testing.assert_array_equal(curves[index].step_losses, curve.step_losses)
    assert {(p.index, p.programs) for p in progress} == {(index, len(CANDIDATES)) for index in range(len(CANDIDATES))}
    assert curves[0].seconds is not None


def test_a_schedule_knows_the_length_of_training() -> None:
    cosine = OptimizerConfig("torch.optim.SGD", {"lr": 0.1}, "cosine")
    curves: dict[int, Curve] = {}
    train_candidates(TOY, [cosine], 4, 0, on_curve=curves.__setitem__)
    make_optimizer = partial(cosine.make_optimizer, epochs=4, steps_per_epoch=TOY.steps_per_epoch)
    np.testing.assert_array_equal(curves[0].step_losses, TOY.train(make_optimizer, 4).step_losses)


def test_no_candidates_are_no_training() -> None:
    curves: dict[int, Curve] = {}
    train_candidates(TOY, [], 1, 0, on_curve=curves.__setitem__)
    assert curves == {}
