from typing import Any

import pytest
import torch
from torch import nn

from nosbench_env import KNOWN_PROGRAMS, ProgramOptimizer
from nosbench_env.language.known_programs import known_name


def test_programs_are_those_of_the_papers_code(conformance: dict[str, Any]) -> None:
    named = {row["name"]: row["program"] for row in conformance["rows"] if row["kind"] == "named"}
    assert {name: program.to_json() for name, program in KNOWN_PROGRAMS.items()} == named


@pytest.mark.parametrize(
    ("name", "optimizer", "options"),
    [
        ("SGD", torch.optim.SGD, {"lr": 1e-2}),
        ("Adam", torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}),
        ("AdamW", torch.optim.AdamW, {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}),
        ("RMSprop", torch.optim.RMSprop, {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8}),
        ("Adagrad", torch.optim.Adagrad, {"lr": 1e-2, "eps": 1e-8}),
        ("Adadelta", torch.optim.Adadelta, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    ],
)
def test_known_program_follows_torch_optim_for_100_steps(name: str, optimizer: Any, options: dict[str, Any]) -> None:
    def losses(make_optimizer: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(32, 5, generator=generator), torch.randn(32, 1, generator=generator)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        for param in model.parameters():
            param.data = torch.randn(param.shape, generator=generator) * 0.3
        steps = make_optimizer(model.parameters())
        history = []
        for _ in range(100):
            steps.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            steps.step()
            history.append(loss.item())
        return torch.tensor(history)

    ours = losses(lambda params: ProgramOptimizer(params, KNOWN_PROGRAMS[name]))
    theirs = losses(lambda params: optimizer(params, **options))
    assert theirs[-1] < 0.98 * theirs[0]  # it trains at all
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "name"), [("adamw", "AdamW"), ("ADAMW", "AdamW"), ("AdamW", "AdamW"), ("Adam W", None), ("", None)]
)
def test_names_are_known_in_any_case(text: str, name: str | None) -> None:
    assert known_name(text) == name
