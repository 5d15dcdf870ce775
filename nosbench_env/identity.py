"""Identity: which programs are taken to be equivalent, so that they share a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from nosbench_env.program import Program
    from nosbench_env.tasks.task import Status, Task

Identity = Literal["fingerprint", "canonical", "paper"]
IDENTITIES: tuple[Identity, ...] = ("fingerprint", "canonical", "paper")


def check_identity(identity: Identity) -> Identity:
    """`identity` if it is the name of one."""
    if identity not in IDENTITIES:
        raise ValueError(f"unknown identity {identity!r}; known are {', '.join(IDENTITIES)}")
    return identity


def identify(program: Program, identity: Identity, task: Task | type[Task]) -> tuple[str, Status]:
    """What programs have in common that are taken to be equivalent on a task, and how training is known to end.

    Args:
        program: The program.
        identity: "fingerprint", "canonical" or "paper"; see `Oracle`.
        task: The task or its class, at whose probe only "fingerprint" looks.

    Returns:
        The identity's name and version, a colon and a value, as keys of the store have it; and "ok", or else how
        training diverges.
    """
    # Imported here, since they load torch: checking a name must not.
    from nosbench_env.canonical import canonical_form
    from nosbench_env.fingerprints import fingerprint
    from nosbench_env.probes import ANY_PROBE

    if identity == "canonical":
        return str(canonical_form(program)), "ok"
    taken = fingerprint(program, identity, getattr(task, "probe", ANY_PROBE))
    return str(taken), taken.status


def method_of(identity: str) -> Identity:
    """Which identity a method of keys is of: that of "fingerprint-1-pfn-1" is "fingerprint".

    Raises:
        ValueError: If it is of none.
    """
    return check_identity(identity.partition("-")[0])  # type: ignore[arg-type]  # what it checks
