import math
from typing import Any

import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, Program, fingerprint
from nosbench_env.fingerprints import _paper_proxy


def test_proxy_values_are_those_of_the_papers_code(conformance: dict[str, Any]) -> None:
    diverged = 0
    for row in conformance["rows"]:
        found = fingerprint(Program.from_json(row["program"]))
        if isinstance(row["proxy"], str):
            diverged += 1
            assert (found.status, found.value) == (row["proxy"], None), row["name"]
        else:
            assert found.status == "ok", row["name"]
            assert math.isclose(found.value, row["proxy"], rel_tol=2e-7), row["name"]
    assert diverged == 37


def test_equivalent_programs_share_a_fingerprint() -> None:
    plain = Program.parse("r9 = mul(grad, 0.01)")
    longer = Program.parse("r14 = sin(param); r12 = mul(grad, 0.01)")
    assert fingerprint(plain) == fingerprint(longer) == fingerprint(KNOWN_PROGRAMS["SGD"])
    assert fingerprint(plain) != fingerprint(Program.parse("r9 = mul(grad, 0.001)"))


def test_stored_form_is_exact_and_names_method_and_version() -> None:
    found = fingerprint(KNOWN_PROGRAMS["AdamW"])
    method, _, value = str(found).partition(":")
    assert method == "paper-1"
    assert float.fromhex(value) == found.value
    assert str(fingerprint(Program.parse("r9 = log(r10); r9 = mul(r9, r10)"))) == "paper-1:nan"


def test_a_program_that_diverges_at_the_last_update_only_is_not_known_to() -> None:
    # Ten steps are run, and a loss is looked at before each update: an update of NaN from step 10 on is not seen.
    late = Program.parse("r9 = mul(0.1, step); r9 = sub(1.0, r9); r9 = log(r9); r9 = mul(r9, 1e-06)")
    early = Program.parse("r9 = mul(0.1, step); r9 = sub(0.5, r9); r9 = log(r9); r9 = mul(r9, 1e-06)")
    assert fingerprint(late).status == "ok"
    assert fingerprint(early).status == "nan"


def test_callers_settings_are_given_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        _paper_proxy.cache_clear()
        with torch.no_grad():
            in_float64_without_gradients = fingerprint(KNOWN_PROGRAMS["Adam"])
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    _paper_proxy.cache_clear()
    assert fingerprint(KNOWN_PROGRAMS["Adam"]) == in_float64_without_gradients
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a Program, such as KNOWN_PROGRAMS.*, got str"):
        fingerprint("SGD")
    with pytest.raises(TypeError, match=r"must be a Program, .*, got list"):
        fingerprint([["mul", [1, 6], 9]])
    with pytest.raises(ValueError, match="unknown fingerprint method 'md5'; known: 'paper'"):
        fingerprint(Program(), method="md5")
