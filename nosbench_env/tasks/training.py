"""The training loop that all tasks share: reproducible, resumable after any epoch, stopped when parameters die."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nosbench_env.execution.numerics import seeded
from nosbench_env.execution.optimizer import ProgramOptimizer
from nosbench_env.language.program import Program
from nosbench_env.tasks.task import Curve, MakeOptimizer, OnCurve, OnStep, Progress, Task

_OPTIMIZER_SEED = 7_000_000  # + the training's seed; for optimizers that draw random numbers
MAX_GRAD_NORM = 1.0  # gradients are clipped to this global norm, as in the paper's code


BatchLoss = Callable[[nn.Module, int], Tensor]


def train_model(
    task: Task,
    model: nn.Module,
    batch_loss: BatchLoss,
    make_optimizer: MakeOptimizer,
    epochs: int,
    seed: int,
    on_step: OnStep | None,
    checkpoint: Path | str | None,
) -> Curve:
    """Trains `model` in place and returns its curve: what is left of `Task.train` once model and data are there.

    Args:
        task: The task; with the seed and the optimizer it names the training. A checkpoint of another training is
            refused, also of one with another optimizer or other settings, as far as its `repr` shows them.
        model: The model, freshly initialised and on its device.
        batch_loss: Gives the loss of step `i`, counted from 0 over the whole training; a function of the model and `i`
            alone, which is what makes resuming exact.
        make_optimizer: As in `Task.train`.
        epochs: How long, counted from the beginning also when resuming.
        seed: As in `Task.train`.
        on_step: As in `Task.train`.
        checkpoint: As in `Task.train`.
    """
    return train_models(task, [model], [batch_loss], make_optimizer, epochs, seed, on_step, checkpoint)


def train_models(
    task: Task,
    models: Sequence[nn.Module],
    batch_losses: Sequence[BatchLoss],
    make_optimizer: MakeOptimizer,
    epochs: int,
    seed: int,
    on_step: OnStep | None,
    checkpoint: Path | str | None,
    validate: Callable[[], float] | None = None,
) -> Curve:
    """Trains models side by side, as folds of a cross-validation are; otherwise as `train_model`.

    Each has an optimizer of its own, and its gradients are clipped on their own. A step updates all of them, and its
    loss is their mean. When a parameter of one is not finite, all stop: no mean with it is finite any more.

    Args:
        task: As in `train_model`.
        models: The models.
        batch_losses: For each model what gives its losses, as in `train_model`.
        make_optimizer: Called once for each model.
        epochs: As in `train_model`.
        seed: As in `train_model`.
        on_step: As in `train_model`.
        checkpoint: As in `train_model`.
        validate: Gives the loss that counts, from the models as they are; called after each epoch, without gradients.
    """
    # Some optimizers draw random numbers: the same ones in each training, and nobody else's.
    with seeded(_OPTIMIZER_SEED + seed):
        optimizers = [make_optimizer(model.parameters()) for model in models]
        steps_per_epoch = task.steps_per_epoch
        training_name = f"{task.name} version {task.version} seed {seed} {task.arithmetic}, with {optimizers[0]!r}"
        known = _Known()
        if checkpoint is not None and Path(checkpoint).exists():
            known = _load_checkpoint(Path(checkpoint), training_name, models, optimizers)
        losses = known.losses

        steps = epochs * steps_per_epoch
        while len(losses) < steps and known.stopped_at is None:
            step = len(losses)
            parts = [
                _update(model, optimizer, batch_loss, step)
                for model, optimizer, batch_loss in zip(models, optimizers, batch_losses, strict=True)
            ]
            losses.append(sum(parts) / len(parts))
            # The loss can't tell: `sign` stops a NaN.
            if not all(_all_finite(list(model.parameters())) for model in models):
                known.stopped_at = len(losses)
            elif validate is not None and len(losses) % steps_per_epoch == 0:
                with torch.no_grad(), _evaluating(optimizers):
                    known.validation_losses.append(validate())
            if on_step is not None:
                on_step(Progress(len(losses), steps, losses[-1]))
            if checkpoint is not None and (len(losses) % steps_per_epoch == 0 or known.stopped_at is not None):
                _save_checkpoint(Path(checkpoint), training_name, models, optimizers, known)

        # The checkpoint may have gone further than asked.
        stopped_at = None if known.stopped_at is not None and known.stopped_at > steps else known.stopped_at
        validation_losses = None if validate is None else _padded(known.validation_losses, epochs)
        step_losses = _padded(losses, steps).reshape(epochs, steps_per_epoch)
        return Curve(step_losses, stopped_at, validation_losses=validation_losses)


@contextmanager
def _evaluating(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Shows the weights that optimizers are judged by, which for the schedule-free ones are not those they train."""
    with_modes = [found for found in optimizers if callable(getattr(found, "eval", None))]
    for optimizer in with_modes:
        optimizer.eval()  # type: ignore[attr-defined]  # only some have modes
    try:
        yield
    finally:
        for optimizer in with_modes:
            optimizer.train()  # type: ignore[attr-defined]  # likewise


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, batch_loss: BatchLoss, step: int) -> float:
    """One update; returns the loss before it."""
    optimizer.zero_grad()
    loss = batch_loss(model, step)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    optimizer.step()
    return loss.item()


