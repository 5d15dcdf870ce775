import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import load, of_program, same, start_and_gradients, trajectory
from hypothesis import HealthCheck, given, settings
from strategies import any_programs, programs

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, SearchSpace
from nosbench_env.export import to_torch

quickly = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def exported(program: Program, folder: Path) -> Any:
    return load(to_torch(program, "Exported"), folder).Exported


def assert_exact(program: Program, folder: Path) -> None:
    optimizer = exported(program, folder)
    start, grads = start_and_gradients()
    expected = of_program(program, start, grads)
    for foreach in (False, True):
        got = trajectory(lambda params, foreach=foreach: optimizer(params, foreach=foreach), start, grads)
        assert same(expected, got), f"{foreach=}\n{program!r}\n{to_torch(program)}"


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_known_programs_are_exported_to_the_last_bit(name: str, tmp_path: Path) -> None:
    assert_exact(KNOWN_PROGRAMS[name], tmp_path)


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_so_are_programs_of_the_papers_code(stride: int, conformance: dict[str, Any], tmp_path: Path) -> None:
    for row in conformance["rows"][::stride]:
        assert_exact(Program.from_json(row["program"]), tmp_path)


@given(programs())
@quickly
def test_so_are_random_programs(tmp_path: Path, program: Program) -> None:
    assert_exact(program, tmp_path)


@given(any_programs())
@quickly
def test_so_are_those_of_the_whole_language(tmp_path: Path, program: Program) -> None:
    assert_exact(program, tmp_path)


@pytest.mark.parametrize("count", [40, pytest.param(600, marks=pytest.mark.slow)])
def test_so_are_descendants_of_known_programs(count: int, tmp_path: Path) -> None:
    rng, space = np.random.default_rng(3), SearchSpace()
    for place in range(count):
        program = space.admit(list(KNOWN_PROGRAMS.values())[place % len(KNOWN_PROGRAMS)])
        for _ in range(rng.integers(1, 9)):
            program = space.mutate(program, rng)
        assert_exact(program, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r9 = mul(0.1, 0.1)",  # a number
        "r9 = mul(step, 0.1)",  # a number a step
        "r9 = sub(0.1, 0.5); r9 = mul(r9, grad)",  # added, not subtracted
        "r9 = norm(grad); r9 = div(grad, r9)",
        "r9 = std(r10); r10 = mul(grad, 1.0); r11 = add(r9, grad)",  # of a number at the first step, then of an array
        "r9 = size(r10); r10 = add(r10, grad); r11 = mul(r10, r9)",
        "r9 = add(r9, step); r10 = mul(r9, grad)",  # a memory that is the same for all tensors
        "r9 = add(r9, 0.1); r10 = mul(r9, grad)",
        "r11 = add(r9, grad); r9 = add(r10, 0.5); r10 = mul(r11, 0.1)",  # each memory needs what the other was
        "r10 = sub(param, r9); r9 = mul(param, 1.0); r10 = mul(r10, 1.0)",
        "r9 = heaviside(0.5, grad); r10 = heaviside(grad, 0.5); r11 = heaviside(step, r9); r12 = mul(r10, r11)",
        "r9 = sub(grad, grad); r9 = log(r9); r10 = sqrt(r9); r11 = bias_correct(grad, r9, 0.5); r12 = add(r10, r11)",
        "r9 = sub(0.1, 0.1); r9 = div(r9, r9); r10 = minimum(grad, r9)",  # NaN as a constant
        "r9 = exp(step); r10 = sin(r9); r11 = mul(r10, r9); r12 = add(r11, r10); r13 = mul(r12, grad)",
    ],
)
def test_so_are_odd_ones(text: str, tmp_path: Path) -> None:
    assert_exact(Program.parse(text), tmp_path)


