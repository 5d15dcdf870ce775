import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import programs

from nosbench_env import (
    FUNCTIONS,
    KNOWN_PROGRAMS,
    Probe,
    ProbeTensor,
    Program,
    ProgramOptimizer,
    SearchSpace,
    canonical_form,
    fingerprint,
    make_task,
)
from nosbench_env.identity.fingerprint import probed
from nosbench_env.identity.paper_proxy import _proxy, paper_fingerprint
from nosbench_env.identity.probe import ANY_PROBE, PFN_PROBE, probe_inputs
from nosbench_env.identity.probe_code import ProbeCode
from nosbench_env.identity.probe_machine import LANES, ProbeMachine
from nosbench_env.language.status import loss_status
from nosbench_env.tasks.toy import TOY_PROBE


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
    for method in ("fingerprint", "paper"):
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


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be a Program, such as KNOWN_PROGRAMS.*, got str"):
        fingerprint("SGD")
    with pytest.raises(TypeError, match=r"must be a Program, .*, got list"):
        fingerprint([["mul", [1, 6], 9]])
    with pytest.raises(ValueError, match="unknown fingerprint method 'md5'; known: 'fingerprint', 'paper'"):
        fingerprint(Program(), method="md5")


def probe_of(*tensors: ProbeTensor, certain_steps: int = 0) -> Probe:
    return Probe("test-1", tensors, steps_per_epoch=100, certain_steps=certain_steps)


def by_optimizer(program: Program, probe: Probe, steps: int, dtype: torch.dtype) -> np.ndarray:
    """The sums that the machine returns, by `ProgramOptimizer` on tensors of eight elements."""
    inputs = probe_inputs(probe)
    rows = inputs.weights[0].reshape(-1, LANES)
    params = [torch.nn.Parameter(torch.tensor(row, dtype=dtype)) for row in rows]
    optimizer = ProgramOptimizer(params, program)
    sums = np.zeros((inputs.blocks.max() + 1, len(params)))
    for step in range(steps):
        for index, param in enumerate(params):
            param.grad = torch.tensor(inputs.gradients[step].reshape(-1, LANES)[index], dtype=dtype)
        before = [param.detach().clone() for param in params]
        optimizer.step()
        for index, (param, old) in enumerate(zip(params, before, strict=True)):
            update = (old - param.detach()).double().numpy()
            with np.errstate(invalid="ignore"):
                sums[inputs.blocks[step], index] += update @ inputs.coefficients[step].reshape(-1, LANES)[index]
    return sums


EIGHT = probe_of(ProbeTensor(8, (-1.0, 1.0), 0.1), ProbeTensor(8, (0.0, 0.0), 0.01, zero_element=True))


def test_the_machine_computes_what_the_optimizer_does(conformance: dict[str, Any]) -> None:
    """In both precisions, on tensors that are no larger than what stands for them."""
    programs = [Program.from_json(row["program"]) for row in conformance["rows"]]
    compared = 0
    for real, dtype, tolerance in (("float", torch.float32, 2e-4), ("double", torch.float64, 1e-6)):
        machine = ProbeMachine(probe_inputs(EIGHT), real)
        for program in programs:
            code = ProbeCode(canonical_form(program), machine.num_steps)
            registers = code.registers(machine.num_lanes, np.full(2 * LANES, 8.0), machine.dtype)
            died, (sums, _) = machine.run(code.code, code.starts, code.ends, registers, 3)
            expected = by_optimizer(program, EIGHT, 3, dtype)
            # The optimizer's update is read off the parameters, so only to their precision.
            assert (died > 0) == (not np.isfinite(expected).all()), program
            if not died:
                compared += 1
                scale = np.abs(expected) + np.abs(sums) + 1.0
                assert (np.abs(expected - sums) <= tolerance * scale).all(), (program, expected, sums)
    assert compared > 400


