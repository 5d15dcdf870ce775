"""The MLP task: a deep tabular classifier, as in the paper's code."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

from nosbench_env.execution.numerics import exact_arithmetic, seeded
from nosbench_env.identity.probe import Probe, ProbeTensor
from nosbench_env.tasks.mlp_data import FOLDS, load_data_set
from nosbench_env.tasks.model_task import ModelTask
from nosbench_env.tasks.training import Learner

# From the class `NOSMLPBench` of the paper's code.
BATCH_SIZE = 60
BACKBONE = (290, 272, 254, 236, 218, 200)
HEAD = 128
PAPER_SEED = 42

DEFAULT_UPDATES = 60  # at least, of each network; an evaluation then takes seconds on any data

# Measured in the first 60 steps on digits, breast cancer, wine and iris, and used for all data sets. The gradient of a
# bias before a batch normalisation is rounding error alone; the weights of a constant pixel have gradients of zero.
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
    # Small data sets have one step per epoch. The loss follows the update, so a program that dies in it has none.
    steps_per_epoch=2,
    certain_steps=1,
)


class MLPTask(ModelTask):
    """Trains a deep classifier of tabular data with tenfold cross-validation.

    The network has seven hidden layers of 290 down to 128 units: batch normalisation and ReLU after the first five,
    ReLU after the last. An epoch passes once over the training rows of a fold in batches of 60. Ten networks, one per
    fold, are trained side by side. The reported loss of an epoch is the mean over the folds of the cross entropy on the
    held-out rows, in nats per row, after the epoch, as in the paper's code. As there, batches are normalised by their
    own mean and variance in validation too. The step losses of the curve are training losses, means over the folds.

    At seed 0 folds, batches and initial weights are those of the paper's code. The differences to it are:

    * The gradient of each network is clipped to norm 1, as in the PFN task, so that a program means the same on both.
    * The default is "digits" from scikit-learn. The code's credit data need a download: "openml-31".
    * Missing values count as the mean of the feature. In the code they make all losses NaN.
    * All folds have as many steps per epoch as the smallest. With fewer than 60 training rows all rows are one batch;
      the code does not train such a fold.
    * Training in two parts equals training in one go. In the code the order of the batches starts again.

    Args:
        data_set: A name in `mlp_data.DATA_SETS`, or "openml-ID".
        device: "auto" (a GPU if available), "cpu", "cuda" or "cuda:N".
        arithmetic: Only "float32".

    Attributes:
        default_epochs: The number that makes 60 updates of each network; the paper reports no result of this task.

    Raises:
        ValueError: If the data set is unknown or unavailable, the device is unknown or not available, or the
            arithmetic is another.
    """

    version = 1
    probe = MLP_PROBE

    def __init__(self, data_set: str = "digits", device: str = "auto", arithmetic: str = "float32") -> None:
        self.name = "mlp" if data_set == "digits" else f"mlp-{data_set}"
        super().__init__(device, arithmetic)
        self.fused = torch.device(self.device).type == "cpu"  # a GPU may lack the kernels
        self.data_set = data_set
        with exact_arithmetic():
            features, _ = load_data_set(data_set)
        rows = len(features)
        smallest = rows - math.ceil(rows / FOLDS)
        self.batch_size = min(BATCH_SIZE, smallest)
        self.steps_per_epoch = smallest // self.batch_size
        self.default_epochs = math.ceil(DEFAULT_UPDATES / self.steps_per_epoch)

    def learners(self, seed: int, steps: int) -> list[Learner]:
        """Returns a network for each fold, with its losses."""
        features, classes = (data.to(self.device) for data in load_data_set(self.data_set))
        sizes = features.shape[1], int(classes.max()) + 1
        folds = [
            _Fold(initial_model(*sizes, seed).to(self.device), features, classes, rows, self, seed)
            for rows in split(len(features), seed)
        ]
        return [Learner(fold.model, fold.batch_loss, fold.validation_loss) for fold in folds]


class _Fold:
    """A network with its training rows and its held-out rows."""

    def __init__(
        self,
        model: nn.Module,
        features: Tensor,
        classes: Tensor,
        rows: tuple[NDArray[np.int64], NDArray[np.int64]],
        task: MLPTask,
        seed: int,
    ) -> None:
        self.model = model
        self._features, self._classes = features, classes
        self._training, self._validation = map(torch.from_numpy, rows)
        self._batch_size, self._steps_per_epoch = task.batch_size, task.steps_per_epoch
        self._generator = torch.Generator().manual_seed(PAPER_SEED + seed)
        self._order, self._epoch = self._training, -1

    def batch_loss(self, step: int) -> Tensor:
        """Computes a training step's loss; steps ascend, from any first one."""
        epoch, batch = divmod(step, self._steps_per_epoch)
        while self._epoch < epoch:
            self._shuffle()
        return self._loss(self._order[batch * self._batch_size : (batch + 1) * self._batch_size])

    def validation_loss(self) -> float:
        """Computes the loss on the held-out rows."""
        return self._loss(self._validation).item()

    def _shuffle(self) -> None:
        """Draws the order of the next epoch.

        The draws are those of one pass over each of torch's two loaders, which draw a seed each first.
        """
        seeds = torch.empty((), dtype=torch.int64)
        seeds.random_(generator=self._generator)
        self._order = self._training[torch.randperm(len(self._training), generator=self._generator)]
        self._epoch += 1
        seeds.random_(generator=self._generator)
        torch.randperm(len(self._validation), generator=self._generator)

    def _loss(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._features.device)
        return F.cross_entropy(self.model(self._features[rows]), self._classes[rows])


def split(rows: int, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns training rows and held-out rows of each fold."""
    from sklearn.model_selection import KFold  # takes a second

    folds = KFold(FOLDS, shuffle=True, random_state=PAPER_SEED + seed)
    return list(folds.split(np.empty(rows)))


def initial_model(features: int, classes: int, seed: int) -> nn.Sequential:
    """Makes the network of a fold, on the CPU."""
    linear = partial(skip_init, nn.Linear)  # draws no weights
    sizes = (features, *BACKBONE)
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes[:-1]):
        # No running statistics, since nothing reads them (see `MLPTask`).
        layers += [linear(before, after), nn.BatchNorm1d(after, track_running_stats=False), nn.ReLU()]
    layers += [linear(sizes[-2], sizes[-1]), linear(sizes[-1], HEAD), nn.ReLU(), linear(HEAD, classes)]
    with seeded(PAPER_SEED + seed):  # weights by Glorot and Bengio (2010) times the square root of two
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))
                nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
