"""The MLP task of the paper's code: a deep classifier of tabular data, cross-validated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from nosbench_env.execution.numerics import exact_arithmetic, resolve_device, seeded
from nosbench_env.execution.settings import check_epochs, check_seed
from nosbench_env.identity.probe import Probe, ProbeTensor
from nosbench_env.language.program import Program
from nosbench_env.tasks.mlp_data import FOLDS, load_data_set
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep
from nosbench_env.tasks.training import train_models, train_programs_in_turn

# As the paper's code has them, in its class `NOSMLPBench`.
BATCH_SIZE = 60
BACKBONE = (290, 272, 254, 236, 218, 200)
HEAD = 128
PAPER_SEED = 42

DEFAULT_UPDATES = 60  # of each network, at least; then an evaluation takes some seconds whatever the data

# Measured in the first 60 steps on digits, breast cancer, wine and iris; it does for any data. A bias before a batch
# normalisation has no gradient but what rounding leaves; the weights of a pixel that
# never changes have none.
MLP_PROBE = Probe(
    name="mlp-1",
    tensors=(
        ProbeTensor(18_560, (-0.18, 0.18), 2**-5, zero_element=True),  # the first layer's weights, of 64 features
        ProbeTensor(290, (0.0, 0.0), 2**-28),  # its bias
        ProbeTensor(290, (1.0, 1.0), 2**-7),  # the weights of a batch normalisation
        ProbeTensor(290, (0.0, 0.0), 2**-7),  # its bias
        ProbeTensor(69_088, (-0.15, 0.15), 2**-6),  # a hidden layer's weights
        ProbeTensor(1_280, (-0.29, 0.29), 2**-5),  # the last layer's weights, of 10 classes
        ProbeTensor(10, (0.0, 0.0), 2**-6),  # its bias
    ),
    # Small data have one step an epoch. A program that dies in the first has no finite loss: it is taken afterwards.
    steps_per_epoch=2,
    certain_steps=1,
)


class MLPTask:
    """Trains a deep classifier on a table, in each of ten folds, and reports the loss on the rows left out.

    The network has seven hidden layers of 290 down to 128 units: batch normalisation and ReLU after the first five,
    ReLU after the last. An epoch passes once over the training rows of a fold in batches of 60; ten networks, one a
    fold, are trained side by side. The reported loss of an epoch is the mean over the folds of the cross entropy on the
    rows left out, in nats a row, after the epoch: what the paper's code reports. As there, a batch is normalised by its
    own mean and variance in validation too. The step losses of the curve are training losses, means over the folds.

    At seed 0 folds, batches and initial weights are those of the paper's code. What differs from it:

    * The gradient of each network is clipped to norm 1, as in the PFN task, so that a program means the same on both.
    * "digits", from scikit-learn, is the default. The code's is the credit data, which have to be downloaded:
      "openml-31".
    * Missing values count as the mean; there they make all losses NaN.
    * All folds have as many steps an epoch as the smallest, and with fewer than 60 training rows all are one batch;
      there such a fold would not be trained at all.
    * Training in two parts equals training in one go; there the order of the batches starts again.

    Args:
        data_set: A name in `mlp_data.DATA_SETS`, or "openml-ID".
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        arithmetic: "float32"; there is no other.

    Attributes:
        default_epochs: As many as make 60 updates of each network; the paper reports no result of this task.

    Raises:
        ValueError: If the data set is unknown or can't be got, the device is unknown or not available, or the
            arithmetic is another.
    """

    version = 1
    probe = MLP_PROBE

    def __init__(self, data_set: str = "digits", device: str = "auto", arithmetic: str = "float32") -> None:
        self.device = resolve_device(device)
        if arithmetic != "float32":
            raise ValueError(f"the mlp task computes in 'float32' alone, got arithmetic {arithmetic!r}")
        self.arithmetic = arithmetic
        self.data_set = data_set
        self.name = "mlp" if data_set == "digits" else f"mlp-{data_set}"
        with exact_arithmetic():
            features, _ = load_data_set(data_set)
        rows = len(features)
        smallest = rows - math.ceil(rows / FOLDS)
        self.batch_size = min(BATCH_SIZE, smallest)
        self.steps_per_epoch = smallest // self.batch_size
        self.default_epochs = math.ceil(DEFAULT_UPDATES / self.steps_per_epoch)

    def train(
        self,
        make_optimizer: MakeOptimizer,
        epochs: int | None = None,
        seed: int = 0,
        *,
        on_step: OnStep | None = None,
        checkpoint: Path | str | None = None,
    ) -> Curve:
        """Trains with any optimizer, one for each fold's network; see `Task.train`."""
        epochs, seed = check_epochs(epochs) or self.default_epochs, check_seed(seed)
        with exact_arithmetic():
            features, classes = (data.to(self.device) for data in load_data_set(self.data_set))
            folds = [
                _Fold(features, classes, training, validation, self.batch_size, self.steps_per_epoch, seed)
                for training, validation in split(len(features), seed)
            ]
            sizes = features.shape[1], int(classes.max()) + 1
            models = [initial_model(*sizes, seed).to(self.device) for _ in folds]

            def validate() -> float:
                losses = [fold.validation_loss(model) for fold, model in zip(folds, models, strict=True)]
                return sum(losses) / len(losses)

            batch_losses = [fold.batch_loss for fold in folds]
            return train_models(self, models, batch_losses, make_optimizer, epochs, seed, on_step, checkpoint, validate)

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
        on_cpu = torch.device(self.device).type == "cpu"  # a GPU may lack the kernels
        return train_programs_in_turn(self, programs, epochs, seed, on_step, on_curve, fused=on_cpu)