def _padded(losses: Sequence[float], length: int) -> NDArray[np.float64]:
    """The first `length` losses; NaN where there are none."""
    found = np.array(losses[:length], dtype=np.float64)
    return np.concatenate([found, np.full(length - len(found), np.nan)])


def train_programs_in_turn(
    task: Task,
    programs: Sequence[Program],
    epochs: int | None,
    seed: int,
    on_step: OnStep | None,
    on_curve: OnCurve | None,
    *,
    fused: bool = False,
) -> list[Curve]:
    """`Task.train_programs` for a task that knows nothing faster than one training after the other.

    With `fused`, each with its program compiled, which pays for large tensors; see `ProgramOptimizer`.
    """
    curves = []
    for index, program in enumerate(programs):

        def tell(progress: Progress, index: int = index) -> None:
            if on_step is not None:
                on_step(replace(progress, index=index, programs=len(programs)))

        curve = task.train(
            partial(ProgramOptimizer, program=program, fused=fused),
            epochs,
            seed,
            on_step=None if on_step is None else tell,
        )
        if on_curve is not None:
            on_curve(index, curve)
        curves.append(curve)
    return curves


def _all_finite(params: Sequence[Tensor]) -> bool:
    # A finite norm proves it in one cheap pass; squares of large finite values overflow, so then every value is read.
    norm = nn.utils.get_total_norm([param.detach() for param in params])
    return bool(norm.isfinite()) or all(bool(param.isfinite().all()) for param in params)


@dataclass
class _Known:
    """What is known of a training so far: see `Curve`."""

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    stopped_at: int | None = None


def _save_checkpoint(
    path: Path,
    training_name: str,
    models: Sequence[nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    known: _Known,
) -> None:
    """Writes plain tensors and numbers, to a temporary file first, so that a kill leaves the last whole checkpoint."""
    data = {
        "training": training_name,
        "models": [model.state_dict() for model in models],
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.random.get_rng_state(),
        **asdict(known),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save(data, temporary)
    temporary.replace(path)


def _load_checkpoint(
    path: Path, training_name: str, models: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer]
) -> _Known:
    try:
        data: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = data["training"]
        known = _Known(data["losses"], data["validation_losses"], data["stopped_at"])
        if found == training_name:
            if not all(isinstance(loss, float) for loss in known.losses + known.validation_losses):
                raise ValueError("losses")
            if known.stopped_at not in (None, len(known.losses)):
                raise ValueError("stopped_at")
            for model, state in zip(models, data["models"], strict=True):
                model.load_state_dict(state)
            for optimizer, state in zip(optimizers, data["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            torch.random.set_rng_state(data["random"])
            return known
    except Exception as error:  # torch raises many types for a file that is no checkpoint
        raise ValueError(
            f"can't resume from {path}: it is damaged or no checkpoint; delete it to begin again"
        ) from error
    raise ValueError(f"checkpoint {path} belongs to another training.\nExpected: {training_name}\nFound: {found}")
