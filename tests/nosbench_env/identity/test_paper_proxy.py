import math
from typing import Any

import numpy as np
import torch

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, SearchSpace, fingerprint
from nosbench_env.identity.paper_proxy import _proxy, paper_fingerprint
from nosbench_env.language.status import loss_status


def test_proxy_values_are_those_of_the_papers_code(conformance: dict[str, Any]) -> None:
    diverged = 0
    for row in conformance["rows"]:
        value = fingerprint(Program.from_json(row["program"]), "paper")
        if isinstance(row["proxy"], str):
            diverged += 1
            assert (value.status, value.value) == (row["proxy"], None), row["name"]
        else:
            assert value.status == "ok", row["name"]
            # Ten float32 steps on another processor: sums of products are off by some 1e-7.
            assert math.isclose(value.value, row["proxy"], rel_tol=1e-6), row["name"]
    assert diverged > 10


def by_autograd(program: Program) -> str:
    """Computes the proxy literally as in Appendix B: by autograd and the plain optimizer."""
    a, b, start, *_ = _proxy()
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


def test_the_fast_proxy_is_autograds_to_the_last_bit(conformance: dict[str, Any]) -> None:
    rng, space = np.random.default_rng(0), SearchSpace()
    programs = [Program.from_json(row["program"]) for row in conformance["rows"]]
    programs += [space.sample(rng) for _ in range(100)] + [Program()]
    for known in KNOWN_PROGRAMS.values():  # random programs often diverge; these carry many slots
        programs += [space.mutate(space.mutate(space.admit(known), rng), rng) for _ in range(10)]
    expected = [by_autograd(program) for program in programs]
    # Bits may be compared: both take the same operations of torch on tensors of the same shapes, on one processor.
    assert [str(fingerprint(program, "paper")) for program in programs] == expected
    assert len(set(expected)) > 150


def test_slots_that_pass_through_others_reach_the_update() -> None:
    # The gradient takes four steps through r9, r10 and r11 to the update, each written after it is read.
    chain = Program.parse("r11 = add(r10, r10); r10 = mul(r9, 0.5); r9 = mul(grad, 0.1); r12 = add(r11, r11)")
    assert str(fingerprint(chain, "paper")) == by_autograd(chain)
    assert fingerprint(chain, "paper") != fingerprint(Program.parse("r12 = add(r11, r11)"), "paper")


def test_stored_form_is_exact_and_names_identity_and_version() -> None:
    stored = fingerprint(KNOWN_PROGRAMS["AdamW"], "paper")
    identity, _, value = str(stored).partition(":")
    assert identity == stored.identity
    assert identity.startswith("paper-")
    assert float.fromhex(value) == stored.value
    assert str(fingerprint(Program.parse("r9 = log(r10); r9 = mul(r9, r10)"), "paper")) == "paper-1:nan"


def test_divergence_at_the_last_update_goes_unnoticed() -> None:
    # The loss is checked before each of ten updates, so a NaN in the last update goes unnoticed.
    late = Program.parse("r9 = mul(0.1, step); r9 = sub(1.0, r9); r9 = log(r9); r9 = mul(r9, 1e-06)")
    early = Program.parse("r9 = mul(0.1, step); r9 = sub(0.5, r9); r9 = log(r9); r9 = mul(r9, 1e-06)")
    assert fingerprint(late, "paper").status == "ok"
    assert fingerprint(early, "paper").status == "nan"


def test_callers_settings_are_given_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        paper_fingerprint.cache_clear()
        _proxy.cache_clear()
        with torch.no_grad():
            in_float64_without_gradients = fingerprint(KNOWN_PROGRAMS["Adam"], "paper")
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    paper_fingerprint.cache_clear()
    assert fingerprint(KNOWN_PROGRAMS["Adam"], "paper") == in_float64_without_gradients
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
