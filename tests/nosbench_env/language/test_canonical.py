import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import any_programs, programs
from torch import Tensor

from nosbench_env import KNOWN_PROGRAMS, Program, ProgramOptimizer, SearchSpace
from nosbench_env.language.canonical import CanonicalForm, canonical_form
from nosbench_env.language.live_code import Kind, apply, scalar

SHAPES = ((3, 4), (17,), (1,), ())


def run_form(form: CanonicalForm, param: Tensor, grads: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Returns the parameter after each step and all values of each step, by torch's operations."""
    slots = [scalar(0.0) for _ in form.carried]
    after, steps = [], []
    for step, grad in enumerate(grads, start=1):
        values: list[Tensor] = []
        for op, inputs, detail in form.nodes:
            match op:
                case "param" | "grad":
                    values.append(param.clone() if op == "param" else grad)
                case "step":
                    values.append(scalar(step))
                case "numel":
                    values.append(scalar(param.numel()))
                case "const":
                    values.append(scalar(float.fromhex(detail)))
                case "slot":
                    values.append(slots[int(detail)])
                case _:
                    values.append(apply(op, *(values[i] for i in inputs)))
        slots = [values[number] for number in form.carried]
        param = param - values[form.update]
        after.append(param)
        steps.append(values)
    return after, steps


def trajectories(program: Program, steps: int = 4) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Returns for each shape the parameter after each step, by the program and by its form."""
    both = []
    generator = torch.Generator().manual_seed(len(program))
    for shape in SHAPES:
        start = torch.randn(shape, generator=generator)
        grads = [torch.randn(shape, generator=generator) * 10.0 ** -(step % 3) for step in range(steps)]
        for grad in grads:
            grad[torch.rand(shape, generator=generator) < 0.2] = 0.0
        param = torch.nn.Parameter(start.clone())
        optimizer = ProgramOptimizer([param], program)
        by_program = []
        for grad in grads:
            param.grad = grad.clone()
            optimizer.step()
            by_program.append(param.detach().clone())
        both.append((by_program, run_form(canonical_form(program), start, grads)[0]))
    return both


def assert_form_is_exact(program: Program) -> None:
    for by_program, by_form in trajectories(program):
        for expected, got in zip(by_program, by_form, strict=True):
            # Equal as numbers: a zero may have either sign, and a NaN any payload.
            assert torch.equal(torch.nan_to_num(expected, nan=1.5e38), torch.nan_to_num(got, nan=1.5e38)), (
                f"{program!r}\n{canonical_form(program).text}"
            )


@given(programs())
@settings(deadline=None, max_examples=150)
def test_forms_of_random_programs_compute_what_the_programs_do(program: Program) -> None:
    assert_form_is_exact(program)


@given(any_programs())
@settings(deadline=None, max_examples=50)
def test_so_do_those_of_the_whole_language(program: Program) -> None:
    assert_form_is_exact(program)


def descendants(count: int, mutations: int = 4) -> list[Program]:
    rng, space = np.random.default_rng(1), SearchSpace()
    programs = []
    for known in list(KNOWN_PROGRAMS.values()) * (count // len(KNOWN_PROGRAMS)):
        program = space.admit(known)
        for _ in range(rng.integers(1, mutations, endpoint=True)):
            program = space.mutate(program, rng)
        programs.append(program)
    return programs


@given(programs())
@settings(deadline=None, max_examples=100)
def test_kinds_tell_which_values_are_arrays_and_which_are_the_same_for_all_tensors(program: Program) -> None:
    form = canonical_form(program)
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,))
    runs = [
        run_form(form, torch.randn(shape, generator=generator), torch.randn((6, *shape), generator=generator))[1]
        for shape in shapes
    ]
    for step, values in enumerate(zip(*runs, strict=True)):
        for kind, *of_tensors in zip(form.kinds[min(step, len(form.kinds) - 1)], *values, strict=True):
            assert [value.shape == shape for value, shape in zip(of_tensors, shapes, strict=True)] == [
                kind == Kind.ARRAY
            ] * 2
            if kind <= Kind.STEP:
                assert torch.equal(*map(torch.nan_to_num, of_tensors))


def test_kinds_change_until_slots_hold_their_arrays() -> None:
    text = "r11 = norm(r10); r10 = add(r9, 0.1); r9 = add(r9, grad); r12 = mul(r11, step)"
    form = canonical_form(Program.parse(text))
    assert [kinds[form.update] for kinds in form.kinds] == [Kind.STEP, Kind.STEP, Kind.TENSOR]
    assert [form.kinds[-1][number] for number in form.carried] == [Kind.ARRAY, Kind.ARRAY]


def test_so_do_those_of_descendants_of_known_programs() -> None:
    for program in [*KNOWN_PROGRAMS.values(), *descendants(150)]:
        assert_form_is_exact(program)


def renamed(program: Program, rng: np.random.Generator) -> Program:
    """The program with its writable slots permuted and the inputs of commutative functions swapped at random."""
    slots = np.arange(256)
    slots[9:] = rng.permutation(slots[9:])
    commutative = ("add", "mul", "minimum", "maximum", "clip")
    return Program.from_json(
        [
            [i.function, [int(slots[slot]) for slot in inputs], int(slots[i.output])]
            for i in program
            for inputs in [i.inputs[::-1] if i.function in commutative and rng.random() < 0.5 else i.inputs]
        ]
    )


def test_names_of_slots_and_order_of_inputs_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    sampled = [SearchSpace().sample(rng) for _ in range(300)]
    for program in [*KNOWN_PROGRAMS.values(), *descendants(200), *sampled]:
        assert canonical_form(renamed(program, rng)).text == canonical_form(program).text


def test_slots_that_fall_away_when_constants_are_folded_do_not_change_the_order() -> None:
    """Here the size of a carried number, which is 1; the number is never needed."""
    for program in [*KNOWN_PROGRAMS.values(), *descendants(200)]:
        if program:
            detour = Program.parse("r251 = size(r250); r250 = add(r250, step)")
            last = Program.parse(f"r252 = mul(r{program[-1].output}, r251)")
            assert canonical_form(Program((*detour, *program, *last))).text == canonical_form(program).text


@pytest.mark.parametrize(
    ("program", "same"),
    [
        ("r9 = mul(grad, 0.01); r10 = mul(r9, 1.0)", "r9 = mul(0.01, grad)"),
        ("r9 = div(grad, 1.0)", "r9 = clip(grad, grad)"),
        ("r9 = sub(grad, r30)", "r12 = maximum(grad, grad)"),
        ("r9 = square(grad)", "r9 = mul(grad, grad)"),
        ("r9 = add(grad, grad)", "r9 = div(grad, 0.5)"),
        ("r9 = sign(grad); r9 = sign(r9)", "r9 = sign(grad)"),
        ("r9 = square(grad); r9 = abs(r9)", "r9 = square(grad)"),
        ("r9 = clip(grad, 0.1)", "r9 = minimum(0.1, grad)"),
        ("r9 = sub(1.0, 0.1); r9 = mul(r9, grad)", "r10 = sub(1.0, 0.1); r11 = mul(grad, r10)"),
        ("r9 = interpolate(grad, param, 1.0)", "r9 = mul(param, r30); r9 = add(grad, r9)"),  # 0 * param may be NaN
        ("r9 = mean(step); r9 = mul(r9, grad)", "r9 = mul(step, grad)"),
        ("r9 = size(step); r9 = mul(r9, grad)", "r9 = div(grad, 1.0)"),
        # A slot that starts as 0 and stays there is 0.
        ("r10 = sin(r10); r9 = add(grad, grad); r9 = sub(r9, r10)", "r9 = add(grad, grad)"),
        ("r10 = maximum(r10, r11); r11 = mul(r10, 0.5); r9 = sub(grad, r10)", "r9 = div(grad, 1.0)"),
        # Two slots that always hold the same are one.
        (
            "r10 = add(r10, grad); r11 = add(r11, grad); r9 = mul(r10, r11)",
            "r10 = add(grad, r10); r9 = square(r10)",
        ),
        # Instructions that only reach what nothing reads, also across steps.
        ("r12 = exp(r13); r13 = add(r12, param); r9 = mul(grad, 0.1)", "r9 = mul(grad, 0.1)"),
        ("r9 = sub(0.1, 0.1)", ""),
        ("r9 = mul(r10, step); r10 = sin(r9)", "r9 = mul(r10, step); r10 = sin(r9)"),
    ],
)
def test_programs_that_are_the_same(program: str, same: str) -> None:
    assert canonical_form(Program.parse(program)).text == canonical_form(Program.parse(same)).text


@pytest.mark.parametrize(
    ("program", "other"),
    [
        ("r9 = add(grad, r30)", "r9 = div(grad, 1.0)"),  # -0 + 0 is 0
        ("r9 = sub(r30, grad)", "r9 = mul(grad, r30)"),
        ("r9 = sub(grad, grad)", ""),  # infinite gradients
        ("r9 = mul(grad, r30)", ""),
        # A carried copy of the gradient is the old gradient.
        ("r10 = mul(r9, 0.1); r9 = mul(grad, 1.0); r11 = mul(r10, 1.0)", "r11 = mul(grad, 0.1)"),
        ("r10 = mul(r9, 0.1); r9 = mul(param, 1.0); r11 = mul(r10, 1.0)", "r11 = mul(param, 0.1)"),
        # The update is the value of the last instruction, whatever it overwrites.
        ("r9 = mul(grad, 0.1); r9 = mul(r9, 0.1)", "r9 = mul(r9, 0.1); r9 = mul(grad, 0.1)"),
        # A slot is 0-d at first and an array later: its size is 1 and then that of the parameter.
        ("r10 = size(r9); r9 = mul(grad, 0.1); r10 = mul(r10, grad)", "r10 = size(grad); r10 = mul(r10, grad)"),
        ("r10 = size(r9); r9 = mul(grad, 0.1); r10 = mul(r10, grad)", "r10 = mul(grad, 1.0)"),
        # Broadcasting by an array of zeros changes what the norm is of.
        ("r9 = mul(param, r30); r9 = add(r9, 0.5); r9 = norm(r9)", "r9 = norm(0.5)"),
        # Slots that start equal and part later.
        (
            "r10 = add(r10, grad); r11 = add(r11, step); r9 = mul(r10, r11)",
            "r10 = add(grad, r10); r9 = square(r10)",
        ),
    ],
)
def test_programs_that_are_not_the_same(program: str, other: str) -> None:
    assert canonical_form(Program.parse(program)).text != canonical_form(Program.parse(other)).text


def test_known_programs_are_all_different() -> None:
    assert len({canonical_form(program).text for program in KNOWN_PROGRAMS.values()}) == len(KNOWN_PROGRAMS)


@pytest.mark.parametrize(
    ("program", "behaviour"),
    [
        ("", "no-op"),
        ("r9 = sub(1.0, 1.0)", "no-op"),
        ("r9 = exp(grad); r10 = tan(r11)", "no-op"),
        ("r9 = exp(0.1)", "constant"),
        ("r9 = mul(step, 0.1)", "schedule"),
        ("r9 = add(r9, 0.1)", "schedule"),
        ("r9 = size(grad)", "gradient-free"),
        ("r9 = mul(param, 0.1)", "gradient-free"),
        ("r10 = mul(r9, 0.1); r9 = sign(grad); r11 = mul(r10, 1.0)", "gradient-based"),
    ],
)
def test_behaviours_are_recognised(program: str, behaviour: str) -> None:
    assert canonical_form(Program.parse(program)).behaviour == behaviour


def test_a_form_can_be_read() -> None:
    program = Program.parse("r10 = interpolate(r10, grad, 0.5); r11 = mul(r10, 0.1)")
    assert canonical_form(program).text == (
        "v0 = mul(0.5, grad)\nv1 = mul(0.5, s0)\nv2 = add(v0, v1)\nv3 = mul(0.10000000149011612, v2)\n"
        "next s0 = v2\nupdate = v3"
    )


def test_digests_are_the_same_in_every_process() -> None:
    code = (
        "from nosbench_env import KNOWN_PROGRAMS\nfrom nosbench_env.language.canonical import canonical_form\n"
        "print(canonical_form(KNOWN_PROGRAMS['AdamW']).digest)"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another than this process has
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == canonical_form(KNOWN_PROGRAMS["AdamW"]).digest


def test_the_longest_programs_are_no_trouble() -> None:
    chain = Program.parse("\n".join(["r9 = sub(r9, grad)"] * 1024))
    deep = Program.parse(
        "\n".join(f"r{9 + i % 200} = interpolate(r{9 + (i + 1) % 200}, param, r11)" for i in range(1024))
    )
    for program in (chain, deep):
        assert len(canonical_form(program).nodes) > 500
