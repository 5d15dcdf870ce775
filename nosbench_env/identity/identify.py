"""Identity values; programs with equal values share a result."""

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
    """Returns `identity` if it is in `IDENTITIES`; else raises a ValueError."""
    if identity not in IDENTITIES:
        raise ValueError(f"unknown identity {identity!r}; known are {', '.join(IDENTITIES)}")
    return identity


def identify(program: Program, identity: Identity, probe: Probe) -> tuple[str, Status]:
    """Computes a program's identity value and expected status.

    Args:
        program: The program.
        identity: "fingerprint", "canonical" or "paper"; see `Oracle`.
        probe: The task's probe; only "fingerprint" uses it.

    Returns:
        The identity value: the identity with its version, a colon, and a text that equivalent programs share. The
        status is "ok", or the way in which the training diverges.
    """
    # Imported here because it loads torch, which `check_identity` must not.
    from nosbench_env.language.canonical import canonical_form

    if identity == "canonical":
        return str(canonical_form(program)), "ok"
    value = fingerprint(program, identity, probe)
    return str(value), value.status


def fingerprint(
    program: Program, identity: Literal["fingerprint", "paper"] = "fingerprint", probe: Probe | None = None
) -> Fingerprint:
    """Computes a program's fingerprint.

    "fingerprint" runs the program's canonical form on a probe: 100 steps with weights and gradients like a task's, and
    some steps with extreme ones. It digests the updates, computed in double precision and rounded to 14 bits, so
    programs that differ only in rounding share a fingerprint. Two kinds of programs depend on rounding: those whose
    updates differ between the precisions, and those whose updates are so large that training blows up. Their updates
    are compared to the last bit in single precision. A program counts as diverged if a parameter soon stops being
    finite in single precision, also with milder weights and gradients. "Soon" is within the first epoch if the program
    ignores the gradient, since the probe then equals a training, and within the probe's `certain_steps` otherwise.

    "paper" is the proxy of the paper's code (Appendix B, eq. 1): ten steps on a loss of ten parameters, without
    gradient clipping, in float32 on the CPU. The value is the running average of the loss, compared to the last bit.
    A program counts as diverged if a loss before one of the ten updates is not finite. Other processors may round
    differently, by about 1e-7; equivalent programs then have two fingerprints.

    Args:
        program: The program.
        identity: "fingerprint" or "paper".
        probe: The probe for "fingerprint", such as `task.probe`; the default is that of the paper's task.

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
    """Returns the identity of a versioned name.

    "fingerprint-1-pfn-1" has the identity "fingerprint".

    Raises:
        ValueError: If there is no such identity.
    """
    return check_identity(versioned.partition("-")[0])  # type: ignore[arg-type]  # checked there
