"""The training loop of all tasks: reproducible, and resumable after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nosbench_env.execution.numerics import seeded
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnStep, Progress, Task
from nosbench_env.whole_files import whole_file

_OPTIMIZER_SEED = 7_000_000  # + the training's seed; for optimizers that draw random numbers
MAX_GRAD_NORM = 1.0  # gradients are clipped to this global norm, as in the paper's code


@dataclass(frozen=True)
class Learner:
    """A model with the functions that compute its losses.

    Attributes:
        model: The model, freshly initialised and on its device.
        batch_loss: Computes the loss of step `i`, counted from 0 over the whole training. The loss depends on the
            weights and `i` alone; this makes resuming exact.
        validation_loss: Computes the loss on other data, for a task that reports it instead of the training loss.
    """

    model: nn.Module
    batch_loss: Callable[[int], Tensor]
    validation_loss: Callable[[], float] | None = None


def train_learners(
    task: Task,
    learners: Sequence[Learner],
    make_optimizer: MakeOptimizer,
    epochs: int,
    seed: int,
    on_step: OnStep | None,
    checkpoint: Path | str | None,
) -> Curve:
    """Trains the models in place and returns their common curve.

    Several models are trained side by side, as in a cross-validation. Each has its own optimizer, and its gradient is
    clipped on its own. A step updates all models, and its loss is their mean. If a parameter of one model is not
    finite, all stop, because their mean loss stays non-finite.

    Args:
        task: The task. Together with the seed and the optimizer it names the training in checkpoints.
        learners: The models and their losses; at least one.
        make_optimizer: Called once for each model; see `Task.train`.
        epochs: The length of training. A resumed training counts from its beginning.
        seed: As in `Task.train`.
        on_step: As in `Task.train`.
        checkpoint: As in `Task.train`.

    Raises:
        ValueError: If the checkpoint is damaged or belongs to another training. Another optimizer or other settings,
            as far as its `repr` shows them, make another training.
    """
    # Some optimizers draw random numbers. They draw the same ones in each training, from a generator of their own.
    with seeded(_OPTIMIZER_SEED + seed):
        models = [learner.model for learner in learners]
        optimizers = [make_optimizer(model.parameters()) for model in models]
        steps_per_epoch = task.steps_per_epoch
        training_name = f"{task.name} version {task.version} seed {seed} {task.arithmetic}, with {optimizers[0]!r}"
        history = _LossHistory()
        if checkpoint is not None and Path(checkpoint).exists():
            history = _load_checkpoint(Path(checkpoint), training_name, models, optimizers)
        losses = history.losses
        validates = learners[0].validation_loss is not None

        steps = epochs * steps_per_epoch
        while len(losses) < steps and history.stopped_at is None:
            step = len(losses)
            losses.append(_mean([_update(*pair, step) for pair in zip(learners, optimizers, strict=True)]))
            # The loss does not show this: `sign` maps NaN to 0.
            if not all(_all_finite(list(model.parameters())) for model in models):
                history.stopped_at = len(losses)
            elif validates and len(losses) % steps_per_epoch == 0:
                history.validation_losses.append(_validation_loss(learners, optimizers))
            if on_step is not None:
                on_step(Progress(len(losses), steps, losses[-1]))
            if checkpoint is not None and (len(losses) % steps_per_epoch == 0 or history.stopped_at is not None):
                _save_checkpoint(Path(checkpoint), training_name, models, optimizers, history)

        # The checkpoint may be longer than the training asked for.
        stopped_at = None if history.stopped_at is not None and history.stopped_at > steps else history.stopped_at
        validation_losses = _padded(history.validation_losses, epochs) if validates else None
        step_losses = _padded(losses, steps).reshape(epochs, steps_per_epoch)
        return Curve(step_losses, stopped_at, validation_losses=validation_losses)


def _update(learner: Learner, optimizer: torch.optim.Optimizer, step: int) -> float:
    """Makes one update and returns the loss before it."""
    optimizer.zero_grad()
    loss = learner.batch_loss(step)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(learner.model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    return loss.item()


def _validation_loss(learners: Sequence[Learner], optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """Returns the mean validation loss of the models."""
    with torch.no_grad(), _evaluation_weights(optimizers):
        return _mean([learner.validation_loss() for learner in learners if learner.validation_loss is not None])


@contextmanager
def _evaluation_weights(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Switches schedule-free optimizers to their weights for evaluation."""
    with_modes = [optimizer for optimizer in optimizers if callable(getattr(optimizer, "eval", None))]
    for optimizer in with_modes:
        optimizer.eval()  # type: ignore[attr-defined]  # only some have modes
    try:
        yield
    finally:
        for optimizer in with_modes:
            optimizer.train()  # type: ignore[attr-defined]  # likewise


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)


def _padded(losses: Sequence[float], length: int) -> NDArray[np.float64]:
    """Returns the first `length` losses, padded with NaN."""
    padded = np.full(length, np.nan)
    known = losses[:length]
    padded[: len(known)] = known
    return padded


def _all_finite(params: Sequence[Tensor]) -> bool:
    # A finite norm proves it in one cheap pass. Squares of large finite values overflow; then every value is read.
    norm = nn.utils.get_total_norm([param.detach() for param in params])
    return bool(norm.isfinite()) or all(bool(param.isfinite().all()) for param in params)


@dataclass
class _LossHistory:
    """The losses of a training so far; see `Curve`."""

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    stopped_at: int | None = None


def _save_checkpoint(
    path: Path,
    training_name: str,
    models: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    history: _LossHistory,
) -> None:
    """Writes plain tensors and numbers, in one step."""
    data = {
        "training": training_name,
        "models": [model.state_dict() for model in models],
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.random.get_rng_state(),
        **asdict(history),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(data, file)


def _load_checkpoint(
    path: Path, training_name: str, models: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]
) -> _LossHistory:
    """Restores models, optimizers and torch's random state."""
    try:
        data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        saved_name = data["training"]
        history = _LossHistory(data["losses"], data["validation_losses"], data["stopped_at"])
        if saved_name == training_name:
            if not all(isinstance(loss, float) for loss in history.losses + history.validation_losses):
                raise ValueError("losses")
            if history.stopped_at not in (None, len(history.losses)):
                raise ValueError("stopped_at")
            for model, state in zip(models, data["models"], strict=True):
                model.load_state_dict(state)
            for optimizer, state in zip(optimizers, data["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            torch.random.set_rng_state(data["random"])
            return history
    except Exception as error:  # torch raises many types for a file that is no checkpoint
        raise ValueError(
            f"can't resume from {path}: the file is damaged or no checkpoint; delete it to start again"
        ) from error
    raise ValueError(f"checkpoint {path} belongs to another training.\nExpected: {training_name}\nFound: {saved_name}")
