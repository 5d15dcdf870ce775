"""`OptimizerConfig`: an optimizer of a library with its hyperparameters."""

from __future__ import annotations

import ast
import inspect
import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from nosbench_env.versions import installed_version

if TYPE_CHECKING:
    import torch


Schedule = Literal["constant", "cosine", "cosine-to-zero"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)

# Library -> the package to install if it is missing.
LIBRARIES: Mapping[str, str] = MappingProxyType(
    {"torch.optim": "torch", "pytorch_optimizer": "nosbench_env[optimizers]"}
)

_NAME = re.compile(rf"(?P<library>{'|'.join(map(re.escape, LIBRARIES))})\.(?P<class>[A-Z][A-Za-z0-9]{{0,60}})")
_HYPERPARAMETER = re.compile("[a-z][A-Za-z0-9_]{0,60}")
# Arguments that change an optimizer's speed alone, and those that the training sets.
_NOT_HYPERPARAMETERS = frozenset({"params", "foreach", "fused", "capturable", "differentiable", "schedule"})
# Optimizers that need more than a gradient per step: losses within a step, second derivatives, sparse gradients,
# several processes, or the model itself.
_NOT_TRAINABLE = frozenset(
    {
        *(f"torch.optim.{name}" for name in ("LBFGS", "Optimizer", "SparseAdam")),
        *(
            f"pytorch_optimizer.{name}"
            for name in (
                *("AdaHessian", "AdaLOMO", "AdamMini", "AliG", "DistributedMuon", "LBFGS", "LOMO", "PCGrad"),
                *("SafeFP16Optimizer", "SophiaH"),
            )
        ),
    }
)
# Optimizers that treat matrices differently and take the matrices as a group of their own.
_FOR_MATRICES = frozenset(f"pytorch_optimizer.{name}" for name in ("AdaGO", "AdaMuon", "Muon", "MuonClip", "NorMuon"))
_MAX_TEXT = 400  # characters; keys of the store contain the text
_WARMUP_SHARE = 4  # a quarter of the epochs

