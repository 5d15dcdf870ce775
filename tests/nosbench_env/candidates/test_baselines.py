import math

import pytest
import torch
from torch import nn

from nosbench_env import BASELINES, KNOWN_PROGRAMS, OptimizerConfig, ProgramOptimizer
from nosbench_env.candidates.baselines import GROUPS, NOISE, baseline_name, differs_from_paper, named_baselines


def test_all_known_programs_and_the_optimizers_of_pytorch_are_baselines() -> None:
    assert {name for name, baseline in BASELINES.items() if baseline.group == "program"} == set(KNOWN_PROGRAMS)
    assert {baseline.group for baseline in BASELINES.values()} == set(GROUPS)
    assert {f"torch.{name}" for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta")} <= set(BASELINES)
    assert all(name == baseline.name for name, baseline in BASELINES.items())


@pytest.mark.parametrize("name", [name for name, baseline in BASELINES.items() if baseline.group == "torch"])
def test_pytorchs_have_pytorchs_defaults(name: str) -> None:
    config = BASELINES[name].candidate
    assert isinstance(config, OptimizerConfig)
    params = [nn.Parameter(torch.zeros(2))]
    optimizer = config.make_optimizer(params, 1, 1)
    assert optimizer.defaults == type(optimizer)(params).defaults


@pytest.mark.parametrize("name", [name for name, one in BASELINES.items() if one.group in ("recent", "schedule")])
def test_the_others_optimize(name: str) -> None:
    config = BASELINES[name].candidate
    assert isinstance(config, OptimizerConfig)
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = torch.randn(64, 3, generator=generator), torch.randn(64, 2, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    optimizer = config.make_optimizer(model.parameters(), 4, 50)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(inputs), outputs)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"])
def test_the_program_of_a_name_is_pytorchs_optimizer(name: str) -> None:
    config = BASELINES[f"torch.{name}"].candidate
    assert isinstance(config, OptimizerConfig)
    ends = []
    for make in (
        lambda params: ProgramOptimizer(params, KNOWN_PROGRAMS[name]),
        lambda params: config.make_optimizer(params, 1, 1),
    ):
        param = nn.Parameter(torch.linspace(0.1, 1, 7))
        optimizer = make([param])
        for step in range(10):
            param.grad = torch.sin(torch.arange(1.0, 8.0) * (step + 1))  # of the parameter, rounding would grow
            optimizer.step()
        ends.append(param.detach())
    assert torch.allclose(*ends, rtol=1e-5, atol=1e-6)


def test_names_and_groups_choose() -> None:
    assert named_baselines([]) == list(BASELINES.values())
    assert [baseline.name for baseline in named_baselines(["incumbent", "schedule", "AdamW-Cosine"])] == [
        "Incumbent",
        "AdamW-cosine",
        "AdamW-cosine-to-zero",
    ]
    with pytest.raises(ValueError, match=r"baseline 'Adm'.* SGD, .*program, torch"):
        named_baselines(["Adm"])


def test_names_are_found_in_any_case() -> None:
    assert baseline_name("torch.ADAMW") == "torch.AdamW"
    assert baseline_name("adm") is None


def test_a_loss_differs_from_the_papers_beyond_noise_alone() -> None:
    assert not differs_from_paper(0.5 + 0.9 * NOISE, 0.5)
    assert differs_from_paper(0.5 - 1.1 * NOISE, 0.5)
    assert not differs_from_paper(12.6 * (1 + 0.9 * NOISE), 12.6)  # large losses are noisy in proportion
    assert differs_from_paper(None, 0.5)
    assert all(math.isfinite(one.paper_loss) for one in BASELINES.values() if one.paper_loss is not None)
