"""The toy task: a small network on the iris data."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nosbench_env.execution.numerics import exact_arithmetic, seeded
from nosbench_env.identity.probe import Probe, ProbeTensor
from nosbench_env.tasks.model_task import ModelTask
from nosbench_env.tasks.training import Learner

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


class ToyTask(ModelTask):
    """Trains a small network to classify the three iris species.

    The network has one hidden layer of 16 units. An epoch passes once over the 150 flowers in batches of 15. The loss
    is the cross entropy in nats. A training takes less than a second, for examples and tests; it is no benchmark.

    Args:
        device: "auto" (a GPU if available), "cpu", "cuda" or "cuda:N".
        arithmetic: Only "float32".

    Raises:
        ValueError: If the device is unknown or not available, or the arithmetic is another.
    """

    name = "toy"
    version = 1
    default_epochs = 20
    steps_per_epoch = 10
    probe = TOY_PROBE

    def __init__(self, device: str = "auto", arithmetic: str = "float32") -> None:
        super().__init__(device, arithmetic)
        with exact_arithmetic():
            iris()  # loading takes a second; now, so that the first training takes no longer than the others

    def learners(self, seed: int, steps: int) -> list[Learner]:
        """Returns the network with its losses."""
        features, species = (data.to(self.device) for data in iris())
        with seeded(seed):
            model = nn.Sequential(nn.Linear(4, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3)).to(self.device)

        def batch_loss(step: int) -> Tensor:
            epoch, batch = divmod(step, self.steps_per_epoch)
            generator = torch.Generator().manual_seed(seed * 10**6 + epoch)
            order = torch.randperm(len(features), generator=generator)
            rows = order[batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE].to(self.device)
            return F.cross_entropy(model(features[rows]), species[rows])

        return [Learner(model, batch_loss)]


@cache
def iris() -> tuple[Tensor, Tensor]:
    """Returns standardised features `(150, 4)` float32 and species `(150,)` int64, on the CPU."""
    from sklearn.datasets import load_iris  # takes a second to import

    data = load_iris()
    features = torch.tensor(data.data, dtype=torch.float32)
    return (features - features.mean(dim=0)) / features.std(dim=0), torch.tensor(data.target, dtype=torch.int64)