Hyperparameter: TypeAlias = "bool | int | float | str | tuple[float, ...] | None"


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerConfig:
    """An optimizer of PyTorch or `pytorch_optimizer` with its hyperparameters.

    Args:
        name: Library and class, such as "torch.optim.AdamW" or "pytorch_optimizer.Lion".
        hyperparameters: The keyword arguments: numbers, booleans, short strings, None or tuples of numbers. The others
            have the library's defaults.
        schedule: The change of the learning rate from epoch to epoch in a training of `E` epochs. "constant": none.
            "cosine": from 0 up to `lr` in the first `E // 4` epochs, then down along a half cosine, as in the PFN
            pipeline. "cosine-to-zero": the same over `E - 1` epochs, so that the rate of the last epoch is 0, as in
            the paper's script for Figure 1.

    Optimizers that draw random numbers draw the same ones in each training with a seed, on the CPU.

    Two configurations are equal if their texts are equal; a default that is spelled out makes another configuration.

    Raises:
        ValueError: If the name, a hyperparameter or the schedule is not a valid one.

    >>> config = OptimizerConfig("torch.optim.AdamW", {"lr": 0.001, "betas": (0.9, 0.99)})
    >>> str(config)
    'torch.optim.AdamW(betas=(0.9, 0.99), lr=0.001)'
    >>> OptimizerConfig.parse(str(config)) == config
    True
    """

    name: str
    hyperparameters: tuple[tuple[str, Hyperparameter], ...] = ()
    schedule: Schedule = "constant"

    def __init__(
        self, name: str, hyperparameters: Mapping[str, Any] = MappingProxyType({}), schedule: Schedule = "constant"
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"an optimizer is named like 'torch.optim.AdamW' or 'pytorch_optimizer.Lion', got {reprlib.repr(name)}"
            )
        if name in _NOT_TRAINABLE:
            raise ValueError(
                f"can't train with {name}: it needs more than gradients, and a task gives an optimizer nothing else"
            )
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {reprlib.repr(schedule)}; known are {', '.join(SCHEDULES)}")
        if not isinstance(hyperparameters, Mapping):
            raise ValueError(f"hyperparameters: expected names and values, got {reprlib.repr(hyperparameters)}")
        checked = sorted((_checked_name(key), _checked_value(key, value)) for key, value in hyperparameters.items())
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "hyperparameters", tuple(checked))
        object.__setattr__(self, "schedule", schedule)
        if len(str(self)) > _MAX_TEXT:
            raise ValueError(f"{name}: the text has {len(str(self))} characters; at most {_MAX_TEXT} are allowed")

    def make_optimizer(
        self, params: Iterable[torch.nn.Parameter], epochs: int, steps_per_epoch: int
    ) -> torch.optim.Optimizer:
        """Makes the optimizer for a training of `epochs` epochs.

        Optimizers that treat matrices differently, such as Muon, take all parameters of two or more dimensions as
        matrices. Optimizers with a training mode are in that mode.

        Raises:
            ValueError: If the library is not installed or has no such optimizer, or it refuses a hyperparameter.
        """
        optimizer_class = self._class()
        groups: Any = list(params)
        if self.name in _FOR_MATRICES:
            groups = [
                {"params": [param for param in groups if (param.ndim >= 2) == matrices], "use_muon": matrices}
                for matrices in (True, False)
                if any((param.ndim >= 2) == matrices for param in groups)
            ]
        values: dict[str, Any] = dict(self.hyperparameters)
        try:
            optimizer: torch.optim.Optimizer = optimizer_class(groups, **values)
        except Exception as error:  # libraries raise many types for bad hyperparameters
            raise ValueError(f"{self}: {type(error).__name__}: {error}") from error
        if callable(train := getattr(optimizer, "train", None)):
            train()
        if self.schedule != "constant":
            for group in optimizer.param_groups:
                # In the groups, the count is part of checkpoints, and the schedule is part of the `repr`.
                group |= {"initial_lr": group["lr"], "schedule": f"{self.schedule}, {epochs} epochs", "updates": 0}
            optimizer.register_step_pre_hook(partial(_set_rate, self.schedule, epochs, steps_per_epoch))
        return optimizer

    def _class(self) -> type[torch.optim.Optimizer]:
        import torch

        library, _, class_name = self.name.rpartition(".")
        if (missing := self.missing()) is not None:
            raise ValueError(f"{self.name} {missing}")
        named = getattr(import_module(library), class_name, None)
        if not inspect.isclass(named) or not issubclass(named, torch.optim.Optimizer):
            raise ValueError(f"{library} {self.library_version} has no optimizer {class_name}")
        return named

    def missing(self) -> str | None:
        """Returns the command to install a missing library, or None."""
        library = self.name.rpartition(".")[0]
        if library == "torch.optim" or find_spec(library) is not None:
            return None
        return f"needs {library}: pip install '{LIBRARIES[library]}'"

    @property
    def library_version(self) -> str:
        """The installed version of the library, or `versions.UNKNOWN`."""
        return installed_version(self.name.partition(".")[0])

    def identity_value(self, epochs: int) -> str:
        """Returns the identity value in keys of the store.

        The length of training is part of it if the schedule depends on the length.

        >>> OptimizerConfig("torch.optim.SGD", {"lr": 0.1}, "cosine").identity_value(20)
        "optimizer-1:torch.optim.SGD(lr=0.1,schedule='cosine')@20"
        """
        return f"optimizer-1:{str(self).replace(' ', '')}" + f"@{epochs}" * (self.schedule != "constant")

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as JSON data; the inverse of `from_json`."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in self.hyperparameters}
        return {"optimizer": self.name, "hyperparameters": values, "schedule": self.schedule}

    @classmethod
    def from_json(cls, data: Any) -> OptimizerConfig:
        """Reads the data that `to_json` returns.

        Raises:
            ValueError: If the data describe no configuration.
        """
        expected = {"optimizer", "hyperparameters", "schedule"}
        if not isinstance(data, dict) or data.keys() != expected:
            raise ValueError(f"an optimizer is an object with {', '.join(sorted(expected))}, got {reprlib.repr(data)}")
        return cls(data["optimizer"], data["hyperparameters"], data["schedule"])

    @classmethod
    def parse(cls, text: str) -> OptimizerConfig:
        """Reads the text that `str` writes, without executing it.

        Raises:
            ValueError: If the text describes no configuration.
        """
        invalid = ValueError(
            f"expected an optimizer such as 'torch.optim.AdamW(lr=0.001, betas=(0.9, 0.99))', got {reprlib.repr(text)}"
        )
        try:
            call = ast.parse(text.strip()[: 2 * _MAX_TEXT], mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise invalid
            values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
            if len(values) < len(call.keywords):
                raise invalid
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            raise invalid from None
        return cls(ast.unparse(call.func), values, values.pop("schedule", "constant"))

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other) if isinstance(other, OptimizerConfig) else NotImplemented  # 1 != 1.0

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        arguments = [f"{key}={value!r}" for key, value in self.hyperparameters]
        if self.schedule != "constant":
            arguments.append(f"schedule={self.schedule!r}")
        return f"{self.name}({', '.join(arguments)})"


def rate_factor(schedule: Schedule, epoch: int, epochs: int) -> float:
    """Returns the factor of the learning rate in an epoch, counted from 0.

    >>> [round(rate_factor("cosine", epoch, 8), 3) for epoch in range(8)]
    [0.0, 0.5, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    if schedule == "constant":
        return 1.0
    horizon = max(1, epochs - (schedule == "cosine-to-zero"))
    warmup = horizon // _WARMUP_SHARE
    if epoch < warmup:
        return epoch / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / max(1, horizon - warmup)))


def _set_rate(
    schedule: Schedule, epochs: int, steps_per_epoch: int, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
) -> None:
    """Sets the learning rate of the next update, as a hook."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate_factor(schedule, group["updates"] // steps_per_epoch, epochs)
        group["updates"] += 1


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not _HYPERPARAMETER.fullmatch(name) or name in _NOT_HYPERPARAMETERS:
        raise ValueError(f"expected the name of a hyperparameter, such as 'lr', got {reprlib.repr(name)}")
    return name


def _checked_value(name: str, value: Any) -> Hyperparameter:
    if isinstance(value, (list, tuple)) and len(value) <= 8 and all(map(_is_number, value)):
        return tuple(value)
    short_text = isinstance(value, str) and re.fullmatch("[A-Za-z0-9_.-]{0,40}", value)
    if value is None or isinstance(value, bool) or _is_number(value) or short_text:
        hyperparameter: Hyperparameter = value
        return hyperparameter
    raise ValueError(
        f"hyperparameter {name}: expected a finite number, a boolean, a short text, None or a list of at most 8 "
        f"numbers, got {reprlib.repr(value)}"
    )


def _is_number(value: Any) -> bool:
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**53)
