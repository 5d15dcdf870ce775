"""Fingerprints: digests of programs' behaviour on a cheap probe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from nosbench_env.execution.numerics import subnormals_kept
from nosbench_env.identity.probe import EARLY_BLOCKS, STRESS, WRECKED, Probe, mild, probe_inputs
from nosbench_env.identity.probe_code import ProbeCode
from nosbench_env.identity.probe_machine import LANES, ProbeMachine
from nosbench_env.language.canonical import CanonicalForm
from nosbench_env.language.functions import REDUCTIONS
from nosbench_env.language.status import Status

FINGERPRINT_VERSION = 1  # changes whenever fingerprints change


# A training (nearly) blows up if a tensor's mean absolute update in the first 20 steps exceeds this. Its losses show a
# change in the last bit of an update within a few steps, so such programs must agree to the last bit.
_VIOLENT = 0.0123  # an unlikely value of an update
# Significant bits of the sums of other programs. If updates differ by a factor of 1 + 1e-7 (0.1 * 0.1 instead of 0.01),
# one of the sums differs in 8 % of cases; if by 1 + 1e-5, nearly always.
_BITS = 14
_VANISHING = 1e-8  # smaller sums, of up to 640 updates, become 0: such updates leave no trace in a training
_TOO_FEW = 6  # a program that dies within so many steps has not shown how it behaves on tasks where it survives
_SENSITIVE = 1e-3  # if single and double precision differ by more, rounding decides how a program behaves


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A digest of a program's behaviour on a probe.

    Programs with equal fingerprints are taken to be equivalent. `str()` gives the stored form, exact to the last bit.

    Attributes:
        identity: The identity with its version. Fingerprints of different identities never compare equal.
        status: "ok", or the way in which training diverges. Programs that diverge alike share a fingerprint.
        value: A digest, or the running average of the proxy's loss for "paper"; None if the program diverges.
    """

    identity: str
    status: Status
    value: float | str | None

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.identity}:{self.status}"
        return f"{self.identity}:{self.value.hex() if isinstance(self.value, float) else self.value}"


@lru_cache(maxsize=16384)
def probed(form: CanonicalForm, probe: Probe) -> Fingerprint:
    """Returns the fingerprint of the programs of a canonical form."""
    single, double, milder = _machines(probe)
    code = ProbeCode(form, single.num_steps)
    identity = f"fingerprint-{FINGERPRINT_VERSION}-{probe.name}"

    def run(
        machine: ProbeMachine, steps: int, *left_out: slice
    ) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        registers = code.registers(machine.num_lanes, _numel(probe), machine.dtype)
        with subnormals_kept():
            died, (sums, sizes) = machine.run(code.code, code.starts, code.without(*left_out), registers, steps)
        return died, sums, sizes

    died, rough, sizes = run(single, single.num_steps, WRECKED)
    certain = probe.certain_until(form.behaviour == "gradient-based")
    if 0 < died <= certain and run(milder, certain)[0]:
        return Fingerprint(identity, "nan", None)
    if 0 < died <= _TOO_FEW:
        return Fingerprint(identity, "ok", f"form-{form.digest}")
    exact = bool((sizes > _VIOLENT * single.total_coefficients)[:EARLY_BLOCKS].any())
    if not exact:
        died_too, sums, _ = run(double, died - 1 if died else double.num_steps, WRECKED)
        with np.errstate(all="ignore"):
            apart = np.abs(rough - sums) > _SENSITIVE * (np.abs(sums) + _VANISHING)
        exact = bool(died_too or apart.any() or not np.isfinite(sums).all())
    if not exact:
        value = _digest(_rounded(sums), died)
    else:
        died, rough, _ = run(single, single.num_steps, STRESS)
        # The rounding of a reduction depends on the real size of a tensor, so other reductions give another digest.
        reductions = sorted({op for op, _, _ in form.nodes} & {*REDUCTIONS})
        value = f"single-{_digest(rough, died, *reductions)}"
    return Fingerprint(identity, "ok", value)


def _rounded(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounds sums to `_BITS` significant bits."""
    mantissa, exponent = np.frexp(sums)
    rounded: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(mantissa, _BITS)), exponent - _BITS)
    rounded[np.abs(sums) < _VANISHING] = 0.0
    rounded += 0.0  # no minus zero
    return rounded


def _digest(sums: NDArray[np.float64], died: int, *words: str) -> str:
    text = f"{died} {' '.join(words)}".encode()
    return blake2b(sums.tobytes() + text, digest_size=16).hexdigest()


@cache
def _machines(probe: Probe) -> tuple[ProbeMachine, ProbeMachine, ProbeMachine]:
    """Returns machines: single precision, double, and single with mild inputs."""
    inputs = probe_inputs(probe)
    return ProbeMachine(inputs, "float"), ProbeMachine(inputs, "double"), ProbeMachine(mild(probe, inputs), "float")


@cache
def _numel(probe: Probe) -> NDArray[np.float64]:
    """Returns each element's number of elements in its tensor."""
    return np.repeat([float(tensor.numel) for tensor in probe.tensors], LANES)
