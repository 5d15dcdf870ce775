"""Simplification: the removal of unnecessary instructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nosbench_env.language.canonical import canonical_form, source_name, value_graph
from nosbench_env.language.live_code import live_code, live_places
from nosbench_env.language.program import CONSTANTS, GRAD, PARAM, STEP, Instruction, Program, check_program

_MAX_LIVE = 40  # longer programs lose dead code only: the rest takes time cubic in the length


def simplify(program: Program) -> Program:
    """Removes all unnecessary instructions.

    The canonical form and the slots' names do not change.

    Unnecessary are instructions that reach no update, and those whose value another slot already holds (`mul(x, 1.0)`,
    or a value computed twice); readers then read that slot. An instruction that repeats a value may have to stay, since
    the update is the value of the last instruction. A program whose update is always +0 becomes the empty program. From
    another with more than 40 live instructions, only instructions that reach no update are removed.

    >>> print(simplify(Program.parse("r9 = exp(step); r10 = mul(grad, 1.0); r9 = mul(r10, 0.1)")))
    r9 = mul(grad, 0.1)

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    code = live_code(check_program(program))[0]
    form = canonical_form(program)
    if form == canonical_form(Program()):
        return Program()
    if len(code) > _MAX_LIVE:
        return Program(code)
    index = len(code) - 1
    while index >= 0:
        for shorter in _without(code, index):
            if canonical_form(Program(shorter)) == form:
                code, index = shorter, len(shorter)  # later instructions may be unnecessary now
                break
        index -= 1
    return Program(code)


def _without(code: Sequence[Instruction], index: int) -> Iterator[tuple[Instruction, ...]]:
    """Yields the code without an instruction, reading another slot instead."""
    graph, removed = value_graph(Program(tuple(code))), code[index]
    if len(graph.values) < len(code):  # some instructions have become dead and may be removed
        yield tuple(instruction for place, instruction in enumerate(code) if place != index)
        return
    value = graph.values[index]
    fixed = [slot for slot in (PARAM, GRAD, STEP, *CONSTANTS) if graph.memory[slot] == value]
    others = [i.output for i, same in zip(code, graph.values, strict=True) if same == value]
    for slot in dict.fromkeys((removed.output, *fixed, *others, *removed.inputs)):
        rest, replacing = list(code[:index]), True
        for later in code[index + 1 :]:
            inputs = tuple(slot if replacing and read == removed.output else read for read in later.inputs)
            rest.append(Instruction(later.function, inputs, later.output))
            replacing = replacing and later.output not in (removed.output, slot)
        yield tuple(rest)


@dataclass(frozen=True, slots=True)
class Explained:
    """An instruction, and the reason if it is unnecessary.

    Attributes:
        instruction: The instruction.
        live: True if its value reaches an update, at this step or a later one.
        remark: The reason why it reaches none, or the value if it needs no computation; else empty.
    """

    instruction: Instruction
    live: bool
    remark: str


def explain(program: Program) -> list[Explained]:
    """Explains which instructions are unnecessary, and why.

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    places = live_places(check_program(program))[0]
    graph = value_graph(program)
    values = dict(zip(places, graph.values, strict=False))  # an empty program has a value and no place
    first_with: dict[int, int] = {}  # value -> the line that computes it first
    explained = []
    for place, instruction in enumerate(program):
        if place not in values:
            explained.append(Explained(instruction, False, _why_dead(program, place + 1)))
            continue
        value = values[place]
        op, inputs, detail = graph.nodes[value]
        remark = ""
        if op == "const":
            remark = f"always {source_name(op, detail)}"
        elif op == "slot":
            remark = "a value of the step before"
        elif not inputs:
            remark = "the number of elements" if op == "numel" else f"the same as {op}"
        elif value in first_with:
            remark = f"the same as line {first_with[value]}"
        first_with.setdefault(value, place + 1)
        explained.append(Explained(instruction, True, remark))
    return explained


def _why_dead(program: Program, line: int) -> str:
    """Explains why an instruction reaches no update, now or next step."""
    output = program[line - 1].output
    readers: list[int] = []
    for other in (*range(line + 1, len(program) + 1), *range(1, line + 1)):
        if output in program[other - 1].inputs:
            readers.append(other)
        if program[other - 1].output == output and other != line:
            if not readers:
                when = "" if other > line else " at the next step"
                return f"line {other} overwrites it{when} before anything reads it"
            break
    others = sorted(set(readers) - {line})
    if not others:
        return "nothing else reads it" if readers else "nothing reads it"
    if len(others) == 1:
        return f"only line {others[0]} reads it, which is unnecessary too"
    return f"only lines {', '.join(map(str, others))} read it, which are unnecessary too"
