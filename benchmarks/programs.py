"""Programs that the benchmarks run beside the known ones."""

from __future__ import annotations

import operator
from itertools import product

from nosbench_env import KNOWN_PROGRAMS, Program

NORMALISED = Program.parse("""
    r9 = sub(1.0, 0.1)
    r10 = interpolate(r10, grad, r9)    # momentum
    r11 = norm(r10)
    r11 = add(r11, 1e-06)
    r12 = div(r10, r11)                 # of norm 1
    r12 = mul(r12, 0.001)
""")
TWO_LEVELS = Program.parse("""
    r9 = mean(grad)
    r10 = sub(grad, r9)                 # the second reduction needs the result of the first for every element
    r11 = norm(r10)
    r11 = add(r11, 1e-06)
    r12 = div(r10, r11)
    r12 = mul(r12, 0.001)
""")
TRANSCENDENTAL = Program.parse("""
    r9 = sin(grad)
    r10 = exp(r9)
    r11 = arctan(r10)
    r11 = mul(r11, grad)
    r12 = mul(r11, 0.01)
""")
DIES_AT_11 = Program.parse("""
    r9 = div(1.0, 0.1)
    r9 = sub(step, r9)
    r9 = sub(r9, 1.0)                   # step - 11
    r10 = div(grad, r9)                 # not finite at step 11
    r10 = mul(r10, 0.001)
""")
GRADIENT_FREE = Program.parse("r9 = mul(param, 0.001)")


def adamw_variants(count: int) -> list[Program]:
    """Returns programs that cost as much as AdamW, with different learning rates.

    The rates lie between 0.0001 and 0.002. The fingerprint tells the programs apart: rates differ by at least a
    ten-thousandth of their size.
    """
    *head, last = str(KNOWN_PROGRAMS["AdamW"]).splitlines()
    assert last == "r19 = mul(r19, 0.001)"
    slots = {"1.0": 1.0, "0.5": 0.5, "0.1": 0.1, "0.01": 0.01, "r9": 0.9, "r10": 0.999}  # r9, r10: the betas
    rates: list[float] = []
    variants = []
    for a, b, c, (first, of_two), (second, of_three) in product(slots, slots, slots, _FUNCTIONS, _FUNCTIONS):
        rate = of_three(of_two(slots[a], slots[b]), slots[c])
        if 0.1 < rate < 2 and all(abs(rate - other) > 1e-4 * other for other in rates):
            rates.append(rate)
            scale = [f"r20 = {first}({a}, {b})", f"r20 = {second}(r20, {c})", "r20 = mul(r20, 0.001)"]
            variants.append(Program.parse("\n".join([*head, *scale, "r19 = mul(r19, r20)"])))
            if len(variants) == count:
                return variants
    raise ValueError(f"count must be at most {len(variants)}, got {count}")


_FUNCTIONS = (("mul", operator.mul), ("add", operator.add), ("sub", operator.sub), ("div", operator.truediv))
