"""Baselines: hand-written optimizers, the paper's (Figure 1) and later ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from nosbench_env.candidates.candidate import Candidate
from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.language.known_programs import KNOWN_PROGRAMS

PAPER_EPOCHS = 20  # Appendix F
NOISE = 0.15  # nats; the difference that rounding alone makes between two trainings of an optimizer on the "pfn" task

Group = Literal["program", "torch", "schedule", "recent"]
GROUPS: tuple[Group, ...] = get_args(Group)


@dataclass(frozen=True, slots=True)
class Baseline:
    """An optimizer to compare with.

    Attributes:
        name: The key in `BASELINES`.
        candidate: The program or the optimizer, as the oracle takes it.
        group: "program": one of `KNOWN_PROGRAMS`. "torch": from PyTorch, with its defaults. "schedule": AdamW with a
            schedule of the learning rate. "recent": from the library `pytorch_optimizer`, with its defaults.
        paper_loss: The loss of the paper's code with this optimizer on the "pfn" task in 20 epochs at seed 0, in nats,
            with a noise of about `NOISE`. None if the code has no such optimizer.
    """

    name: str
    candidate: Candidate
    group: Group
    paper_loss: float | None = None


_PAPER_LOSSES: Mapping[str, float] = {
    "SGD": 0.516,
    "SignSGD": 12.6,
    "Adam": -0.14,
    "AdamW": -0.093,
    "RMSprop": 1.5696,
    "Adagrad": 1.5691,
    "Adadelta": -0.191,
    "HeroLion": 1.5687,
    "PowerSign": 0.866,
    "AddSign": 1.001,
    "Incumbent": -0.464,
    "AdamW-cosine": -0.43,
}

# Keys of results contain the hyperparameters. They are spelled out, since libraries have changed their defaults.
_TORCH: Mapping[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0},
    "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
    "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.0},
    "Adagrad": {"lr": 1e-2, "lr_decay": 0.0, "eps": 1e-10, "weight_decay": 0.0},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
}
_RECENT: Mapping[str, dict[str, Any]] = {
    "Lion": {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0},
    "AdaBelief": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-16, "weight_decay": 0.0},
    "Adan": {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0},
    "Prodigy": {"lr": 1.0, "betas": (0.9, 0.999), "d0": 1e-6, "weight_decay": 0.0},
    "ScheduleFreeAdamW": {"lr": 2.5e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    "Muon": {"lr": 2e-2, "momentum": 0.95, "weight_decay": 0.0, "adamw_lr": 3e-4},
}


def _baselines() -> Mapping[str, Baseline]:
    members: dict[str, tuple[Candidate, Group]] = {
        name: (program, "program") for name, program in KNOWN_PROGRAMS.items()
    }
    for name, values in _TORCH.items():
        members[f"torch.{name}"] = OptimizerConfig(f"torch.optim.{name}", values), "torch"
    # The first is the default of `pfns`: no weight decay, warm-up in a quarter of the epochs. The second is that of the
    # repository's script for Figure 1. The paper does not define its "default PFN pipeline optimizer" exactly.
    adamw = _TORCH["AdamW"]
    members["AdamW-cosine"] = OptimizerConfig("torch.optim.AdamW", adamw | {"weight_decay": 0.0}, "cosine"), "schedule"
    members["AdamW-cosine-to-zero"] = OptimizerConfig("torch.optim.AdamW", adamw, "cosine-to-zero"), "schedule"
    for name, values in _RECENT.items():
        members[name] = OptimizerConfig(f"pytorch_optimizer.{name}", values), "recent"
    return MappingProxyType(
        {name: Baseline(name, *candidate, _PAPER_LOSSES.get(name)) for name, candidate in members.items()}
    )


BASELINES: Mapping[str, Baseline] = _baselines()


def differs_from_paper(mean: float | None, paper_loss: float) -> bool:
    """Returns True if a mean differs beyond noise or isn't finite (None)."""
    return mean is None or abs(mean - paper_loss) > NOISE * max(1.0, abs(paper_loss))


def baseline_name(text: str) -> str | None:
    """Returns a text's key in `BASELINES`, in any case, or None."""
    return next((name for name in BASELINES if name.lower() == text.lower()), None)


def named_baselines(names: Sequence[str]) -> list[Baseline]:
    """Returns the baselines of names and groups; all for no names.

    Each appears once, in the order of `BASELINES`.

    Raises:
        ValueError: If a name is neither that of a baseline nor of a group.
    """
    chosen: set[str] = set()
    for name in names:
        if name.lower() in GROUPS:
            chosen |= {key for key, baseline in BASELINES.items() if baseline.group == name.lower()}
        elif (key := baseline_name(name)) is not None:
            chosen.add(key)
        else:
            raise ValueError(
                f"unknown baseline {name!r}; known are {', '.join(BASELINES)}, and the groups {', '.join(GROUPS)}"
            )
    return [baseline for key, baseline in BASELINES.items() if not names or key in chosen]
