import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nosbench_env import KNOWN_PROGRAMS, OptimizerConfig, Oracle, Program, ResultStore, make_task
from nosbench_env.candidates.candidate import candidate_from_json
from nosbench_env.candidates.optimizer_config import SCHEDULES, rate_factor
from nosbench_env.results.key import ResultKey
from nosbench_env.results.rekey import rekey
from nosbench_env.results.transfer import export_results, import_results
from nosbench_env.results.verify import verify
from nosbench_env.tasks.worker_pool import WorkerPool

SGD = OptimizerConfig("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9})
COSINE = OptimizerConfig("torch.optim.AdamW", {"lr": 0.01}, "cosine")

finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers(-(2**53) + 1, 2**53 - 1) | finite
values = (
    numbers | st.booleans() | st.none() | st.text("abcXYZ019_.-", max_size=40) | st.lists(finite, max_size=3).map(tuple)
)
configs = st.builds(
    OptimizerConfig,
    st.sampled_from(["torch.optim.Adam", "pytorch_optimizer.Lion"]),
    st.dictionaries(st.text("abcdefgh_", min_size=1, max_size=9).map("x".__add__), values, max_size=3),
    st.sampled_from(SCHEDULES),
)


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    return Oracle("toy", tmp_path / "oracle.sqlite", "cpu", workers=1)


@given(configs)
def test_text_and_json_give_it_back(config: OptimizerConfig) -> None:
    assert OptimizerConfig.parse(str(config)) == config
    assert candidate_from_json(json.loads(json.dumps(config.to_json(), allow_nan=False))) == config
    key = f"toy-1/seed=0/float32/{config.identity_value(20)}"
    assert str(ResultKey.parse(key)) == key


@given(configs, configs)
def test_two_are_the_same_if_they_say_the_same(first: OptimizerConfig, second: OptimizerConfig) -> None:
    assert (first == second) == (first.identity_value(7) == second.identity_value(7)) == (str(first) == str(second))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Adam",), "'torch.optim.AdamW' or 'pytorch_optimizer.Lion', got 'Adam'"),
        (("os.path.Join",), "got 'os.path.Join'"),
        (("torch.optim.lr_scheduler.LambdaLR",), "LambdaLR'"),
        ((3,), "got 3"),
        (("torch.optim.LBFGS",), "torch.optim.LBFGS"),
        (("torch.optim.Optimizer",), "torch.optim.Optimizer"),
        (("pytorch_optimizer.SophiaH",), "SophiaH"),
        (("torch.optim.SGD", {"lr": math.nan}), "hyperparameter lr: expected a finite number"),
        (("torch.optim.SGD", {"lr": 2**60}), "hyperparameter lr"),
        (("torch.optim.SGD", {"lr": [0.1] * 9}), "at most 8 numbers"),
        (("torch.optim.SGD", {"lr": "__import__('os')"}), "hyperparameter lr"),
        (("torch.optim.SGD", {"params": 1}), "hyperparameter, such as 'lr', got 'params'"),
        (("torch.optim.SGD", {"foreach": True}), "got 'foreach'"),
        (("torch.optim.SGD", [0.1]), "got [0.1]"),
        (("torch.optim.SGD", {}, "linear"), "schedule 'linear'; known are constant, cosine"),
        (("torch.optim.SGD", {f"x{number}": 0.123456789 for number in range(40)}), "at most 400"),
    ],
)
def test_what_can_be_none_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError) as error:
        OptimizerConfig(*arguments)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "torch.optim.SGD",
        "torch.optim.SGD(0.1)",
        "torch.optim.SGD(lr=open('x'))",
        "torch.optim.SGD(**{'lr': 1})",
        "torch.optim.SGD(lr=0.1)(lr=0.1)",
        "torch.optim.SGD(lr=0.1, lr=0.2)",
        "(lambda: 1)()",
        "torch.optim.SGD(lr=" + "(" * 5000,
        "a = 1",
    ],
)
def test_what_is_no_text_of_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected an optimizer such as|named like|name of a hyperparameter"):
        OptimizerConfig.parse(text)


@pytest.mark.parametrize("data", [None, 3, {}, {"optimizer": "torch.optim.SGD"}, {**SGD.to_json(), "more": 1}])
def test_what_is_no_json_form_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match=r"an optimizer is an object with|a program is a list"):
        candidate_from_json(data)