def test_every_function_is_computed(conformance: dict[str, Any]) -> None:
    machine = ProbeMachine(probe_inputs(EIGHT), "double")
    for function in FUNCTIONS.values():
        inputs = ", ".join(("r10", "r11", "r12")[: function.arity])
        program = Program.parse(
            f"r10 = mul(grad, 0.5); r11 = mul(param, 0.5); r12 = add(param, grad); r9 = {function.name}({inputs}); "
            "r9 = minimum(r9, 1.0); r13 = interpolate(r13, grad, 0.5); r9 = mul(r9, r13)"
        )
        code = ProbeCode(canonical_form(program), machine.num_steps)
        registers = code.registers(machine.num_lanes, np.full(2 * LANES, 8.0), np.float64)
        died, (sums, _) = machine.run(code.code, code.starts, code.ends, registers, 5)
        expected = by_optimizer(program, EIGHT, 5, torch.float64)
        assert (died > 0) == (not np.isfinite(expected).all()), function.name
        assert died or np.allclose(sums, expected, rtol=1e-9, atol=1e-12), function.name


def test_tensors_stand_for_larger_ones() -> None:
    """Norms and sizes are those of a tensor of that many such elements."""
    large = probe_of(ProbeTensor(800, (0.5, 0.5), 0.1))
    size, norm = Program.parse("r9 = size(grad)"), Program.parse("r9 = norm(param)")
    for program, expected in ((size, 800.0), (norm, 0.5 * 800**0.5)):
        form = canonical_form(program)
        machine = ProbeMachine(probe_inputs(large), "double")
        code = ProbeCode(form, machine.num_steps)
        registers = code.registers(machine.num_lanes, np.full(LANES, 800.0), np.float64)
        _, (sums, _) = machine.run(code.code, code.starts, code.ends, registers, 1)
        assert sums[0, 0] == pytest.approx(expected * probe_inputs(large).coefficients[0].sum())


@pytest.mark.parametrize(
    ("program", "same"),
    [
        ("r9 = mul(grad, 0.1); r9 = mul(r9, 0.1)", "r9 = mul(grad, 0.01)"),  # rounding
        ("r9 = div(param, 0.1); r9 = mul(r9, 0.001)", "r9 = mul(param, 0.01)"),
        ("r9 = mul(param, grad); r9 = div(r9, 0.1); r9 = mul(r9, 0.1)", "r9 = mul(grad, param)"),
        ("r9 = sub(grad, grad); r9 = add(r9, grad)", "r9 = mul(grad, 1.0)"),
        ("r9 = mul(r9, r30); r10 = sub(r9, grad)", "r9 = sub(r30, grad)"),
        ("r9 = mul(1e-06, 1e-06); r9 = mul(r9, param)", ""),  # updates that leave no trace
        (
            "r9 = sign(step); r10 = mul(grad, 0.001); r9 = mul(r9, r10)",
            "r9 = mul(grad, 0.001)",
        ),  # reads the step in vain
        ("r9 = add(r9, 1.0); r10 = mul(grad, r9)", "r10 = add(r9, 1.0); r9 = mul(r10, 1.0); r11 = mul(r10, grad)"),
    ],
)
def test_the_probe_sees_through_rounding(program: str, same: str) -> None:
    assert fingerprint(Program.parse(program)) == fingerprint(Program.parse(same))


