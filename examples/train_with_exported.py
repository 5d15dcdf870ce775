"""Exports an optimizer and trains a classifier of handwritten digits with it.

    python examples/train_with_exported.py --program Incumbent

This takes seconds on a CPU. After `export`, only torch is needed, and scikit-learn for the data.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import typer
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nosbench_env.cli.arguments import read_program
from nosbench_env.export import to_torch

CLASS_NAME = "DigitsOptimizer"


def export(program: str, folder: Path) -> Path:
    """Writes a program as a torch optimizer; returns the file.

    The program is a known name, a text or a file.
    """
    path = folder / "digits_optimizer.py"
    path.write_text(to_torch(read_program(program), CLASS_NAME), encoding="utf-8")
    return path


def load_optimizer(path: Path) -> Any:
    """Returns the class in the file.

    If the file is on your path, use `from digits_optimizer import DigitsOptimizer` instead.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, CLASS_NAME)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns images of 64 pixels and their classes, 1,347 for training and 450 for testing."""
    images, classes = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(classes)[order]
    return x[:1347], y[:1347], x[1347:], y[1347:]


def train(make_optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer], epochs: int = 15, seed: int = 0) -> float:
    """Trains a small network; returns its accuracy on the test images."""
    x, y, test_x, test_y = digits()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = make_optimizer(model.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)  # as in the search
            optimizer.step()
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).float().mean().item()


def main(program: str = "Incumbent", epochs: int = 15) -> None:
    """Exports a program, trains with it, and prints the accuracy.

    The program is a known name, a text or a file.
    """
    torch.set_num_threads(1)  # more threads do not help so small a network
    with tempfile.TemporaryDirectory() as folder:
        optimizer = load_optimizer(export(program, Path(folder)))
        print(f"{program}: {train(optimizer, epochs):.1%} of the test images recognised")


if __name__ == "__main__":
    typer.run(main)
