"""SMAC's search spaces: programs and optimizers as ConfigSpace configurations, and back.

They need ConfigSpace: `pip install 'nosbench_env[smac]'`. It is imported at the first call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from nosbench_env.candidates.optimizer_config import OptimizerConfig
from nosbench_env.language.draft import MAX_ARITY
from nosbench_env.language.functions import FUNCTIONS
from nosbench_env.language.program import FIRST_WRITABLE_SLOT, Instruction, InvalidProgram, Program
from nosbench_env.language.search_space import SearchSpace

if TYPE_CHECKING:
    from ConfigSpace import Configuration, ConfigurationSpace
    from ConfigSpace.hyperparameters import Hyperparameter


def check_installed(*packages: str) -> None:
    """Raises a ValueError that names the extra if a package is missing."""
    for package in packages:
        if find_spec(package) is None:
            raise ValueError(f"searching with SMAC needs {package}: pip install 'nosbench_env[smac]'")


# --- Programs ---------------------------------------------------------------------------------------------------------


def program_config_space(space: SearchSpace | None = None) -> ConfigurationSpace:
    """Returns a search space's programs as a ConfigSpace (Appendix F).

    The first hyperparameter is the `length`, an integer. Instruction 1 has the category `function_1`, the input slots
    `input_1_1`, `input_1_2` and `input_1_3`, as many as the function takes, and the output slot `output_1`; likewise
    for instructions 2, 3, ... up to the length. Slots are integers, as in the paper's code. A uniform sample has the
    distribution of `SearchSpace.sample`.

    The default length is the paper's 20 instructions; its code allows 14.

    Args:
        space: The bounds; the paper's if None.

    Raises:
        ValueError: If ConfigSpace is not installed, or `space` has constraints. Conditions between hyperparameters
            can't express them, since they concern the dependencies between instructions.
    """
    check_installed("ConfigSpace")
    from ConfigSpace import (
        AndConjunction,
        Categorical,
        ConfigurationSpace,
        GreaterThanCondition,
        InCondition,
    )

    space = space or SearchSpace()
    if space.constraints:
        raise ValueError(
            f"a ConfigSpace can't express the constraints {', '.join(space.constraints)}: give a search space without"
        )
    length = _integer("length", 1, space.max_instructions)
    hyperparameters: list[Hyperparameter[Any, Any]] = [length]
    conditions: list[Any] = []
    for number in range(1, space.max_instructions + 1):
        function = Categorical(f"function_{number}", list(FUNCTIONS))
        inputs = [_integer(_input(number, place), 0, space.memory_size - 1) for place in range(MAX_ARITY)]
        output = _integer(f"output_{number}", FIRST_WRITABLE_SLOT, space.memory_size - 1)
        hyperparameters += [function, *inputs, output]
        for hyperparameter in (function, *inputs, output):
            needed: list[Any] = []
            if number > 1:
                needed.append(GreaterThanCondition(hyperparameter, length, number - 1))
            if hyperparameter in inputs:
                takers = [name for name, taker in FUNCTIONS.items() if taker.arity > inputs.index(hyperparameter)]
                if len(takers) < len(FUNCTIONS):
                    needed.append(InCondition(hyperparameter, function, takers))
            if needed:
                conditions.append(needed[0] if len(needed) == 1 else AndConjunction(*needed))
    configurations = ConfigurationSpace(name="programs")
    configurations.add(*hyperparameters, *conditions)
    return configurations


def program_of(configuration: Configuration) -> Program:
    """Returns the program of a configuration of `program_config_space`."""
    instructions = []
    for number in range(1, int(configuration["length"]) + 1):
        function = str(configuration[f"function_{number}"])
        inputs = tuple(int(configuration[_input(number, place)]) for place in range(FUNCTIONS[function].arity))
        instructions.append(Instruction(function, inputs, int(configuration[f"output_{number}"])))
    return Program(tuple(instructions))


def program_configuration(program: Program, configurations: ConfigurationSpace) -> Configuration:
    """Returns the configuration of a program; the inverse of `program_of`.

    Raises:
        InvalidProgram: If the program is not in the space.
    """
    values: dict[str, Any] = {"length": len(program)}
    for number, instruction in enumerate(program, start=1):
        values[f"function_{number}"] = instruction.function
        values |= {_input(number, place): slot for place, slot in enumerate(instruction.inputs)}
        values[f"output_{number}"] = instruction.output
    return _configuration(configurations, values, InvalidProgram(f"the program is not in the space:\n{program}"))


def _input(number: int, place: int) -> str:
    return f"input_{number}_{place + 1}"


# --- Optimizers -------------------------------------------------------------------------------------------------------

# The space of the paper's SMAC_HPO, as in its code: hyperparameter -> (lowest, highest, default), on a log scale.
# `inv_beta1` is 1 less beta1, and so on.
_RANGES: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "lr": (1e-8, 5.0, 1e-3),
        "weight_decay": (1e-15, 1.0, 1e-8),
        "momentum": (1e-15, 1.0, 1e-8),
        "inv_beta1": (1e-5, 0.99999, 0.1),
        "inv_beta2": (1e-5, 0.99999, 1e-3),
        "inv_rho": (1e-5, 0.99999, 0.1),
        "lr_decay": (1e-15, 1.0, 1e-8),
        "inv_alpha": (1e-5, 0.99999, 1e-2),
    }
)
_COMMON = ("lr", "weight_decay")
_OWN: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "SGD": ("momentum",),
        "Adam": ("inv_beta1", "inv_beta2"),
        "AdamW": ("inv_beta1", "inv_beta2"),
        "Adadelta": ("inv_rho",),
        "Adagrad": ("lr_decay",),
        "RMSprop": ("momentum", "inv_alpha"),
    }
)
# PyTorch's defaults of the hyperparameters that are not searched. They are given explicitly, since defaults may change
# and keys of results hold them.
_EPS: Mapping[str, float] = MappingProxyType(
    {"Adam": 1e-8, "AdamW": 1e-8, "Adadelta": 1e-6, "Adagrad": 1e-10, "RMSprop": 1e-8}
)
_DIGITS = 6  # significant digits of a number: readable, short in keys, and the same after a round trip
_DECIMALS = _DIGITS + 5  # decimals of 1 less a number of at least 1e-5


def optimizer_config_space() -> ConfigurationSpace:
    """Returns the optimizers of the paper's SMAC_HPO as a ConfigSpace (Section 4.1).

    The ranges are those of the paper's code. That code trains with a learning rate of 1 whatever it draws; here `lr` is
    used. Numbers are decimal logarithms (`log10_lr`), since ConfigSpace rounds to 13 decimals, which would turn 1e-15
    into 0.

    Raises:
        ValueError: If ConfigSpace is not installed.
    """
    check_installed("ConfigSpace")
    from ConfigSpace import Categorical, ConfigurationSpace, Float, InCondition

    optimizer = Categorical("optimizer", list(_OWN), default="AdamW")
    numbers = {
        name: Float(f"log10_{name}", (math.log10(low), math.log10(high)), default=math.log10(default))
        for name, (low, high, default) in _RANGES.items()
    }
    conditions = [
        InCondition(number, optimizer, [owner for owner, names in _OWN.items() if name in names])
        for name, number in numbers.items()
        if name not in _COMMON
    ]
    configurations = ConfigurationSpace(name="optimizers")
    configurations.add(optimizer, *numbers.values(), *conditions)
    return configurations


def optimizer_of(configuration: Configuration) -> OptimizerConfig:
    """Returns an `optimizer_config_space` configuration's optimizer, with six-digit numbers."""
    name = str(configuration["optimizer"])
    values: dict[str, Any] = {}
    for key in (*_COMMON, *_OWN[name]):
        number = float(f"{10 ** float(configuration[f'log10_{key}']):.{_DIGITS}g}")
        values[key.removeprefix("inv_")] = round(1.0 - number, _DECIMALS) if key.startswith("inv_") else number
    if "beta1" in values:
        values["betas"] = (values.pop("beta1"), values.pop("beta2"))
    if name in _EPS:
        values["eps"] = _EPS[name]
    return OptimizerConfig(f"torch.optim.{name}", values)


