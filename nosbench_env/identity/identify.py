"""Identity: the ways to decide which programs are equivalent and share a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from nosbench_env.language.program import Program, check_program

if TYPE_CHECKING:
    from nosbench_env.identity.fingerprint import Fingerprint
    from nosbench_env.identity.probe import Probe
    from nosbench_env.language.status import Status

Identity = Literal["fingerprint", "canonical", "paper"]
IDENTITIES: tuple[Identity, ...] = get_args(Identity)


def check_identity(identity: Identity) -> Identity:
    """Returns `identity` if it is one of `IDENTITIES`; else raises a ValueError."""
    if identity not in IDENTITIES:
        raise ValueError(f"unknown identity {identity!r}; known are {', '.join(IDENTITIES)}")
    return identity


def identify(program: Program, identity: Identity, probe: Probe) -> tuple[str, Status]:
    """Computes the identity value of a program, and the known end of its training.

    Args:
        program: The program.
        identity: "fingerprint", "canonical" or "paper"; see `Oracle`.
        probe: The task's probe; only "fingerprint" runs on it.

    Returns:
        The identity value: the identity with its version, a colon, and a text that equivalent programs share. And the
        status: "ok", or the way in which the training diverges.
    """
    # Imported here, since it loads torch: checking a name must not.
    from nosbench_env.language.canonical import canonical_form

    if identity == "canonical":
        return str(canonical_form(program)), "ok"
    value = fingerprint(program, identity, probe)
    return str(value), value.status


def fingerprint(
    program: Program, identity: Literal["fingerprint", "paper"] = "fingerprint", probe: Probe | None = None
) -> Fingerprint:
    """Runs a program on a probe and says what came out.

    "fingerprint" runs the program's canonical form on parameters, gradients and steps like a task's, for 100 steps and
    some at the limits, and digests its updates. It computes in double precision and rounds to 14 bits, so that programs
    that differ in rounding alone are one. Those for which rounding decides what they do are equal only if equal to the
    last bit in single precision: where the two precisions disagree, and where updates are so large that training blows
    up. A program is diverged if in single precision a parameter is soon not finite, also with milder weights and
    gradients: within the first epoch where it ignores the gradient, since then the probe does what training does, and
    within the probe's `certain_steps` otherwise.

    "paper" is the proxy of the paper's code (Appendix B, eq. 1): ten steps on a loss of ten parameters, with no
    gradient clipping, in float32 on the CPU; the value is the running average of the loss, compared to the last bit.
    A program is diverged if a loss before one of the ten updates is not finite. Other processors may round
    differently, by about 1e-7, and then know equivalent programs under two fingerprints.

    Args:
        program: The program.
        identity: "fingerprint" or "paper".
        probe: What "fingerprint" runs on: a task's `probe`; the paper's task's if none is named.

    Raises:
        TypeError: If `program` is not a `Program`.
        ValueError: If the identity is unknown.
    """
    from nosbench_env.identity.fingerprint import probed
    from nosbench_env.identity.paper_proxy import paper_fingerprint
    from nosbench_env.identity.probe import PFN_PROBE
    from nosbench_env.language.canonical import canonical_form

    check_program(program)
    if identity == "paper":
        return paper_fingerprint(program)
    if identity == "fingerprint":
        return probed(canonical_form(program), PFN_PROBE if probe is None else probe)
    raise ValueError(f"unknown fingerprint identity {identity!r}; known: 'fingerprint', 'paper'")


def identity_of(versioned: str) -> Identity:
    """Returns the identity that a versioned name belongs to: "fingerprint" for "fingerprint-1-pfn-1".

    Raises:
        ValueError: If it belongs to none.
    """
    return check_identity(versioned.partition("-")[0])  # type: ignore[arg-type]  # what it checks
