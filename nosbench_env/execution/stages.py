"""Cuts a step's code into fused loops, with the operations between them that a loop over elements can't compute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nosbench_env.execution.step_code import Node, StepCode
from nosbench_env.language.live_code import REDUCTIONS, Kind


@dataclass(frozen=True, slots=True)
class Stage:
    """One level of a step: scalars first, then one loop over the elements, then what stands between the loops.

    All attributes hold indices of nodes in the step's code, in the order in which they can be computed.

    Attributes:
        scalars: Scalars that need what the stages before have computed.
        fused: Elementwise operations of the loop.
        stored: Arrays that the loop stores, for `barriers` or for later stages.
        barriers: Operations on whole arrays, computed after the loop: reductions, and what else was named so.
    """

    scalars: tuple[int, ...]
    fused: tuple[int, ...]
    stored: tuple[int, ...]
    barriers: tuple[int, ...]


def schedule(code: StepCode, barrier_ops: Iterable[str] = REDUCTIONS) -> tuple[Stage, ...]:
    """The stages of a step. The last one's loop also writes the carried slots and the parameter.

    Args:
        code: The code of the step.
        barrier_ops: What the loops can't compute; reductions, at least.
    """
    nodes, barrier_ops = code.nodes, frozenset(barrier_ops)

    def is_barrier(node: Node) -> bool:
        return node.op in barrier_ops and any(nodes[source].kind == Kind.ARRAY for source in node.inputs)

    level: list[int] = []  # the stage in which a value can be computed; for a barrier's result, used
    for node in nodes:
        level.append(max((level[source] for source in node.inputs), default=0) + is_barrier(node))
    last = max(level, default=0)

    fused = [bool(n.inputs) and n.kind == Kind.ARRAY and not is_barrier(n) for n in nodes]
    stored = [False] * len(nodes)
    for index, node in enumerate(nodes):
        for source in node.inputs:
            if fused[source] and (is_barrier(node) or level[source] < level[index]):
                stored[source] = True
    for index in (code.update, *code.carried.values()):
        if fused[index] and level[index] < last:
            stored[index] = True

    def at(stage: int, chosen: Iterable[bool]) -> tuple[int, ...]:
        return tuple(index for index, yes in enumerate(chosen) if yes and level[index] == stage)

    barriers = [is_barrier(node) for node in nodes]
    scalars = [bool(n.inputs) and n.kind < Kind.ARRAY and not is_barrier(n) for n in nodes]
    return tuple(
        Stage(at(stage, scalars), at(stage, fused), at(stage, stored), at(stage + 1, barriers))
        for stage in range(last + 1)
    )