@pytest.mark.parametrize("lr", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("name", ["AdamW", "HeroLion"])
def test_lr_multiplies_the_update(name: str, lr: float, tmp_path: Path) -> None:
    optimizer, (start, grads) = exported(KNOWN_PROGRAMS[name], tmp_path), start_and_gradients()
    expected = trajectory(lambda params: ProgramOptimizer(params, KNOWN_PROGRAMS[name], lr=lr), start, grads)
    for foreach in (None, False, True):
        got = trajectory(lambda params, foreach=foreach: optimizer(params, lr, foreach=foreach), start, grads)
        assert same(expected, got)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("foreach", [False, True])
def test_other_precisions_are_close(dtype: torch.dtype, tolerance: float, foreach: bool, tmp_path: Path) -> None:
    optimizer, (start, grads) = exported(KNOWN_PROGRAMS["AdamW"], tmp_path), start_and_gradients()
    start, grads = [t.to(dtype) for t in start], [[t.to(dtype) for t in of_step] for of_step in grads]
    expected = of_program(KNOWN_PROGRAMS["AdamW"], start, grads)
    got = trajectory(lambda params: optimizer(params, foreach=foreach), start, grads)
    for of_expected, of_got in zip(expected, got, strict=True):
        torch.testing.assert_close(of_got, of_expected, rtol=tolerance, atol=tolerance)


class Training:
    """A small network and an optimizer that can go on from a state."""

    def __init__(self, make_optimizer: Callable[..., Any], start: int = 0) -> None:
        torch.manual_seed(start)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        self.optimizer = make_optimizer(self.model.parameters())

    def steps(self, first: int, last: int) -> list[torch.Tensor]:
        for number in range(first, last):
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(number))
            self.optimizer.zero_grad()
            self.model(x).square().mean().backward()
            self.optimizer.step()
        return [param.detach().clone() for param in self.model.parameters()]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "Adadelta", "Incumbent", "grows"])
def test_training_continues_from_a_saved_state_to_the_last_bit(name: str, foreach: bool, tmp_path: Path) -> None:
    grows = Program.parse("r9 = size(r10); r10 = add(r10, grad); r11 = mul(r10, r9); r11 = mul(r11, 0.001)")
    optimizer = exported(KNOWN_PROGRAMS.get(name, grows), tmp_path)

    def make(params: Any) -> Any:
        return optimizer(params, foreach=foreach)

    expected = Training(make).steps(0, 6)
    half = Training(make)
    half.steps(0, 3)
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": half.model.state_dict(), "optimizer": half.optimizer.state_dict()}, path)
    again = Training(make, start=1)
    saved = torch.load(path, weights_only=True)
    again.model.load_state_dict(saved["model"])
    again.optimizer.load_state_dict(saved["optimizer"])
    assert all(map(torch.equal, again.steps(3, 6), expected))


def test_a_deep_copy_goes_on_by_itself(tmp_path: Path) -> None:
    training = Training(exported(KNOWN_PROGRAMS["AdamW"], tmp_path))
    training.steps(0, 3)
    other = copy.deepcopy(training)
    assert all(map(torch.equal, training.steps(3, 6), other.steps(3, 6)))


def test_groups_have_their_own_lr_and_parameters_their_own_steps(tmp_path: Path) -> None:
    program = KNOWN_PROGRAMS["AdamW"]
    start, grads = start_and_gradients()
    results = []
    for make in (exported(program, tmp_path), lambda params, lr: ProgramOptimizer(params, program, lr)):
        params = [torch.nn.Parameter(tensor.clone()) for tensor in start]
        optimizer = make([{"params": params[:2]}, {"params": params[2:3], "lr": 0.1}], lr=0.5)
        for number, of_step in enumerate(grads):
            for place, (param, grad) in enumerate(zip(params, of_step, strict=True)):
                param.grad = grad.clone() if (number + place) % 3 else None
            if number == 1:
                optimizer.add_param_group({"params": params[3:], "lr": 2.0})
            optimizer.step()
        results.append([[param.detach() for param in params]])
    assert same(*results)


def test_a_scheduler_changes_lr_and_a_closure_is_called_once(tmp_path: Path) -> None:
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = exported(KNOWN_PROGRAMS["SGD"], tmp_path)([param], 1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    calls = []

    def closure() -> float:
        calls.append(1)
        optimizer.zero_grad()
        loss = param.sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 2.0
    assert len(calls) == 1
    scheduler.step()
    optimizer.step(closure)
    torch.testing.assert_close(param.detach(), torch.full((2,), 1 - 0.01 - 0.005))


def test_sparse_and_complex_parameters_and_bad_rates_are_refused(tmp_path: Path) -> None:
    optimizer = exported(KNOWN_PROGRAMS["AdamW"], tmp_path)
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="Exported does not support sparse gradients"):
        optimizer(table.parameters()).step()
    param = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="Exported takes floating point parameters, got"):
        optimizer([param]).step()
    for lr in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="lr must be a finite number >= 0"):
            optimizer([torch.nn.Parameter(torch.ones(2))], lr)


@pytest.mark.parametrize(
    "name",
    [
        *("", "2fast", "my optimizer", "class", "match", "torch", "Optimizer", "print", "_Private", "\u00c4", "x" * 31),
        *('A:\n    """', "A(Optimizer): pass\nimport os\nclass B", 3),
    ],
)
def test_invalid_names_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        to_torch(KNOWN_PROGRAMS["SGD"], name)