def optimizer_configuration(optimizer: OptimizerConfig, configurations: ConfigurationSpace) -> Configuration:
    """Returns the configuration of an optimizer; the inverse of `optimizer_of`.

    Raises:
        ValueError: If the optimizer is not in the space.
    """
    refused = ValueError(f"{optimizer} is not in the space of the paper's SMAC_HPO (see optimizer_config_space)")
    name = optimizer.name.removeprefix("torch.optim.")
    given: dict[str, Any] = dict(optimizer.hyperparameters)
    if name not in _OWN or optimizer.schedule != "constant" or given.pop("eps", None) != _EPS.get(name):
        raise refused
    values: dict[str, Any] = {"optimizer": name}
    try:
        if "betas" in given:
            given["beta1"], given["beta2"] = given.pop("betas")
        for key in (*_COMMON, *_OWN[name]):
            number = given.pop(key.removeprefix("inv_"))
            number = round(1.0 - number, _DECIMALS) if key.startswith("inv_") else number
            low, high, _ = _RANGES[key]
            if not low <= number <= high:
                raise refused
            ends: Any = configurations[f"log10_{key}"]  # rounded by ConfigSpace, so that log10(5) lies outside
            values[ends.name] = min(max(math.log10(number), ends.lower), ends.upper)
    except (KeyError, TypeError, ValueError):
        raise refused from None
    if given:
        raise refused
    return _configuration(configurations, values, refused)


# ----------------------------------------------------------------------------------------------------------------------


def _integer(name: str, low: int, high: int) -> Hyperparameter[Any, Any]:
    from ConfigSpace import Constant, Integer

    return Integer(name, (low, high)) if low < high else Constant(name, low)


def _configuration(configurations: ConfigurationSpace, values: dict[str, Any], refused: ValueError) -> Configuration:
    from ConfigSpace import Configuration

    try:
        return Configuration(configurations, values=values)
    except (ValueError, KeyError):  # unknown names, values out of range
        raise refused from None