@pytest.mark.parametrize(
    ("program", "other"),
    [
        # The paper's proxy cannot tell these pairs apart.
        ("r9 = mul(param, 0.1)", "r9 = mul(param, 0.1); r9 = sin(r9)"),
        ("r9 = maximum(param, 0.5)", "r9 = maximum(grad, 0.5)"),
        ("r9 = size(param); r9 = div(grad, r9)", "r9 = mul(grad, 0.1)"),
        (
            "r9 = norm(param); r9 = mul(grad, r9)",
            "r9 = square(param); r9 = mean(r9); r9 = sqrt(r9); r9 = mul(grad, r9)",
        ),
        # What happens at gradients that are exactly 0, at steps far ahead, and at the first step alone.
        ("r9 = heaviside(grad, 0.5)", "r9 = heaviside(grad, 1.0)"),
        ("r10 = div(1.0, 0.001); r9 = minimum(step, r10)", "r9 = mul(step, 1.0)"),
        ("r10 = minimum(step, 1.0); r10 = sub(step, r10); r10 = sign(r10); r9 = mul(grad, r10)", "r9 = mul(grad, 1.0)"),
        # Few gradients are that large, and only in the first steps.
        ("r9 = div(grad, step)", "r9 = sqrt(0.001); r10 = div(grad, step); r9 = minimum(r9, r10)"),
        # Rounding decides: single precision gives multiples of 1/16, or loses most digits.
        ("r9 = exp(grad); r9 = log(r9)", "r9 = mul(grad, 1.0)"),
        ("r9 = div(1.0, 1e-06); r10 = add(r9, param); r10 = sub(r10, r9)", "r9 = mul(param, 1.0)"),
    ],
)
def test_the_probe_tells_apart(program: str, other: str) -> None:
    assert fingerprint(Program.parse(program)) != fingerprint(Program.parse(other))


@pytest.mark.parametrize(
    "program",
    [
        "r9 = log(grad)",
        "r9 = div(grad, param)",  # weights that start as 0
        "r9 = div(1.0, grad)",  # gradients of the first step that are 0
        "r9 = sub(0.1, step); r9 = log(r9)",
        "r9 = mul(step, 10.0)".replace("10.0", "step") + "; r9 = exp(r9)",  # overflows in single precision
        "r9 = mul(0.01, step); r9 = sub(0.5, r9); r9 = log(r9)",  # at step 50
    ],
)
def test_certain_divergence_is_recognised(program: str) -> None:
    found = fingerprint(Program.parse(program))
    assert (found.status, found.value) == ("nan", None)
    assert fingerprint(Program.parse(program), probe=ANY_PROBE).status == "ok"  # where nothing is known of the task


@pytest.mark.parametrize(
    "program",
    [
        "r9 = sub(r30, param); r9 = mul(r9, 0.1)",  # grows, but not to infinity within an epoch
        "r9 = std(param)",  # NaN for a tensor of one element, of which the PFN has none
        "r9 = arcsin(grad)",
        # Only as large a gradient as the probe has would make it diverge.
        "r10 = mul(0.5, 0.1); r9 = sub(r10, grad); r9 = sqrt(r9); r9 = mul(r9, 1e-06); r11 = mul(grad, 0.01); "
        "r11 = add(r11, r9)",
        "r9 = mul(0.01, step); r9 = sub(1.0, r9); r9 = log(r9)",  # at step 100: the first epoch is still finite
        # Means and deviations of eight elements are far from the tensor's: with 0.1 * grad added these train well.
        "r9 = mean(grad); r9 = div(r9, 0.01); r9 = arcsin(r9)",
        "r9 = std(param); r10 = add(0.5, 0.1); r9 = div(r9, r10); r9 = arcsin(r9)",
    ],
)
def test_what_may_end_well_is_trained(program: str) -> None:
    assert fingerprint(Program.parse(program)).status == "ok"


def test_programs_that_die_on_the_probe_at_once_are_not_one_where_they_may_live() -> None:
    """A task of one's own has no probe: its gradients need not be 0 at step 1, nor its tensors of one element."""
    texts = ("r9 = log(param)", "r9 = div(grad, param)", "r9 = norm(grad); r9 = div(grad, r9); r9 = mul(r9, 0.1)")
    found = [fingerprint(Program.parse(text), probe=ANY_PROBE) for text in texts]
    assert len(set(found)) == len(texts)
    again = Program.parse("r9 = exp(step); r10 = log(param)")
    assert fingerprint(again, probe=ANY_PROBE) == found[0]


