"""Exported files, imported as their users would, and what they do beside the program."""

import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from nosbench_env import Program, ProgramOptimizer

SHAPES = ((), (1,), (5,), (3, 4))
_numbers = itertools.count()


def load(source: str, folder: Path) -> ModuleType:
    """Imports source code from a file of its own."""
    path = folder / f"exported{next(_numbers)}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_and_gradients(steps: int = 4, seed: int = 0) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Parameters of several shapes, and gradients for some steps, a few of them 0."""
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    grads = [[0.3 * torch.randn(shape, generator=generator) for shape in SHAPES] for _ in range(steps)]
    grads[1][3][0] = 0.0
    return start, grads


def trajectory(make_optimizer, start: Sequence[Tensor], grads: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """All parameters after each step."""
    params = [torch.nn.Parameter(tensor.clone()) for tensor in start]
    optimizer = make_optimizer(params)
    after = []
    for of_step in grads:
        for param, grad in zip(params, of_step, strict=True):
            param.grad = grad.clone()
        optimizer.step()
        after.append([param.detach().clone() for param in params])
    return after


def of_program(program: Program, start: Sequence[Tensor], grads: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    return trajectory(lambda params: ProgramOptimizer(params, program), start, grads)


def same(a: Sequence[Sequence[Tensor]], b: Sequence[Sequence[Tensor]]) -> bool:
    """Whether trajectories are equal as numbers: a zero may have either sign, and a NaN any payload."""
    return all(
        x.shape == y.shape and torch.equal(torch.nan_to_num(x, nan=1.5e38), torch.nan_to_num(y, nan=1.5e38))
        for of_a, of_b in zip(a, b, strict=True)
        for x, y in zip(of_a, of_b, strict=True)
    )
