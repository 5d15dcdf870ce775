"""Stages of a step: fused loops, separated by barriers.

A barrier is an operation that a loop over elements can't compute, such as a reduction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nosbench_env.execution.step_code import StepCode, StepNode
from nosbench_env.language.functions import REDUCTIONS
from nosbench_env.language.live_code import Kind


@dataclass(frozen=True, slots=True)
class Stage:
    """Scalars, then one loop over elements, then barriers.

    All attributes hold indices of nodes in the step's code, operands first.

    Attributes:
        scalars: Scalars that depend on earlier stages.
        fused: Elementwise operations of the loop.
        stored: Arrays that the loop stores, for `barriers` or for later stages.
        barriers: Operations on whole arrays after the loop: reductions, and others that the caller names.
    """

    scalars: tuple[int, ...]
    fused: tuple[int, ...]
    stored: tuple[int, ...]
    barriers: tuple[int, ...]


def split_into_stages(code: StepCode, barrier_ops: Iterable[str] = REDUCTIONS) -> tuple[Stage, ...]:
    """Splits a step at its barriers.

    The loop of the last stage also writes the carried slots and the parameter.

    Args:
        code: The code of the step.
        barrier_ops: Operations that the loops can't compute; at least the reductions.
    """
    nodes, barrier_ops = code.nodes, frozenset(barrier_ops)

    def is_barrier(node: StepNode) -> bool:
        return node.op in barrier_ops and any(nodes[source].kind == Kind.ARRAY for source in node.inputs)

    stage_of: list[int] = []  # the first stage that can compute a value; of a barrier, the first that can read it
    for node in nodes:
        stage_of.append(max((stage_of[source] for source in node.inputs), default=0) + is_barrier(node))
    last = max(stage_of, default=0)

    fused = [bool(n.inputs) and n.kind == Kind.ARRAY and not is_barrier(n) for n in nodes]
    stored = [False] * len(nodes)
    for index, node in enumerate(nodes):
        for source in node.inputs:
            if fused[source] and (is_barrier(node) or stage_of[source] < stage_of[index]):
                stored[source] = True
    for index in (code.update, *code.carried.values()):
        if fused[index] and stage_of[index] < last:
            stored[index] = True

    def at(stage: int, chosen: Iterable[bool]) -> tuple[int, ...]:
        return tuple(index for index, yes in enumerate(chosen) if yes and stage_of[index] == stage)

    barriers = [is_barrier(node) for node in nodes]
    scalars = [bool(n.inputs) and n.kind < Kind.ARRAY and not is_barrier(n) for n in nodes]
    return tuple(
        Stage(at(stage, scalars), at(stage, fused), at(stage, stored), at(stage + 1, barriers))
        for stage in range(last + 1)
    )
