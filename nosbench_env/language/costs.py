"""What an optimizer costs beside its loss, computed from its canonical form: state per parameter, work per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from nosbench_env.language.canonical import CanonicalForm, canonical_form
from nosbench_env.language.live_code import REDUCTIONS, TRANSCENDENTALS, Kind
from nosbench_env.language.program import Program, check_program
from nosbench_env.language.simplify import simplify

_FLOAT_BYTES = 4  # of float32, in which the benchmark trains
_SOURCE_KINDS = {"param": Kind.ARRAY, "grad": Kind.ARRAY, "step": Kind.STEP, "numel": Kind.TENSOR, "const": Kind.CONST}


@dataclass(frozen=True, slots=True)
class Costs:
    """What a program costs, once its first steps are done; the same on every machine.

    Operations say only roughly what a step takes. Of 61 programs, stepped over 131,072 elements on a busy machine,
    their number had a rank correlation of 0.75 with the time of a plain step and of 0.48 with that of a fused one,
    where transcendental functions weigh more. `step_times` measures it.

    Attributes:
        memory: State per parameter, in floats: slots that hold an array from a step to the next. `torch.optim.Adam`
            has 2. The step number is not counted.
        tensor_scalars: Numbers kept for each parameter tensor: slots that hold one, such as a norm.
        shared_scalars: Numbers kept that are the same for all tensors, such as a learning rate that decays.
        operations: Element operations per parameter and step. Each operation of the canonical form that goes over an
            array counts 1, whatever it computes, also a reduction (`norm`, `mean`, `std`); so does the subtraction of
            the update from the parameter. Operations on single numbers are free.
        reductions: How many of the operations are reductions: each makes a step wait for a whole tensor.
        transcendentals: How many of them are exponentials, logarithms, powers and trigonometric functions, which take
            longer than the rest.
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
    """What a program costs.

    All of it is that of the canonical form: of instructions that no update needs, of slots that hold the same or never
    leave 0, and of constants nothing is counted. An optimizer that runs the program as it is written may hold and
    compute more. A program that never updates anything costs nothing.

    >>> from nosbench_env import KNOWN_PROGRAMS
    >>> program_costs(KNOWN_PROGRAMS["Adam"])
    Costs(memory=2, tensor_scalars=0, shared_scalars=0, operations=14, reductions=0, transcendentals=0)

    Raises:
        TypeError: If `program` is not a `Program`.
    """
    form = canonical_form(check_program(program))
    kinds, slots = _kinds(form)
    computed = [
        op
        for op, inputs, _ in form.nodes
        if op != "size" and any(kinds[source] == Kind.ARRAY for source in inputs)  # how many there are is known
    ]
    return Costs(
        memory=slots.count(Kind.ARRAY),
        tensor_scalars=slots.count(Kind.TENSOR),
        shared_scalars=slots.count(Kind.STEP),
        operations=len(computed) + (form.behaviour != "no-op"),
        reductions=sum(op in REDUCTIONS for op in computed),
        transcendentals=sum(op in TRANSCENDENTALS for op in computed),
    )


def memory_slots(program: Program) -> int:
    """State per parameter, in floats; see `Costs.memory`.

    >>> memory_slots(Program.parse("r9 = interpolate(r9, grad, 0.5); r10 = mul(r9, 0.1)"))
    1
    """
    return program_costs(program).memory


def operations(program: Program) -> int:
    """Element operations per parameter and step; see `Costs.operations`."""
    return program_costs(program).operations


def instructions(program: Program) -> int:
    """How many instructions the simplified program has. Another way to write the same may do with fewer."""
    return len(simplify(program))


# What may stand beside the loss where programs are compared by several objectives; of each, less is better.
COSTS: Mapping[str, Callable[[Program], int]] = MappingProxyType(
    {"memory": memory_slots, "operations": operations, "instructions": instructions}
)


def _kinds(form: CanonicalForm) -> tuple[list[Kind], list[Kind]]:
    """How much each value and each carried slot varies, from the step on after which that stays as it is.

    All slots start as the number 0, and what they hold only ever grows in kind.
    """
    slots = [Kind.STEP] * len(form.carried)
    while True:
        kinds: list[Kind] = []
        for op, inputs, detail in form.nodes:
            if not inputs:
                kinds.append(slots[int(detail)] if op == "slot" else _SOURCE_KINDS[op])
                continue
            greatest = max(kinds[source] for source in inputs)
            reduces = op in (*REDUCTIONS, "size") and greatest == Kind.ARRAY
            kinds.append(Kind.TENSOR if reduces else greatest)
        after = [max(Kind.STEP, kinds[value]) for value in form.carried]
        if after == slots:
            return kinds, slots
        slots = after
