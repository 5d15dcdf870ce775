import json

import pytest

from nosbench_env import Program
from nosbench_env.postprocessing.step_time import StepTime


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
