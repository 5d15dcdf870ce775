import math
from typing import Any

import numpy as np
import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, SearchSpace, fingerprint
from nosbench_env.fingerprints import _paper_proxy, _probe
from nosbench_env.tasks.task import loss_status


def test_proxy_values_are_those_of_the_papers_code(conformance: dict[str, Any]) -> None:
    diverged = 0
    for row in conformance["rows"]:
        found = fingerprint(Program.from_json(row["program"]), "paper")
        if isinstance(row["proxy"], str):
            diverged += 1
            assert (found.status, found.value) == (row["proxy"], None), row["name"]
        else:
            assert found.status == "ok", row["name"]
            assert math.isclose(found.value, row["proxy"], rel_tol=2e-7), row["name"]
    assert diverged == 37


def by_autograd(program: Program) -> str:
    """The paper's proxy as Appendix B writes it: autograd and the plain optimizer."""
    a, b, start, *_ = _probe()
    x = torch.nn.Parameter(start.detach().clone())
    optimizer = ProgramOptimizer([x], program)
    average = 0.0
    for _ in range(10):
        optimizer.zero_grad()
        z = torch.linalg.vector_norm(x @ a.clone() + b.clone())
        loss = (z**2 / (z**2 + 1) + 0.5).abs()
        if not loss.isfinite():
            return f"paper-1:{loss_status(loss.item())}"
        average = 0.9 * average + 0.1 * loss.item()
        loss.backward()
        optimizer.step()
    return f"paper-1:{average.hex()}"


def test_the_fast_probe_is_autograds_to_the_last_bit(conformance: dict[str, Any]) -> None:
    rng, space = np.random.default_rng(0), SearchSpace()
    programs = [Program.from_json(row["program"]) for row in conformance["rows"]]
    programs += [space.sample(rng) for _ in range(100)] + [Program()]
    for known in KNOWN_PROGRAMS.values():  # random ones diverge often; these carry much from step to step
        programs += [space.mutate(space.mutate(space.admit(known), rng), rng) for _ in range(10)]
    expected = [by_autograd(program) for program in programs]
    assert [str(fingerprint(program, "paper")) for program in programs] == expected
    assert len(set(expected)) > 150


def test_slots_that_pass_through_others_reach_the_update() -> None:
    # The gradient takes four steps through r9, r10 and r11 to the update, each written after it is read.
    chain = Program.parse("r11 = add(r10, r10); r10 = mul(r9, 0.5); r9 = mul(grad, 0.1); r12 = add(r11, r11)")
    assert str(fingerprint(chain, "paper")) == by_autograd(chain)
    assert fingerprint(chain, "paper") != fingerprint(Program.parse("r12 = add(r11, r11)"), "paper")


def test_equivalent_programs_share_a_fingerprint() -> None:
    plain = Program.parse("r9 = mul(grad, 0.01)")
    longer = Program.parse("r14 = sin(param); r12 = mul(grad, 0.01)")
    for method in ("probe", "paper"):
        sgd = fingerprint(KNOWN_PROGRAMS["SGD"], method)
        assert fingerprint(plain, method) == fingerprint(longer, method) == sgd
        assert fingerprint(plain, method) != fingerprint(Program.parse("r9 = mul(grad, 0.001)"), method)


def test_stored_form_is_exact_and_names_method_and_version() -> None:
    found = fingerprint(KNOWN_PROGRAMS["AdamW"], "paper")
    method, _, value = str(found).partition(":")
    assert method == "paper-1"
    assert float.fromhex(value) == found.value
    assert str(fingerprint(Program.parse("r9 = log(r10); r9 = mul(r9, r10)"), "paper")) == "paper-1:nan"


def test_a_program_that_diverges_at_the_last_update_only_is_not_known_to() -> None:
    # Ten steps are run, and a loss is looked at before each update: an update of NaN from step 10 on is not seen.
    late = Program.parse("r9 = mul(0.1, step); r9 = sub(1.0, r9); r9 = log(r9); r9 = mul(r9, 1e-06)")
    early = Program.parse("r9 = mul(0.1, step); r9 = sub(0.5, r9); r9 = log(r9); r9 = mul(r9, 1e-06)")
    assert fingerprint(late, "paper").status == "ok"
    assert fingerprint(early, "paper").status == "nan"


def test_callers_settings_are_given_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        _paper_proxy.cache_clear()
        _probe.cache_clear()
        with torch.no_grad():
            in_float64_without_gradients = fingerprint(KNOWN_PROGRAMS["Adam"], "paper")
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    _paper_proxy.cache_clear()
    assert fingerprint(KNOWN_PROGRAMS["Adam"], "paper") == in_float64_without_gradients
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a Program, such as KNOWN_PROGRAMS.*, got str"):
        fingerprint("SGD")
    with pytest.raises(TypeError, match=r"must be a Program, .*, got list"):
        fingerprint([["mul", [1, 6], 9]])
    with pytest.raises(ValueError, match="unknown fingerprint method 'md5'; known: 'probe', 'paper'"):
        fingerprint(Program(), method="md5")
