"""A task of less than a second, for tests and first contact: a small network on the iris data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nosbench_env.execution.numerics import exact_arithmetic, resolve_device, seeded
from nosbench_env.execution.settings import check_epochs, check_seed
from nosbench_env.identity.probe import Probe, ProbeTensor
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep
from nosbench_env.tasks.training import train_model, train_programs_in_turn

BATCH_SIZE, HIDDEN = 15, 16

TOY_PROBE = Probe(
    name="toy-1",
    tensors=(
        ProbeTensor(64, (-0.5, 0.5), 0.25, zero_element=True),
        ProbeTensor(16, (-0.5, 0.5), 0.25, zero_element=True),
        ProbeTensor(48, (-0.25, 0.25), 0.25),
        ProbeTensor(3, (-0.25, 0.25), 0.25),
    ),
    steps_per_epoch=10,
    certain_steps=3,
)


class ToyTask:
    """Trains a network with one hidden layer of 16 units to tell apart the three iris species.

    An epoch passes once over the 150 flowers in batches of 15; the loss is the cross entropy in nats. Not a benchmark:
    it shows how things work, and tests that they do.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        arithmetic: "float32"; there is no other.

    Raises:
        ValueError: If the device is unknown or not available, or the arithmetic is another.
    """

    name = "toy"
    version = 1
    default_epochs = 20
    steps_per_epoch = 10
    probe = TOY_PROBE

    def __init__(self, device: str = "auto", arithmetic: str = "float32") -> None:
        self.device = resolve_device(device)
        if arithmetic != "float32":
            raise ValueError(f"the toy task computes in 'float32' alone, got arithmetic {arithmetic!r}")
        self.arithmetic = arithmetic
        with exact_arithmetic():
            iris()  # takes a second to load; now, so that the first training takes no longer than the others

    def train(
        self,
        make_optimizer: MakeOptimizer,
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        checkpoint: Path | str | None = None,
    ) -> Curve:
        """Trains with any optimizer; see `Task.train`."""
        epochs, seed = check_epochs(epochs) or self.default_epochs, check_seed(seed)
        with exact_arithmetic():
            features, species = (data.to(self.device) for data in iris())
            with seeded(seed):
                model = nn.Sequential(nn.Linear(4, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3)).to(self.device)

            def batch_loss(model: nn.Module, step: int) -> Tensor:
                epoch, batch = divmod(step, self.steps_per_epoch)
                generator = torch.Generator().manual_seed(seed * 10**6 + epoch)
                order = torch.randperm(len(features), generator=generator)
                rows = order[batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE].to(self.device)
                return F.cross_entropy(model(features[rows]), species[rows])

            return train_model(self, model, batch_loss, make_optimizer, epochs, seed, on_step, checkpoint)

    def train_programs(
        self,
        programs: Sequence[Program],
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        on_curve: OnCurve | None = None,
        last_epoch_only: bool = False,
    ) -> list[Curve]:
        """Trains once with each program; see `Task.train_programs`. Its curves are always whole."""
        return train_programs_in_turn(self, programs, epochs, seed, on_step, on_curve)


@cache
def iris() -> tuple[Tensor, Tensor]:
    """The iris data on the CPU: standardised features `(150, 4)` float32, species `(150,)` int64."""
    from sklearn.datasets import load_iris  # takes a second to import

    data = load_iris()
    features = torch.tensor(data.data, dtype=torch.float32)
    return (features - features.mean(dim=0)) / features.std(dim=0), torch.tensor(data.target, dtype=torch.int64)
