"""Costs of an optimizer besides its loss: state, work, length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.functions import REDUCTIONS, TRANSCENDENTALS
from nosbench_env.language.live_code import Kind
from nosbench_env.language.program import Program, check_program
from nosbench_env.language.simplify import simplify

_FLOAT_BYTES = 4  # of float32, in which the benchmark trains


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of a program after its first steps.

    They are the same on every machine. The number of operations is a rough measure of time. Over 61 programs, timed on
    131,072 elements on a busy machine, its rank correlation was 0.75 with the time of a plain step and 0.48 with that
    of a fused step, where transcendental functions weigh more. `step_times` measures the time itself.

    Attributes:
        memory: State per parameter, in floats: slots that hold an array from one step to the next. `torch.optim.Adam`
            has 2. The step number is not counted.
        tensor_scalars: Numbers kept for each parameter tensor, such as a norm.
        shared_scalars: Numbers kept once for all tensors, such as a learning rate that decays.
        operations: Element operations per parameter and step. Each operation of the canonical form on an array counts
            1, reductions (`norm`, `mean`, `std`) included, and so does the subtraction of the update from the
            parameter. Operations on single numbers are free.
        reductions: Number of these operations that are reductions; each makes a step wait for a whole tensor.
        transcendentals: Number of these operations that are exponentials, logarithms, powers or trigonometric
            functions, which take longer than the others.
    """

    memory: int
    tensor_scalars: int
    shared_scalars: int
    operations: int
    reductions: int
    transcendentals: int

    @property
    def bytes_per_parameter(self) -> int:
        """State per parameter in bytes, in float32."""
        return _FLOAT_BYTES * self.memory


@lru_cache(maxsize=4096)
def program_costs(program: Program) -> Costs:
    """Computes a program's costs from its canonical form.

    Instructions that no update needs, slots that hold the same value or never leave 0, and constants are therefore not
    counted. An optimizer that runs the program as written may store and compute more. A program that never updates
    anything costs nothing.

    >>> from nosbench_env import KNOWN_PROGRAMS
    >>> program_costs(KNOWN_PROGRAMS["Adam"])
    Costs(memory=2, tensor_scalars=0, shared_scalars=0, operations=14, reductions=0, transcendentals=0)

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    form = canonical_form(check_program(program))
    kinds = form.kinds[-1]
    slots = [kinds[number] for number in form.carried]
    computed = [
        op
        for op, inputs, _ in form.nodes
        if op != "size" and any(kinds[source] == Kind.ARRAY for source in inputs)  # the size is known
    ]
    return Costs(
        memory=slots.count(Kind.ARRAY),
        tensor_scalars=slots.count(Kind.TENSOR),
        shared_scalars=sum(kind <= Kind.STEP for kind in slots),
        operations=len(computed) + (form.behaviour != "no-op"),
        reductions=sum(op in REDUCTIONS for op in computed),
        transcendentals=sum(op in TRANSCENDENTALS for op in computed),
    )


def memory_slots(program: Program) -> int:
    """Returns the state per parameter, in floats; see `Costs.memory`.

    >>> memory_slots(Program.parse("r9 = interpolate(r9, grad, 0.5); r10 = mul(r9, 0.1)"))
    1
    """
    return program_costs(program).memory


def operations(program: Program) -> int:
    """Returns the operations per parameter and step; see `Costs.operations`."""
    return program_costs(program).operations


def instructions(program: Program) -> int:
    """Counts the simplified program's instructions; a rewriting may have fewer."""
    return len(simplify(program))


# The costs that can be objectives beside the loss; less is better.
COSTS: Mapping[str, Callable[[Program], int]] = MappingProxyType(
    {"memory": memory_slots, "operations": operations, "instructions": instructions}
)