def test_what_the_library_refuses_is_told() -> None:
    params = [nn.Parameter(torch.zeros(2))]
    for config, words in (
        (OptimizerConfig("torch.optim.SGD", {"lr": -1.0}), "lr=-1.0.*Invalid learning rate"),
        (OptimizerConfig("torch.optim.SGD", {"rho": 1.0}), "unexpected keyword argument 'rho'"),
        (OptimizerConfig("torch.optim.Nothing"), "torch.optim .* has no optimizer Nothing"),
        (OptimizerConfig("torch.optim.Adam", {"betas": 3}), "torch.optim.Adam.*TypeError"),
    ):
        with pytest.raises(ValueError, match=words):
            config.make_optimizer(params, 1, 1)


def test_a_library_that_is_not_there_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.setattr("nosbench_env.candidates.optimizer_config.find_spec", lambda name: None)
    config = OptimizerConfig("pytorch_optimizer.Lion")
    assert config.missing() == "needs pytorch_optimizer: pip install 'nosbench_env[optimizers]'"
    with pytest.raises(ValueError, match=r"pytorch_optimizer.Lion needs pytorch_optimizer: pip install"):
        config.make_optimizer([nn.Parameter(torch.zeros(2))], 1, 1)
    assert SGD.missing() is None


@pytest.mark.parametrize("epochs", [1, 3, 8, 20, 50])
def test_the_cosine_schedule_is_that_of_pfns(epochs: int) -> None:
    from pfns.utils import get_cosine_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, epochs // 4, epochs)
    for epoch in range(epochs):
        assert rate_factor("cosine", epoch, epochs) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_the_schedule_to_zero_ends_there() -> None:
    factors = [rate_factor("cosine-to-zero", epoch, 20) for epoch in range(20)]
    assert factors[:6] == [0.0, 0.25, 0.5, 0.75, 1.0, pytest.approx(0.5 * (1 + math.cos(math.pi / 15)))]
    assert factors[19] == pytest.approx(0.0, abs=1e-12)
    assert [rate_factor("cosine-to-zero", 0, epochs) for epochs in (1, 2)] == [1.0, 1.0]


def test_the_rate_changes_from_epoch_to_epoch() -> None:
    param = nn.Parameter(torch.zeros(1))
    optimizer = OptimizerConfig("torch.optim.SGD", {"lr": 1.0}, "cosine").make_optimizer([param], 8, 3)
    moved = []
    for _ in range(24):
        before = param.item()
        param.grad = torch.ones(1)
        optimizer.step()
        moved.append(before - param.item())
    expected = [rate_factor("cosine", epoch, 8) for epoch in range(8) for _ in range(3)]
    assert moved == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_training_continues_to_the_last_bit(tmp_path: Path, schedule: Any) -> None:
    task = make_task("toy", "cpu")
    config = OptimizerConfig("torch.optim.AdamW", {"lr": 0.01}, schedule)
    make = partial(config.make_optimizer, epochs=6, steps_per_epoch=task.steps_per_epoch)
    whole = task.train(make, 6)
    task.train(make, 2, checkpoint=tmp_path / "checkpoint")
    resumed = task.train(make, 6, checkpoint=tmp_path / "checkpoint")
    assert np.array_equal(whole.step_losses, resumed.step_losses)
    other = partial(COSINE.make_optimizer, epochs=7, steps_per_epoch=task.steps_per_epoch)
    with pytest.raises(ValueError, match="belongs to another training"):
        task.train(other, 6, checkpoint=tmp_path / "checkpoint")


def test_optimizers_that_draw_random_numbers_draw_the_same(tmp_path: Path) -> None:
    task = make_task("toy", "cpu")
    config = OptimizerConfig("pytorch_optimizer.Gravity")
    make = partial(config.make_optimizer, epochs=4, steps_per_epoch=task.steps_per_epoch)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.random.get_rng_state()
        first = task.train(make, 4)
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(2)
        assert np.array_equal(task.train(make, 4).step_losses, first.step_losses)
        task.train(make, 1, checkpoint=tmp_path / "checkpoint")
        resumed = task.train(make, 4, checkpoint=tmp_path / "checkpoint")
    assert np.array_equal(resumed.step_losses, first.step_losses)


def test_muon_treats_matrices_and_vectors_apart() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = OptimizerConfig("pytorch_optimizer.Muon", {"lr": 0.1}).make_optimizer(model.parameters(), 1, 1)
    shapes = {group["use_muon"]: [tuple(param.shape) for param in group["params"]] for group in optimizer.param_groups}
    assert shapes == {True: [(4, 3), (2, 4)], False: [(4,), (2,)]}


