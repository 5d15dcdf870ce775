"""Configurations of ConfigSpace stand for programs and optimizers, and the other way round."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nosbench_env import BASELINES, FUNCTIONS, KNOWN_PROGRAMS, InvalidProgram, OptimizerConfig, Program, SearchSpace
from nosbench_env.agents.smac_spaces import (
    optimizer_config_space,
    optimizer_configuration,
    optimizer_of,
    program_config_space,
    program_configuration,
    program_of,
)

pytest.importorskip("ConfigSpace")
SPACES = {
    bounds: (SearchSpace(*bounds), program_config_space(SearchSpace(*bounds)))
    for bounds in ((20, 20), (1, 20), (5, 10), (1, 10))
}
OPTIMIZERS = optimizer_config_space()
seeds = st.integers(0, 2**32 - 1)
small = settings(max_examples=40)


@small
@given(st.sampled_from(list(SPACES)), seeds)
def test_a_sampled_configuration_is_a_program_of_the_space_and_back(bounds: tuple[int, int], seed: int) -> None:
    space, configurations = SPACES[bounds]
    configurations.seed(seed)
    configuration = configurations.sample_configuration()
    program = program_of(configuration)
    assert program in space
    back = program_configuration(program, configurations)
    assert back == configuration
    assert np.array_equal(back.get_array(), configuration.get_array(), equal_nan=True)


@small
@given(st.sampled_from(list(SPACES)), seeds)
def test_a_program_of_the_space_is_a_valid_configuration_and_back(bounds: tuple[int, int], seed: int) -> None:
    space, configurations = SPACES[bounds]
    program = space.sample(np.random.default_rng(seed))
    configuration = program_configuration(program, configurations)
    configuration.check_valid_configuration()
    assert program_of(configuration) == program


def test_the_default_space_holds_the_known_programs_and_has_the_papers_bounds() -> None:
    space, configurations = SPACES[20, 20]
    for program in KNOWN_PROGRAMS.values():
        admitted = space.admit(program)
        assert program_of(program_configuration(admitted, configurations)) == admitted
    assert len(configurations) == 1 + 20 * (1 + 3 + 1)
    assert (configurations["length"].lower, configurations["length"].upper) == (1, 20)
    assert (configurations["input_7_2"].lower, configurations["input_7_2"].upper) == (0, 19)
    assert (configurations["output_7"].lower, configurations["output_7"].upper) == (9, 19)
    assert set(configurations["function_7"].choices) == set(FUNCTIONS)


def test_a_worked_out_configuration() -> None:
    program = Program.parse("r9 = interpolate(r9, grad, 0.1); r12 = sqrt(r9)")
    assert dict(program_configuration(program, SPACES[20, 20][1])) == {
        "length": 2,
        "function_1": "interpolate",
        "input_1_1": 9,
        "input_1_2": 1,
        "input_1_3": 5,
        "output_1": 9,
        "function_2": "sqrt",
        "input_2_1": 9,
        "output_2": 12,
    }


def test_samples_are_distributed_as_those_of_the_search_space() -> None:
    """Lengths, functions, inputs and outputs are uniform, each on its own."""
    configurations = program_config_space()
    configurations.seed(0)
    programs = [program_of(configuration) for configuration in configurations.sample_configuration(2000)]
    lengths = Counter(map(len, programs))
    assert lengths.keys() == set(range(1, 21))
    assert all(50 < count < 160 for count in lengths.values())  # 100 expected
    instructions = [instruction for program in programs for instruction in program]
    functions = Counter(instruction.function for instruction in instructions)
    assert functions.keys() == set(FUNCTIONS)
    assert max(functions.values()) < 1.25 * len(instructions) / len(FUNCTIONS)
    outputs = Counter(instruction.output for instruction in instructions)
    assert outputs.keys() == set(range(9, 20))
    assert max(outputs.values()) < 1.2 * len(instructions) / 11


@pytest.mark.parametrize(
    "text", ["", "r10 = mul(grad, 0.1)", "r9 = mul(grad, r11)", "; ".join(["r9 = sqrt(grad)"] * 6)]
)
def test_programs_outside_of_the_space_are_refused(text: str) -> None:
    with pytest.raises(InvalidProgram, match="the program is not in the space"):
        program_configuration(Program.parse(text), SPACES[5, 10][1])


def test_constraints_are_refused() -> None:
    with pytest.raises(ValueError, match="a ConfigSpace can't express the constraints gradient, used"):
        program_config_space(SearchSpace(constraints=("used", "gradient")))


@small
@given(seeds)
def test_a_sampled_optimizer_is_one_that_torch_takes_and_back(seed: int) -> None:
    OPTIMIZERS.seed(seed)
    configuration = OPTIMIZERS.sample_configuration()
    optimizer = optimizer_of(configuration)
    optimizer.make_optimizer([torch.nn.Parameter(torch.ones(2))], 1, 1)
    back = optimizer_configuration(optimizer, OPTIMIZERS)
    assert optimizer_of(back) == optimizer
    assert np.allclose(back.get_array(), configuration.get_array(), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adadelta", "Adagrad", "RMSprop"])
def test_the_ends_of_all_ranges_are_valid(name: str, end: float) -> None:
    """Rounding at the ends could leave a range, as that of a beta below 1."""
    values: dict[str, object] = {"optimizer": name}
    for key, hyperparameter in OPTIMIZERS.items():
        parents = OPTIMIZERS.parent_conditions_of[key]
        if key != "optimizer" and all(name in condition.values for condition in parents):
            values[key] = hyperparameter.upper if end else hyperparameter.lower
    from ConfigSpace import Configuration

    optimizer = optimizer_of(Configuration(OPTIMIZERS, values=values))
    optimizer.make_optimizer([torch.nn.Parameter(torch.ones(2))], 1, 1)
    assert dict(optimizer.hyperparameters)["lr"] == (5.0 if end else 1e-8)
    assert optimizer_of(optimizer_configuration(optimizer, OPTIMIZERS)) == optimizer


def test_the_ranges_are_those_of_the_papers_code() -> None:
    """Written down from the script of SMAC_HPO: ranges, and which optimizer has which hyperparameter."""
    ranges = {
        name.removeprefix("log10_"): (10**number.lower, 10**number.upper, 10**number.default_value)
        for name, number in OPTIMIZERS.items()
        if name != "optimizer"
    }
    for name, expected in {
        "lr": (1e-8, 5.0, 1e-3),
        "weight_decay": (1e-15, 1.0, 1e-8),
        "momentum": (1e-15, 1.0, 1e-8),
        "inv_beta1": (1e-5, 0.99999, 0.1),
        "inv_beta2": (1e-5, 0.99999, 0.001),
        "inv_rho": (1e-5, 0.99999, 0.1),
        "lr_decay": (1e-15, 1.0, 1e-8),
        "inv_alpha": (1e-5, 0.99999, 0.01),
    }.items():
        assert ranges.pop(name) == pytest.approx(expected, rel=1e-9)
    assert not ranges
    fixed: dict[str, set[str]] = {}
    OPTIMIZERS.seed(0)
    for configuration in OPTIMIZERS.sample_configuration(100):
        optimizer = optimizer_of(configuration)
        fixed.setdefault(optimizer.name, set()).update(key for key, _ in optimizer.hyperparameters)
    common = {"lr", "weight_decay"}
    assert fixed == {
        "torch.optim.SGD": common | {"momentum"},
        "torch.optim.Adam": common | {"betas", "eps"},
        "torch.optim.AdamW": common | {"betas", "eps"},
        "torch.optim.Adadelta": common | {"rho", "eps"},
        "torch.optim.Adagrad": common | {"lr_decay", "eps"},
        "torch.optim.RMSprop": common | {"momentum", "alpha", "eps"},
    }


def test_what_is_not_searched_for_is_torchs_default() -> None:
    params = [torch.nn.Parameter(torch.ones(2))]
    OPTIMIZERS.seed(1)
    for configuration in OPTIMIZERS.sample_configuration(50):
        optimizer = optimizer_of(configuration)
        if "eps" in dict(optimizer.hyperparameters):
            default = getattr(torch.optim, optimizer.name.rpartition(".")[2])(params).defaults["eps"]
            assert dict(optimizer.hyperparameters)["eps"] == default


def test_a_drawn_learning_rate_is_the_one_trained_with() -> None:
    """The paper's code trains with a rate of 1 whatever it draws."""
    OPTIMIZERS.seed(0)
    configurations = OPTIMIZERS.sample_configuration(20)
    for configuration in configurations:
        made = optimizer_of(configuration).make_optimizer([torch.nn.Parameter(torch.ones(2))], 1, 1)
        assert math.log10(made.param_groups[0]["lr"]) == pytest.approx(configuration["log10_lr"], abs=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        BASELINES["AdamW-cosine"].candidate,
        OptimizerConfig("torch.optim.NAdam", {"lr": 0.1}),
        OptimizerConfig("torch.optim.SGD", {"lr": 0.1}),
        OptimizerConfig("torch.optim.SGD", {"lr": 10.0, "momentum": 0.1, "weight_decay": 0.1}),
        OptimizerConfig("torch.optim.SGD", {"lr": "a", "momentum": 0.1, "weight_decay": 0.1}),
        OptimizerConfig("torch.optim.SGD", {"lr": 0.1, "momentum": 0.1, "weight_decay": 0.1, "nesterov": True}),
        OptimizerConfig("torch.optim.Adam", {"lr": 0.1, "betas": (0.9, 1.0), "weight_decay": 0.1, "eps": 1e-8}),
        OptimizerConfig("torch.optim.Adam", {"lr": 0.1, "betas": (0.9,), "weight_decay": 0.1, "eps": 1e-8}),
        OptimizerConfig("torch.optim.Adam", {"lr": 0.1, "betas": (0.9, 0.9), "weight_decay": 0.1, "eps": 1e-7}),
    ],
    ids=str,
)
def test_optimizers_outside_of_the_space_are_refused(optimizer: OptimizerConfig) -> None:
    with pytest.raises(ValueError, match="is not in the space of the paper's SMAC_HPO"):
        optimizer_configuration(optimizer, OPTIMIZERS)
