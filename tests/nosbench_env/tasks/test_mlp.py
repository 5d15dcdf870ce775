import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from sklearn.datasets import load_digits, load_wine
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler
from strategies import programs
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

from nosbench_env import KNOWN_PROGRAMS, Oracle, Program, ProgramOptimizer, fingerprint, make_task
from nosbench_env.execution.numerics import exact_arithmetic
from nosbench_env.language.program import Instruction
from nosbench_env.tasks.mlp import MLP_PROBE, MLPTask, initial_model
from nosbench_env.tasks.worker_pool import WorkerPool

ADAMW = partial(ProgramOptimizer, program=KNOWN_PROGRAMS["AdamW"], fused=True)
IRIS, WINE = make_task("mlp-iris", "cpu"), make_task("mlp-wine", "cpu")  # 2 steps an epoch


def papers_code(data: Any, epochs: int) -> tuple[list[list[float]], list[float]]:
    """Training losses of the steps and validation losses of the epochs, as the paper's code computes them.

    With torch's loaders, and otherwise written anew; gradients are clipped, as the code does for the PFN alone.
    """
    table = torch.from_numpy(StandardScaler().fit_transform(data.data)).float()
    rows = TensorDataset(table, torch.from_numpy(data.target))
    step_losses, validation_losses = [], []
    for training, validation in KFold(10, shuffle=True, random_state=np.random.RandomState(42)).split(rows):
        torch.manual_seed(42)
        sizes = [table.shape[1], 290, 272, 254, 236, 218, 200, 128, len(set(data.target))]
        model = torch.nn.Sequential()
        for index, (before, after) in enumerate(itertools.pairwise(sizes)):
            weight = torch.nn.init.xavier_uniform_(torch.empty(after, before), gain=np.sqrt(2))
            layer = torch.nn.utils.skip_init(torch.nn.Linear, before, after)
            layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(torch.zeros(after))
            model.append(layer)
            if index < 5:
                model.append(torch.nn.BatchNorm1d(after))
            if index not in (5, 7):
                model.append(torch.nn.ReLU())
        model.append(torch.nn.LogSoftmax(-1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        torch.manual_seed(42)
        batches = DataLoader(rows, 60, sampler=SubsetRandomSampler(training), drop_last=True)
        rest = DataLoader(rows, len(validation), sampler=SubsetRandomSampler(validation))
        losses, after_epochs = [], []
        for _ in range(epochs):
            for x, y in batches:
                loss = torch.nn.functional.nll_loss(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                losses.append(loss.item())
            with torch.no_grad():
                ((x, y),) = rest
                after_epochs.append(torch.nn.functional.nll_loss(model(x), y, reduction="sum").item() / len(y))
        step_losses.append(losses)
        validation_losses.append(after_epochs)
    return np.mean(step_losses, axis=0), np.mean(validation_losses, axis=0)


@pytest.mark.parametrize(
    ("name", "load", "epochs"),
    [("mlp-wine", load_wine, 2), pytest.param("mlp", load_digits, 1, marks=pytest.mark.slow)],
)
def test_losses_are_the_papers_codes(name: str, load: Callable[[], Any], epochs: int) -> None:
    with torch.random.fork_rng(), exact_arithmetic():
        step_losses, validation_losses = papers_code(load(), epochs)
    curve = make_task(name, "cpu").train(partial(torch.optim.SGD, lr=0.05), epochs=epochs)
    np.testing.assert_allclose(curve.step_losses.ravel(), step_losses, rtol=1e-6)
    np.testing.assert_allclose(curve.validation_losses, validation_losses, rtol=1e-6)
    np.testing.assert_array_equal(curve.epoch_means, curve.validation_losses)


def test_the_model_is_the_papers_in_size() -> None:
    """NOSMLPBench on the credit data: 20 features, 2 classes."""
    sizes = [20, 290, 272, 254, 236, 218, 200, 128, 2]
    expected = sum((before + 1) * after for before, after in itertools.pairwise(sizes)) + 2 * sum(sizes[1:6])
    assert sum(param.numel() for param in initial_model(20, 2, 0).parameters()) == expected


def test_default_lengths_are_alike_in_updates() -> None:
    digits = make_task("mlp", "cpu")
    assert (digits.steps_per_epoch, digits.default_epochs) == (26, 3)
    assert (WINE.steps_per_epoch, WINE.default_epochs) == (2, 30)
    assert (digits.name, WINE.name) == ("mlp", "mlp-wine")


def test_training_is_reproducible_and_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, second, other = (IRIS.train(ADAMW, epochs=2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    np.testing.assert_array_equal(first.step_losses, second.step_losses)
    np.testing.assert_array_equal(first.validation_losses, second.validation_losses)
    assert not np.isclose(first.validation_losses, other.validation_losses).any()


@pytest.mark.parametrize("make_optimizer", [ADAMW, partial(torch.optim.Adam, lr=1e-3)], ids=["program", "torch"])
def test_training_in_two_parts_equals_training_in_one_go(make_optimizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    whole = IRIS.train(make_optimizer, epochs=3)
    IRIS.train(make_optimizer, epochs=1, checkpoint=file)
    steps: list[int] = []
    parts = IRIS.train(make_optimizer, epochs=3, checkpoint=file, on_step=lambda progress: steps.append(progress.step))
    assert steps == [3, 4, 5, 6]
    again = IRIS.train(make_optimizer, epochs=2, checkpoint=file)  # the file has gone further already
    for curve, epochs in ((parts, 3), (again, 2)):
        np.testing.assert_array_equal(curve.step_losses, whole.step_losses[:epochs])
        np.testing.assert_array_equal(curve.validation_losses, whole.validation_losses[:epochs])


def test_interrupted_training_resumes_at_its_last_whole_epoch(tmp_path: Path) -> None:
    def interrupt(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        IRIS.train(ADAMW, epochs=2, checkpoint=tmp_path / "c.pt", on_step=interrupt)
    resumed = IRIS.train(ADAMW, epochs=2, checkpoint=tmp_path / "c.pt")
    np.testing.assert_array_equal(resumed.validation_losses, IRIS.train(ADAMW, epochs=2).validation_losses)


def test_each_networks_gradient_is_clipped_on_its_own() -> None:
    norms: list[float] = []

    class Recording(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            params = [param for group in self.param_groups for param in group["params"]]
            norms.append(torch.nn.utils.get_total_norm([param.grad for param in params]).item())

    IRIS.train(partial(Recording, lr=0.0), epochs=1)
    assert len(norms) == 20  # two steps of ten networks
    assert max(norms) == pytest.approx(1.0)


class DiesInTheThirdFold:
    """Makes optimizers that change nothing, but for the third: its parameters turn infinite in the third update."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        self.made += 1
        optimizer = torch.optim.SGD(params, lr=0.0)
        if self.made == 3:
            optimizer.register_step_post_hook(self.count)
            self.steps = 0
        return optimizer

    def count(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.steps += 1
        if self.steps == 3:
            optimizer.param_groups[0]["params"][-1].data[0] = math.inf


def test_one_network_that_dies_ends_the_training(tmp_path: Path) -> None:
    for checkpoint in (None, tmp_path / "c.pt", tmp_path / "c.pt"):  # the last time it is known from the file
        curve = IRIS.train(DiesInTheThirdFold(), epochs=4, checkpoint=checkpoint)
        assert curve.stopped_at == 3
        assert np.isfinite(curve.step_losses.ravel()).tolist() == [True] * 3 + [False] * 5
        assert np.isfinite(curve.epoch_means).tolist() == [True, False, False, False]
    assert IRIS.train(DiesInTheThirdFold(), epochs=1, checkpoint=tmp_path / "c.pt").stopped_at is None


def test_dying_in_the_last_update_of_an_epoch_is_seen_in_its_loss() -> None:
    """The loss is taken after the update: that of the toy and PFN tasks is not."""
    to_infinity = Program([Instruction("div", (6, 15), 9)])
    curve = IRIS.train_programs([to_infinity], epochs=1)[0]
    assert (curve.stopped_at, np.isfinite(curve.step_losses[0, 0])) == (1, True)
    assert math.isnan(curve.epoch_means[0])


def test_programs_train_as_with_the_optimizer_and_curves_are_told_when_known() -> None:
    chosen = [KNOWN_PROGRAMS["SGD"], KNOWN_PROGRAMS["Adam"]]
    told: list[int] = []
    curves = IRIS.train_programs(chosen, epochs=2, on_curve=lambda index, curve: told.append(index))
    assert told == [0, 1]
    for program, curve in zip(chosen, curves, strict=True):
        alone = IRIS.train(partial(ProgramOptimizer, program=program), epochs=2)
        np.testing.assert_allclose(
            curve.epoch_means, alone.epoch_means, rtol=1e-2
        )  # rounding, which training amplifies
        np.testing.assert_allclose(curve.step_losses[0], alone.step_losses[0], rtol=1e-5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_what_the_probe_takes_to_diverge_diverges(program: Program) -> None:
    if fingerprint(program, probe=MLP_PROBE).status != "ok":
        assert math.isnan(IRIS.train_programs([program], epochs=1)[0].epoch_means[0])


@pytest.mark.parametrize("task", [IRIS, WINE, make_task("mlp", "cpu")], ids=lambda task: task.name)
def test_the_probes_tensors_are_like_the_tasks(task: MLPTask) -> None:
    """Each tensor's gradient at the first step, against the tensor of the probe that stands for its kind."""
    kinds = {"first": 0, "noise": 1, "scale": 2, "shift": 3, "hidden": 4, "last": 5, "bias": 6}
    sizes_by_kind: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}

    class Looking(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            params = [param for group in self.param_groups for param in group["params"]]
            sizes = [(param.grad.abs().max().item(), param.detach().abs().max().item()) for param in params]
            sizes_by_kind["first"].append(sizes[0])
            sizes_by_kind["noise"] += sizes[1:20:4]
            sizes_by_kind["scale"] += sizes[2:20:4]
            sizes_by_kind["shift"] += sizes[3:20:4]
            sizes_by_kind["hidden"] += [*sizes[4:20:4], sizes[20], sizes[22]]
            sizes_by_kind["last"].append(sizes[24])
            sizes_by_kind["bias"].append(sizes[25])
            raise StopIteration

    with pytest.raises(StopIteration):
        task.train(partial(Looking, lr=0.0))
    for kind, index in kinds.items():
        tensor = MLP_PROBE.tensors[index]
        for gradient, weight in sizes_by_kind[kind]:
            assert tensor.gradient / 8 < gradient < tensor.gradient * 8, kind
            assert weight == pytest.approx(tensor.weights[1], rel=0.4), kind


def test_workers_and_the_oracle_report_validation_losses() -> None:
    program = KNOWN_PROGRAMS["Adam"]
    expected = IRIS.train_programs([program], epochs=2)[0]
    curves: list[Any] = []
    pool = WorkerPool("mlp-iris", 1)
    try:
        pool.train([program], epochs=2, seed=0, on_result=lambda index, curve, seconds: curves.append(curve))
    finally:
        pool.close()
    np.testing.assert_array_equal(curves[0].epoch_means, expected.epoch_means)
    np.testing.assert_array_equal(curves[0].step_losses, expected.step_losses)

    oracle = Oracle("mlp-iris", device="cpu", workers=1)
    assert list(oracle.query(program, epochs=2).curve) == expected.epoch_means.tolist()
    shorter = oracle.query(program, epochs=1)
    assert (shorter.loss, shorter.hit) == (expected.validation_losses[0], True)
    assert shorter.key.startswith("mlp-iris-1/seed=0/float32/fingerprint-")
    assert MLP_PROBE.name in shorter.key


def test_better_optimizers_have_lower_losses() -> None:
    adam, sgd = (WINE.train_programs([KNOWN_PROGRAMS[name]], epochs=3)[0].epoch_means[-1] for name in ("Adam", "SGD"))
    assert adam < sgd - 0.5


def test_what_the_task_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match="the mlp-iris task computes only in 'float32', got arithmetic 'tf32'"):
        make_task("mlp-iris", "cpu", "tf32")
    with pytest.raises(ValueError, match="epochs must be an integer >= 1, got 0"):
        IRIS.train(ADAMW, epochs=0)
    with pytest.raises(ValueError, match="seed must be an integer from 0 to 1,000,000, got -1"):
        IRIS.train(ADAMW, seed=-1)
    assert IRIS.train(ADAMW, epochs=1, seed=1_000_000).stopped_at is None