def test_probe_inputs_are_the_same_on_every_machine() -> None:
    """Digests of numbers made by integer arithmetic: a change of them is a change of version."""
    found = {}
    for probe in (PFN_PROBE, TOY_PROBE, ANY_PROBE):
        inputs = probe_inputs(probe)
        arrays = (inputs.gradients, inputs.times, inputs.resets, inputs.weights, inputs.blocks, inputs.coefficients)
        digest = hashlib.sha256(b"".join(array.astype("<f8").tobytes() for array in arrays)).hexdigest()
        found[probe.name] = digest[:16], str(fingerprint(KNOWN_PROGRAMS["AdamW"], probe=probe)).rpartition(":")[2]
    assert found == {
        "pfn-1": ("5328be2f09b3f0a8", "ccb7c72fac583043e7287b46196e12e0"),
        "toy-1": ("46affe56f6b5b02f", "15d614b52da7c5462155c4f7a5dd92a7"),
        "any-1": ("f5a92f909d547f8f", "0274ecca08dd3228a2330c09bc9a017c"),
    }


def test_fingerprints_of_tasks_differ() -> None:
    program = KNOWN_PROGRAMS["SGD"]
    assert len({str(fingerprint(program, probe=probe)) for probe in (PFN_PROBE, TOY_PROBE, ANY_PROBE)}) == 3


@given(programs())
@settings(deadline=None, max_examples=200)
def test_any_program_has_a_fingerprint_and_its_simplified_form_the_same(program: Program) -> None:
    assert fingerprint(program.simplified()) == fingerprint(program)


def test_the_longest_programs_have_fingerprints() -> None:
    text = "\n".join(f"r{9 + i % 200} = interpolate(r{9 + (i + 1) % 200}, grad, r11)" for i in range(1024))
    assert fingerprint(Program.parse(text)).method == "fingerprint-1-pfn-1"


@pytest.mark.parametrize(("name", "steps"), [("pfn", 8), ("toy", 8)])
def test_a_tasks_probe_looks_like_its_tensors(name: str, steps: int) -> None:
    """Sizes occur among the task's tensors, with such weights and gradients at the steps before the verdict."""
    task = make_task(name, "cpu")
    params: list[torch.Tensor] = []
    grads: list[list[torch.Tensor]] = []

    class Recorder(ProgramOptimizer):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            if len(grads) < steps:
                grads.append([param.grad.clone() for param in params])
            super().step(closure)

    def make(given: Any) -> Recorder:
        params.extend(given)
        starts.extend(param.detach().clone() for param in params)
        return Recorder(params, KNOWN_PROGRAMS["AdamW"])

    starts: list[torch.Tensor] = []
    task.train(make, epochs=1)
    inputs = probe_inputs(task.probe)
    for index, tensor in enumerate(task.probe.tensors):
        low, high = tensor.weights
        alike = [
            number
            for number, start in enumerate(starts)
            if start.numel() == tensor.numel
            and (start.min() >= low - 0.01 and start.max() <= high + 0.01)
            and (start.max() - start.min()) >= 0.3 * (high - low)
        ]
        assert alike, tensor
        zero = {number: {step for step in range(1, steps + 1) if not grads[step - 1][number].any()} for number in alike}
        assert any(steps_of == set(tensor.zero_gradients) for steps_of in zero.values()), (tensor, zero)
        ours = np.abs(inputs.gradients.reshape(len(inputs.times), -1, LANES)[: task.probe.certain_steps, index]).max()
        largest = max(float(grads[step][number].abs().max()) for step in range(steps) for number in alike)
        assert 0.02 * largest <= ours <= 4 * largest, (tensor, ours, largest)


def test_fingerprints_do_not_depend_on_how_the_thread_treats_subnormal_numbers() -> None:
    tiny = Program.parse("r9 = mul(1e-06, 1e-06); r9 = square(r9); r9 = mul(r9, r9); r9 = sign(r9)")  # 1e-48 is 0
    smaller = Program.parse("r9 = mul(grad, 1e-06)" + "; r9 = mul(r9, 1e-06)" * 6 + "; r9 = sign(r9)")
    expected = [fingerprint(tiny), fingerprint(smaller)]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor can't flush subnormal numbers")
    try:
        probed.cache_clear()
        assert [fingerprint(tiny), fingerprint(smaller)] == expected
        assert float(torch.tensor(1e-38) * 0.1) == 0  # the caller's setting is given back
    finally:
        torch.set_flush_denormal(False)
