"""Costs of programs, beside what torch's optimizers and `ProgramOptimizer` really hold."""

import json

import pytest
import torch
from hypothesis import given, settings
from strategies import any_programs, programs

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, canonical_form, make_task
from nosbench_env.execution.step_code import lower
from nosbench_env.language.costs import COSTS, Costs, instructions, memory_slots, program_costs
from nosbench_env.language.live_code import carried_slots
from nosbench_env.postprocessing.step_time import StepTime, parameter_shapes, step_times

SHAPE = (3, 2)
PLAIN_SGD = Program.parse("r9 = mul(grad, 0.01)")
MOMENTUM = Program.parse("r9 = sub(1.0, 0.1); r10 = mul(r10, r9); r10 = add(r10, grad); r11 = mul(r10, 0.01)")


def state_per_parameter(optimizer: torch.optim.Optimizer, param: torch.nn.Parameter) -> int:
    """How many floats an optimizer holds for each element of a parameter."""

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
def test_known_programs_hold_what_is_counted(name: str) -> None:
    program = KNOWN_PROGRAMS[name]
    assert program_costs(program).memory == stepped(lambda params: ProgramOptimizer(params, program, fused=True))


@given(programs())
@settings(max_examples=40)  # compiles each
def test_a_simplified_program_holds_no_less_and_no_more_if_no_slot_is_a_copy(program: Program) -> None:
    simple, costs = program.simplified(), program_costs(program)
    held = stepped(lambda params: ProgramOptimizer(params, simple, fused=True), len(lower(simple).steps))
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
def test_only_what_never_updates_is_for_nothing(program: Program) -> None:
    costs = program_costs(program)
    assert (costs.operations == 0) == (canonical_form(program).behaviour == "no-op")
    if costs.operations == 0:
        assert costs == Costs(0, 0, 0, 0, 0, 0)
        assert instructions(program) == 0


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


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(TypeError, match="Program"):
        program_costs("r9 = mul(grad, 0.1)")  # type: ignore[arg-type]


def test_the_shapes_of_a_tasks_parameters_are_found() -> None:
    assert parameter_shapes(make_task("toy", device="cpu")) == [(16, 4), (16,), (3, 16), (3,)]


def test_steps_are_timed_in_turn() -> None:
    threads = torch.get_num_threads()
    times = step_times(KNOWN_PROGRAMS["Adam"], [(4, 3), ()], rounds=3)
    assert [(found.name, found.fused) for found in times] == [
        (name, fused) for name in ("program", "SGD", "AdamW") for fused in (False, True)
    ]
    assert all(0 < found.low <= found.seconds <= found.high < 1 for found in times)
    assert torch.get_num_threads() == threads


def test_more_elements_take_more_time() -> None:
    (_, small, *_), (_, large, *_) = (step_times(KNOWN_PROGRAMS["Adam"], [(n,)], rounds=1) for n in (1, 1 << 18))
    assert small.seconds < large.seconds


@pytest.mark.parametrize(
    ("shapes", "rounds", "message"), [([], 1, "at least one tensor"), ([(1,)], 0, "rounds must be at least 1, got 0")]
)
def test_nothing_to_time_is_refused(shapes: list[tuple[int, ...]], rounds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_times(PLAIN_SGD, shapes, rounds=rounds)


def test_the_command_says_what_a_program_costs(nosbench) -> None:
    run = nosbench("program", "cost", "Adam")
    assert run.code == 0
    assert run.out.splitlines() == [
        "memory        2 floats per parameter (8 bytes)",
        "operations    14 per parameter and step",
        "instructions  12, simplified",
    ]
    text = "r10 = norm(grad); r11 = maximum(r11, r10); r9 = div(grad, r11)"
    run = nosbench("program", "cost", text)
    assert "0 floats per parameter (0 bytes), 1 per parameter tensor" in run.out
    assert "3 per parameter and step, 1 of them reductions" in run.out


def test_the_command_measures_steps_if_asked(nosbench) -> None:
    run = nosbench("program", "cost", "SGD", "--task", "toy", "--time", "--json")
    data = json.loads(run.out)
    assert data["memory"] == 1
    assert data["time"]["shapes"] == [[16, 4], [16], [3, 16], [3]]
    assert [step["name"] for step in data["time"]["steps"]] == ["program", "program", "SGD", "SGD", "AdamW", "AdamW"]


def test_the_command_shows_times_in_a_table(nosbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(program: Program, shapes: list[tuple[int, ...]]) -> list[StepTime]:
        names = [(name, fused) for name in ("program", "SGD", "AdamW") for fused in (False, True)]
        return [StepTime(name, fused, k / 1e3, 0.5 * k / 1e3, 2 * k / 1e3) for k, (name, fused) in enumerate(names, 1)]

    monkeypatch.setattr("nosbench_env.postprocessing.step_time.step_times", measured)
    run = nosbench("program", "cost", "SGD", "--task", "toy", "--time")
    lines = [" ".join(line.split()) for line in run.out.splitlines()]
    assert "A step over the toy task's 4 tensors, 131 parameters, on one CPU thread" in lines
    assert lines[-6] == "the program plain 1 0.5 to 2 0.17"
    assert lines[-1] == "PyTorch's AdamW fused 6 3 to 12 1.00"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Adamm"], "'Adamm' is no known program"),
        (["r9 = exp(grad, grad)"], "'exp'"),
        (["Adam", "--task", "nope"], "unknown task 'nope'"),
    ],
)
def test_wrong_use_is_told(nosbench, arguments: list[str], message: str) -> None:
    run = nosbench("program", "cost", *arguments)
    assert run.code == 2
    assert message in run.err
