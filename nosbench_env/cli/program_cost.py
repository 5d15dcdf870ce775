"""The command `nosbench program cost`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nosbench_env.cli.arguments import read_program
from nosbench_env.cli.options import (
    JsonOption,
    ProgramArgument,
    TaskOption,
    aligned,
    interruptible,
)

if TYPE_CHECKING:
    from nosbench_env.language.costs import Costs
    from nosbench_env.postprocessing.step_time import StepTime


def cost(
    program: ProgramArgument,
    task: TaskOption = "pfn",
    time: Annotated[
        bool,
        typer.Option("--time", help="Also time steps on the task's parameter tensors, beside PyTorch's SGD and AdamW."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Computes a program's cost: state per parameter, work per step.

    State and work are computed, not measured, and the same on every machine. With --time, steps are also timed on this
    machine, on one thread. The task only gives the parameter tensors.

    For example:

    * `nosbench program cost AdamW`
    * `nosbench program cost runs/my-run/best.txt --time --task toy`
    """
    with interruptible(lambda: "Interrupted; nothing was changed."):
        from nosbench_env.language.costs import instructions, program_costs
        from nosbench_env.tasks import check_task_name, make_task

        check_task_name(task)
        parsed = read_program(program)
        costs, length = program_costs(parsed), instructions(parsed)
        shapes: list[tuple[int, ...]] = []
        times: list[StepTime] = []
        if time:
            from nosbench_env.postprocessing.step_time import parameter_shapes, step_times

            shapes = parameter_shapes(make_task(task, device="cpu"))
            times = step_times(parsed, shapes)
    if as_json:
        print(json.dumps(_json(costs, length, task, shapes, times)))
    else:
        print(_text(costs, length, task, shapes, times))


def _json(
    costs: Costs, length: int, task: str, shapes: Sequence[Sequence[int]], times: Sequence[StepTime]
) -> dict[str, Any]:
    data = asdict(costs) | {"bytes_per_parameter": costs.bytes_per_parameter, "instructions": length}
    if times:
        data["time"] = {"task": task, "shapes": shapes, "steps": [asdict(measured) for measured in times]}
    return data


def _text(costs: Costs, length: int, task: str, shapes: Sequence[Sequence[int]], times: Sequence[StepTime]) -> str:
    per_parameter = f"{costs.memory} float{'s' * (costs.memory != 1)} per parameter ({costs.bytes_per_parameter} bytes)"
    kept = [
        f"{count} {scope}"
        for count, scope in (
            (costs.tensor_scalars, "per parameter tensor"),
            (costs.shared_scalars, "for all tensors together"),
        )
        if count
    ]
    slow = "".join(
        f", {count} of them {kind}"
        for count, kind in ((costs.reductions, "reductions"), (costs.transcendentals, "transcendental"))
        if count
    )
    lines = [
        f"memory        {', '.join([per_parameter, *kept])}",
        f"operations    {costs.operations} per parameter and step{slow}",
        f"instructions  {length}, simplified",
    ]
    if times:
        unit = next(step.seconds for step in times if step.name == "AdamW" and step.fused)
        rows = [
            [
                "the program" if step.name == "program" else f"PyTorch's {step.name}",
                "fused" if step.fused else "plain",
                _milliseconds(step.seconds),
                f"{_milliseconds(step.low)} to {_milliseconds(step.high)}",
                f"{step.seconds / unit:.2f}",
            ]
            for step in times
        ]
        header = ["optimizer", "form", "ms a step", "half of the rounds", "of fused AdamW's"]
        numbers = sum(math.prod(shape) for shape in shapes)
        lines += [
            "",
            f"A step over the {task} task's {len(shapes)} tensors, {numbers:,} parameters, on one CPU thread",
            "",
            *aligned([header, *rows], (0, 1)),
        ]
    return "\n".join(lines)


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"