class _Fold:
    """The rows that a network is trained on, batch by batch, and those that are left out."""

    def __init__(
        self,
        features: Tensor,
        classes: Tensor,
        training: NDArray[np.int64],
        validation: NDArray[np.int64],
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        self._features, self._classes = features, classes
        self._training, self._validation = torch.from_numpy(training), torch.from_numpy(validation)
        self._batch_size, self._steps_per_epoch = batch_size, steps_per_epoch
        self._generator = torch.Generator().manual_seed(PAPER_SEED + seed)
        self._order, self._epoch = self._training, -1

    def batch_loss(self, model: nn.Module, step: int) -> Tensor:
        """The loss of a training step; steps are asked for in order, from any on."""
        epoch, batch = divmod(step, self._steps_per_epoch)
        while self._epoch < epoch:
            self._shuffle()
        return self._loss(model, self._order[batch * self._batch_size : (batch + 1) * self._batch_size])

    def validation_loss(self, model: nn.Module) -> float:
        """The loss on the rows left out."""
        return self._loss(model, self._validation).item()

    def _shuffle(self) -> None:
        """Draws the order of the next epoch as two passes of torch's loaders do, which draw a seed each first."""
        seeds = torch.empty((), dtype=torch.int64)
        seeds.random_(generator=self._generator)
        self._order = self._training[torch.randperm(len(self._training), generator=self._generator)]
        self._epoch += 1
        seeds.random_(generator=self._generator)
        torch.randperm(len(self._validation), generator=self._generator)

    def _loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        rows = rows.to(self._features.device)
        return F.cross_entropy(model(self._features[rows]), self._classes[rows])


def split(rows: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each fold the rows to train on and those to leave out."""
    from sklearn.model_selection import KFold  # takes a second

    folds = KFold(FOLDS, shuffle=True, random_state=PAPER_SEED + seed)
    return list(folds.split(np.empty(rows)))


def initial_model(features: int, classes: int, seed: int) -> nn.Sequential:
    """The network on the CPU, with initial weights by Glorot and Bengio (2010) times the square root of two."""
    linear = partial(skip_init, nn.Linear)  # it would draw weights of its own
    sizes = (features, *BACKBONE)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        # No running statistics: nothing would read them (see `MLPTask`).
        layers += [linear(before, after), nn.BatchNorm1d(after, track_running_stats=False), nn.ReLU()]
    layers += [linear(sizes[-2], sizes[-1]), linear(sizes[-1], HEAD), nn.ReLU(), linear(HEAD, classes)]
    with seeded(PAPER_SEED + seed):
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
