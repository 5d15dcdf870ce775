"""The command `nosbench program cost`: what a program costs beside its loss."""

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
        typer.Option(
            "--time", help="Also measure steps on the task's parameter tensors, beside PyTorch's SGD and AdamW."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Says what a program costs: state per parameter, work per step, and with --time the seconds that a step takes.

    State and work are computed, not measured, and the same on every machine. Times are those of this machine, on one
    thread, as it is now. The task matters for its parameter tensors alone.

    For example:

    * `nosbench program cost AdamW`
    * `nosbench program cost runs/my-run/best.txt --time --task toy`
    """
    with interruptible(lambda: "Interrupted; nothing was changed."):
        from nosbench_env.language.costs import instructions, program_costs
        from nosbench_env.tasks import check_task_name, make_task

        check_task_name(task)
        found = read_program(program)
        costs, length = program_costs(found), instructions(found)
        shapes: list[tuple[int, ...]] = []
        times: list[StepTime] = []
        if time:
            from nosbench_env.postprocessing.step_time import parameter_shapes, step_times

            shapes = parameter_shapes(make_task(task, device="cpu"))
            times = step_times(found, shapes)
    if as_json:
        print(json.dumps(_json(costs, length, task, shapes, times)))
    else:
        print(_text(costs, length, task, shapes, times))


def _json(
    costs: Costs, length: int, task: str, shapes: Sequence[Sequence[int]], times: Sequence[StepTime]
) -> dict[str, Any]:
    data = asdict(costs) | {"bytes_per_parameter": costs.bytes_per_parameter, "instructions": length}
    if times:
        data["time"] = {"task": task, "shapes": shapes, "steps": [asdict(found) for found in times]}
    return data


def _text(costs: Costs, length: int, task: str, shapes: Sequence[Sequence[int]], times: Sequence[StepTime]) -> str:
    per_parameter = f"{costs.memory} float{'s' * (costs.memory != 1)} per parameter ({costs.bytes_per_parameter} bytes)"
    kept = [
        f"{count} {what}"
        for count, what in (
            (costs.tensor_scalars, "per parameter tensor"),
            (costs.shared_scalars, "for all tensors together"),
        )
        if count
    ]
    slow = "".join(
        f", {count} of them {what}"
        for count, what in ((costs.reductions, "reductions"), (costs.transcendentals, "transcendental"))
        if count
    )
    lines = [
        f"memory        {', '.join([per_parameter, *kept])}",
        f"operations    {costs.operations} per parameter and step{slow}",
        f"instructions  {length}, simplified",
    ]
    if times:
        unit = next(found.seconds for found in times if found.name == "AdamW" and found.fused)
        rows = [
            [
                "the program" if found.name == "program" else f"PyTorch's {found.name}",
                "fused" if found.fused else "plain",
                _milliseconds(found.seconds),
                f"{_milliseconds(found.low)} to {_milliseconds(found.high)}",
                f"{found.seconds / unit:.2f}",
            ]
            for found in times
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
