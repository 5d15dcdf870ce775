"""Costs of programs, compared with the state of torch's optimizers and of `ProgramOptimizer`."""

import pytest
import torch
from hypothesis import given, settings
from strategies import any_programs, programs

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, canonical_form
from nosbench_env.execution.step_code import step_codes
from nosbench_env.language.costs import COSTS, Costs, instructions, memory_slots, program_costs
from nosbench_env.language.live_code import carried_slots

SHAPE = (3, 2)
PLAIN_SGD = Program.parse("r9 = mul(grad, 0.01)")
MOMENTUM = Program.parse("r9 = sub(1.0, 0.1); r10 = mul(r10, r9); r10 = add(r10, grad); r11 = mul(r10, 0.01)")


def state_per_parameter(optimizer: torch.optim.Optimizer, param: torch.nn.Parameter) -> int:
    """Counts the floats that an optimizer stores for each element of a parameter."""

    def arrays(state: object) -> int:
        if isinstance(state, dict):
            return sum(map(arrays, state.values()))
        return isinstance(state, torch.Tensor) and state.shape == param.shape

    return arrays(optimizer.state[param])


def stepped(make, steps: int = 5) -> int:
    """The state of an optimizer that has taken some steps."""
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.randn(SHAPE))
    optimizer = make([param])
    for _ in range(steps):
        param.grad = torch.randn(SHAPE)
        optimizer.step()
    return state_per_parameter(optimizer, param)


@pytest.mark.parametrize(
    ("program", "make"),
    [
        (PLAIN_SGD, lambda params: torch.optim.SGD(params, lr=0.1)),
        (MOMENTUM, lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)),
        (KNOWN_PROGRAMS["Adam"], torch.optim.Adam),
        (KNOWN_PROGRAMS["AdamW"], torch.optim.AdamW),
        (KNOWN_PROGRAMS["RMSprop"], torch.optim.RMSprop),
        (KNOWN_PROGRAMS["Adagrad"], torch.optim.Adagrad),
        (KNOWN_PROGRAMS["Adadelta"], torch.optim.Adadelta),
    ],
    ids=["SGD", "momentum", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta"],
)
def test_memory_is_that_of_torchs_optimizer(program: Program, make) -> None:
    assert memory_slots(program) == stepped(make)


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_known_programs_hold_as_much_as_is_counted(name: str) -> None:
    program = KNOWN_PROGRAMS[name]
    assert program_costs(program).memory == stepped(lambda params: ProgramOptimizer(params, program, fused=True))


@given(programs())
@settings(max_examples=40)  # compiles each
def test_a_simplified_program_holds_no_less_and_no_more_if_no_slot_is_a_copy(program: Program) -> None:
    simple, costs = program.simplified(), program_costs(program)
    held = stepped(lambda params: ProgramOptimizer(params, simple, fused=True), len(step_codes(simple).steps))
    assert costs.memory <= held
    if len(carried_slots(simple)) == len(canonical_form(program).carried):
        assert costs.memory == held


@given(any_programs())
def test_slots_are_counted_once_each(program: Program) -> None:
    costs = program_costs(program)
    assert costs.memory == memory_slots(program)
    assert costs.memory + costs.tensor_scalars + costs.shared_scalars == len(canonical_form(program).carried)
    assert costs.reductions + costs.transcendentals <= costs.operations
    assert costs.bytes_per_parameter == 4 * costs.memory


@given(programs())
def test_simplification_changes_no_cost(program: Program) -> None:
    simple = program.simplified()
    assert program_costs(simple) == program_costs(program)
    assert all(cost(simple) == cost(program) for cost in COSTS.values())


@given(programs())
def test_only_programs_that_never_update_cost_nothing(program: Program) -> None:
    costs = program_costs(program)
    assert (costs.operations == 0) == (canonical_form(program).behaviour == "no-op")
    if costs.operations == 0:
        assert costs == Costs(0, 0, 0, 0, 0, 0)
        # An update of -0 costs nothing either. It differs from the empty program's +0: it turns a parameter -0 into +0.
        assert instructions(program) == 0 or "update = -0.0" in canonical_form(program).text


@pytest.mark.parametrize(
    ("text", "memory", "tensor_scalars", "shared_scalars", "operations", "reductions"),
    [
        ("", 0, 0, 0, 0, 0),
        ("r9 = sub(grad, grad)", 0, 0, 0, 2, 0),  # NaN stays NaN: it is no no-op
        ("r9 = mul(step, 0.1)", 0, 0, 0, 1, 0),  # a number is subtracted from each parameter
        ("r9 = mul(grad, 0.1)", 0, 0, 0, 2, 0),
        ("r9 = square(grad)", 0, 0, 0, 2, 0),
        ("r9 = interpolate(param, grad, 0.1)", 0, 0, 0, 4, 0),  # 1 - 0.1 is known
        ("r9 = norm(grad); r9 = div(grad, r9)", 0, 0, 0, 3, 1),
        ("r9 = norm(step); r9 = mul(grad, r9)", 0, 0, 0, 2, 0),  # of a number
        ("r9 = size(grad); r9 = div(grad, r9)", 0, 0, 0, 2, 0),  # is known
        ("r10 = add(r10, r11); r11 = add(grad, 0.1); r9 = mul(r10, 0.1)", 2, 0, 0, 4, 0),
        ("r10 = norm(grad); r11 = maximum(r11, r10); r9 = div(grad, r11)", 0, 1, 0, 3, 1),
        ("r10 = add(r10, 0.1); r9 = mul(grad, r10)", 0, 0, 1, 2, 0),
        ("r9 = add(grad, r10); r10 = add(param, r9)", 1, 0, 0, 3, 0),
        ("r9 = mul(grad, 0.1); r10 = mul(grad, 0.1); r10 = sub(r9, r10); r9 = exp(r10)", 0, 0, 0, 4, 0),
    ],
)
def test_costs_worked_out_by_hand(
    text: str, memory: int, tensor_scalars: int, shared_scalars: int, operations: int, reductions: int
) -> None:
    costs = program_costs(Program.parse(text))
    assert (costs.memory, costs.tensor_scalars, costs.shared_scalars) == (memory, tensor_scalars, shared_scalars)
    assert (costs.operations, costs.reductions) == (operations, reductions)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("r9 = exp(grad); r10 = tan(grad); r9 = add(r9, r10)", 2),
        ("r9 = exp(step); r9 = mul(grad, r9)", 0),  # of a number
        ("r9 = bias_correct(grad, param, step)", 1),  # a power of arrays
        ("r9 = bias_correct(grad, 0.1, step)", 0),
    ],
)
def test_transcendental_functions_of_arrays_are_told_apart(text: str, count: int) -> None:
    assert program_costs(Program.parse(text)).transcendentals == count


def test_only_programs_are_taken() -> None:
    with pytest.raises(TypeError, match="Program"):
        program_costs("r9 = mul(grad, 0.1)")  # type: ignore[arg-type]
