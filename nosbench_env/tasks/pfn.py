"""The paper's task: training a small PFN on Bayesian linear regression (Section 3.3 and Appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pfns.model.bar_distribution import FullSupportBarDistribution
from torch import Tensor, nn

from nosbench_env.compiled.lowering import lower
from nosbench_env.program import Program
from nosbench_env.tasks import check_epochs, check_seed
from nosbench_env.tasks.pfn_data import bucket_borders, context_sizes, initial_model, sample_batch
from nosbench_env.tasks.pfn_training import CPUEngine, train_population
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep
from nosbench_env.tasks.training import (
    exact_arithmetic,
    resolve_device,
    train_model,
)


class PFNTask:
    """Trains a Prior-Data Fitted Network for Bayesian ridge regression, as the paper's benchmark does.

    Each step draws 8 data sets of 20 points and the number of points that are context, 0 to 19; the loss is the mean
    negative log likelihood of the others, in nats per point. At seed 0 data, context sizes, bucket borders and initial
    weights are those of the paper's code.

    The loss of a run is noisy: float rounding alone moves AdamW's final loss by 0.08 and other seeds by as much, so
    rankings closer than 0.15 need several seeds.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: If the device is unknown or not available.
    """

    name = "pfn"
    version = 1
    arithmetic = "float32"
    default_epochs = 20  # Appendix F
    steps_per_epoch = 100

    def __init__(self, device: str = "auto") -> None:
        self.device = resolve_device(device)

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
            contexts = context_sizes(epochs * self.steps_per_epoch, seed)
            # The loss of pfns counts what it has seen in its buffers; a fresh one leaves no trace between trainings.
            criterion = FullSupportBarDistribution(bucket_borders(), ignore_nan_targets=True).to(self.device)
            model = initial_model(seed).to(self.device)

            def batch_loss(model: nn.Module, step: int) -> Tensor:
                x, y = (data.to(self.device) for data in sample_batch(step, seed))
                num_context = contexts[step]
                losses = criterion(model(x, y, num_context), y[num_context:].contiguous())
                loss: Tensor = losses.mean(dim=0).nanmean()
                return loss

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
        """Trains once with each program; see `Task.train_programs`."""
        epochs, seed = check_epochs(epochs) or self.default_epochs, check_seed(seed)
        curves: dict[int, Curve] = {}

        def known(index: int, curve: Curve) -> None:
            curves[index] = curve
            if on_curve is not None:
                on_curve(index, curve)

        with exact_arithmetic():
            for index, program in enumerate(programs):
                train_population(
                    CPUEngine([program], seed, epochs * self.steps_per_epoch),
                    1,
                    epochs,
                    self.steps_per_epoch,
                    last_epoch_only=last_epoch_only and not lower(program).reads_gradient,
                    on_step=None if on_step is None else lambda _, progress: on_step(progress),
                    on_curve=lambda _, curve, index=index: known(index, curve),
                )
        return [curves[index] for index in range(len(programs))]
