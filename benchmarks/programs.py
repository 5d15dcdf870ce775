"""The programs that the benchmarks run beside the known ones."""

from __future__ import annotations

from nosbench_env import KNOWN_PROGRAMS, Program

NORMALISED = Program.parse("""
    r9 = sub(1.0, 0.1)
    r10 = interpolate(r10, grad, r9)    # momentum
    r11 = norm(r10)
    r11 = add(r11, 1e-06)
    r12 = div(r10, r11)                 # of norm 1
    r12 = mul(r12, 0.01)
""")
TWO_LEVELS = Program.parse("""
    r9 = mean(grad)
    r10 = sub(grad, r9)                 # the second reduction needs the result of the first for every element
    r11 = norm(r10)
    r11 = add(r11, 1e-06)
    r12 = div(r10, r11)
    r12 = mul(r12, 0.01)
""")
TRANSCENDENTAL = Program.parse("""
    r9 = sin(grad)
    r10 = exp(r9)
    r11 = arctan(r10)
    r11 = mul(r11, grad)
    r12 = mul(r11, 0.1)
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
    """So many programs that cost what AdamW costs; each has a learning rate of its own, 0.9 of the one before."""
    *head, last = str(KNOWN_PROGRAMS["AdamW"]).splitlines()
    assert last == "r19 = mul(r19, 0.001)"
    scale = ["r20 = mul(1.0, 0.001)"]
    variants = []
    for _ in range(count):
        variants.append(Program.parse("\n".join([*head, *scale, "r19 = mul(r19, r20)"])))
        scale.append("r20 = mul(r20, r9)")
    return variants