def test_the_oracle_trains_it_once_as_the_task_does(oracle: Oracle) -> None:
    first, second = oracle.query(SGD, 3), oracle.query(SGD, 3)
    curve = make_task("toy", "cpu").train(partial(torch.optim.SGD, lr=0.1, momentum=0.9), 3)
    assert first.curve == tuple(curve.epoch_means)
    assert first.program == SGD
    assert (first.source, second.source) == ("trained", "store")
    assert second.loss == first.loss
    assert oracle.query(SGD, 2).source == "store"  # without a schedule, a longer training answers
    assert first.provenance["program"] == SGD.to_json()
    assert first.provenance["library"].startswith("2.")
    assert first.to_json()["program"] == SGD.to_json()


def test_a_schedule_that_depends_on_the_horizon_has_a_key_for_each(oracle: Oracle) -> None:
    long, short = oracle.query(COSINE, 8), oracle.query(COSINE, 4)
    assert long.key != short.key
    assert short.source == "trained"
    assert short.loss != long.curve[3]
    assert oracle.query(COSINE, 8).source == oracle.query(COSINE, 4).source == "store"


def test_programs_and_optimizers_are_asked_about_together(oracle: Oracle) -> None:
    program = KNOWN_PROGRAMS["Adam"]
    config = OptimizerConfig("torch.optim.Adam")
    steps = []
    asked = [config, program, config, SGD]
    evaluations = oracle.query_many(asked, 2, on_step=steps.append)
    assert [evaluation.program for evaluation in evaluations] == asked
    assert [evaluation.source for evaluation in evaluations] == ["trained", "trained", "store", "trained"]
    assert evaluations[0].loss == pytest.approx(evaluations[1].loss, rel=1e-5)  # the program is PyTorch's Adam
    assert {(step.index, step.programs) for step in steps} == {(0, 3), (1, 3), (2, 3)}
    assert oracle.statistics.trained == 3


def test_worker_processes_train_it_to_the_same_result(oracle: Oracle) -> None:
    pool = WorkerPool("toy", 2)
    curves: dict[int, Any] = {}
    try:
        pool.train([SGD, COSINE], 4, 1, on_result=lambda index, curve, seconds: curves.update({index: curve}))
    finally:
        pool.close()
    for index, config in enumerate((SGD, COSINE)):
        assert tuple(curves[index].epoch_means) == oracle.query(config, 4, 1).curve


def test_what_is_known_is_looked_up_without_training(oracle: Oracle) -> None:
    diverges = Program.parse("r9 = sub(grad, grad); r9 = div(grad, r9)")
    for candidate in (SGD, KNOWN_PROGRAMS["SGD"]):
        assert oracle.look_up(candidate, 2) is None
        trained = oracle.query(candidate, 2)
        known = oracle.look_up(candidate, 2)
        assert known is not None
        assert (known.loss, known.key, known.source) == (trained.loss, trained.key, "store")
        assert oracle.look_up(candidate, 3) is None
    assert Oracle("pfn", ResultStore("sqlite://")).look_up(diverges).source == "probe"
    assert oracle.statistics.queries == 2


def test_results_travel(oracle: Oracle, tmp_path: Path) -> None:
    for config in (SGD, COSINE):
        oracle.query(config, 2)
    export_results(oracle.store, tmp_path / "results.jsonl")
    other = ResultStore(tmp_path / "other.sqlite")
    import_results(tmp_path / "results.jsonl", other)
    again = Oracle("toy", other, "cpu", workers=1)
    assert [again.query(config, 2).loss for config in (SGD, COSINE)] == [
        oracle.query(config, 2).loss for config in (SGD, COSINE)
    ]
    assert again.statistics.trained == 0


def test_results_are_verified_and_stay_under_their_keys(oracle: Oracle) -> None:
    for config in (SGD, COSINE):
        oracle.query(config, 2)
    verified: list[Any] = []
    verify(list(oracle.store.records()), verified.append, device="cpu")
    assert [(item.right, item.difference, item.identity) for item in verified] == [(True, 0.0, "same")] * 2
    report = rekey(oracle.store, lambda program, task: ("other-1:x", "ok"))
    assert (report.current, report.added) == (2, 0)