def test_a_class_is_called_after_the_program() -> None:
    assert "class HeroLion(Optimizer):" in to_torch(KNOWN_PROGRAMS["HeroLion"])
    assert "class FoundOptimizer(Optimizer):" in to_torch(Program.parse("r9 = mul(grad, 0.1)"))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "AdamW",
            """
            t = torch.tensor(float(step), dtype=torch.promote_types(params[0].dtype, torch.float32))
            bias_correction1 = float(1 - 0.9**t)
            bias_correction2 = float(1 - 0.999**t)
            for param, grad, exp_avg, exp_avg_sq in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
                exp_avg.copy_(0.9 * exp_avg + 0.100000024 * grad)
                exp_avg_sq.copy_(0.999 * exp_avg_sq + 0.0009999871 * grad.square())
                denom = (exp_avg_sq / bias_correction2).sqrt() + 1e-08
                update = 0.001 * (0.01 * param + exp_avg / bias_correction1 / denom)
                param.add_(update, alpha=-lr)
            """,
        ),
        (
            "Adadelta",
            """
            for param, grad, square_avg, acc_delta in zip(params, grads, square_avgs, acc_deltas, strict=True):
                square_avg.copy_(0.9 * square_avg + 0.100000024 * grad.square())
                update = (acc_delta + 1e-06).sqrt() / (square_avg + 1e-06).sqrt() * grad
                acc_delta.copy_(0.9 * acc_delta + 0.100000024 * update.square())
                param.add_(update, alpha=-lr)
            """,
        ),
        (
            "SGD",
            """
            torch._foreach_mul_(momentum_buffers, 0)
            torch._foreach_add_(momentum_buffers, grads)
            updates = torch._foreach_mul(momentum_buffers, 0.01)
            torch._foreach_add_(params, updates, alpha=-lr)
            """,
        ),
    ],
)
def test_known_optimizers_look_as_written_by_hand(name: str, lines: str) -> None:
    written = [line.strip() for line in to_torch(KNOWN_PROGRAMS[name]).splitlines()]
    expected = [line.strip() for line in lines.strip().splitlines()]
    assert expected in [written[start : start + len(expected)] for start in range(len(written))]


def exported_files(folder: Path) -> Path:
    """Exported files of known programs and descendants of them."""
    rng, space = np.random.default_rng(5), SearchSpace()
    for number, (name, program) in enumerate(KNOWN_PROGRAMS.items()):
        (folder / f"{name.lower()}.py").write_text(to_torch(program, name))
        for mutant in range(3):
            child = space.admit(program)
            for _ in range(6):
                child = space.mutate(child, rng)
            (folder / f"mutant{number}_{mutant}.py").write_text(to_torch(child, "X" * 30))
    return folder


def run(*command: str, folder: Path) -> None:
    result = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_exported_files_are_tidy(tmp_path: Path) -> None:
    folder = exported_files(tmp_path)
    rules = "E,F,W,I,N,UP,B,C4,PT,RET,RUF,SIM"
    run("-m", "ruff", "check", "--isolated", "--line-length", "120", "--select", rules, ".", folder=folder)
    run("-m", "ruff", "format", "--isolated", "--line-length", "120", "--check", ".", folder=folder)


@pytest.mark.slow
def test_exported_files_have_right_types(tmp_path: Path) -> None:
    run("-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), ".", folder=exported_files(tmp_path))


# Runs where nothing but torch, and what it needs, can be imported.
_ALONE = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nosbench_env", "gymnasium", "pfns", "stable_baselines3", "typer", "sqlalchemy"):
            raise ImportError(name + " is not for exported files")

sys.meta_path.insert(0, Without())
sys.path.insert(0, ".")
import torch
from incumbent import Incumbent

model = torch.nn.Linear(4, 1)
optimizer = Incumbent(model.parameters())
x = torch.randn(64, 4)
losses = []
for _ in range(100):
    optimizer.zero_grad()
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    losses.append(loss.item())
assert losses[-1] < 0.7 * losses[0], losses
assert "nosbench_env" not in sys.modules
"""


def test_an_exported_file_needs_torch_alone(tmp_path: Path) -> None:
    (tmp_path / "incumbent.py").write_text(to_torch(KNOWN_PROGRAMS["Incumbent"]))
    run("-I", "-c", _ALONE, folder=tmp_path)
