import subprocess
import sys

import pytest

from nosbench_env import KNOWN_PROGRAMS, Program, fingerprint
from nosbench_env.identity.identify import IDENTITIES, check_identity, identify, identity_of
from nosbench_env.identity.probe import PFN_PROBE

SGD = Program.parse("r9 = mul(grad, 0.01)")
AGAIN = Program.parse("r14 = sin(param); r12 = mul(grad, 0.01)")
OTHER = Program.parse("r9 = mul(grad, 0.1)")


@pytest.mark.parametrize("identity", IDENTITIES)
def test_equivalent_programs_share_an_identity_value(identity: str) -> None:
    values = [identify(program, identity, PFN_PROBE) for program in (SGD, AGAIN, OTHER)]
    assert values[0] == values[1] != values[2]
    for value, status in values:
        assert status == "ok"
        versioned, _, text = value.partition(":")
        assert text
        assert identity_of(versioned) == identity


def test_only_some_identities_know_how_a_training_ends() -> None:
    dies = Program.parse("r9 = sub(0.1, step); r9 = log(r9)")
    statuses = {identity: identify(dies, identity, PFN_PROBE)[1] for identity in IDENTITIES}
    assert statuses == {"fingerprint": "nan", "canonical": "ok", "paper": "nan"}


@pytest.mark.parametrize("identity", ["fingerprint", "paper"])
def test_programs_that_differ_in_rounding_share_a_fingerprint(identity: str) -> None:
    assert fingerprint(KNOWN_PROGRAMS["SGD"], identity) == fingerprint(SGD, identity) != fingerprint(OTHER, identity)
    assert str(fingerprint(SGD, identity)) == identify(SGD, identity, PFN_PROBE)[0]


def test_unknown_identities_are_refused() -> None:
    for refused in (check_identity, lambda name: fingerprint(Program(), name), identity_of):
        with pytest.raises(ValueError, match=r"unknown .*'md5'.*fingerprint.*paper"):
            refused("md5")
    with pytest.raises(ValueError, match="canonical"):
        fingerprint(Program(), "canonical")


@pytest.mark.parametrize("program", ["SGD", [["mul", [1, 6], 9]]], ids=["text", "list"])
def test_other_things_than_programs_are_refused(program: object) -> None:
    with pytest.raises(TypeError, match=f"Program.*got {type(program).__name__}"):
        fingerprint(program)


def test_checking_a_name_loads_no_torch() -> None:
    code = "import sys; from nosbench_env.identity.identify import check_identity; check_identity('paper')"
    assert (
        subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=False).returncode == 0
    )
