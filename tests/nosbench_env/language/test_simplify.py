import numpy as np
import pytest
from hypothesis import given, settings
from strategies import programs

from nosbench_env import KNOWN_PROGRAMS, Program, SearchSpace, simplify
from nosbench_env.language.canonical import canonical_form
from nosbench_env.language.simplify import explain


@given(programs())
@settings(deadline=None, max_examples=100)
def test_simplified_programs_are_the_same_and_as_short_as_it_gets(program: Program) -> None:
    short = program.simplified()
    assert canonical_form(short) == canonical_form(program)
    assert len(short) <= len(program)
    assert simplify(short) == short


def test_descendants_of_known_programs_stay_the_same() -> None:
    rng, space = np.random.default_rng(0), SearchSpace()
    for known in KNOWN_PROGRAMS.values():
        program = space.mutate(space.mutate(space.admit(known), rng), rng)
        short = program.simplified()
        assert canonical_form(short) == canonical_form(program)
        assert simplify(short) == short


@pytest.mark.parametrize(
    ("program", "simple"),
    [
        ("r9 = exp(step); r10 = mul(grad, 0.1)", "r10 = mul(grad, 0.1)"),
        ("r10 = mul(grad, 0.1); r11 = mul(r10, 1.0)", "r10 = mul(grad, 0.1)"),
        ("r9 = mul(grad, 1.0); r10 = mul(r9, 0.1)", "r10 = mul(grad, 0.1)"),
        ("r9 = square(grad); r10 = mul(grad, grad); r11 = add(r9, r10)", "r9 = square(grad); r11 = add(r9, r9)"),
        ("r9 = sub(1.0, 0.5); r10 = mul(grad, r9)", "r10 = mul(grad, 0.5)"),
        ("r9 = sub(1.0, 1.0); r10 = sin(r9)", ""),
        ("r9 = div(1.0, r9); r9 = div(1.0, r9)", ""),  # 1 / (1 / 0); both are needed, or neither
        ("r10 = maximum(grad, grad)", "r10 = maximum(grad, grad)"),  # something must say what the update is
        # The last value has to be said again: r9 is carried, and written after the update is known.
        (
            "r10 = mul(r9, 0.1); r9 = add(r9, grad); r11 = mul(r10, 1.0)",
            "r10 = mul(r9, 0.1); r9 = add(r9, grad); r11 = mul(r10, 1.0)",
        ),
    ],
)
def test_unnecessary_instructions_are_removed(program: str, simple: str) -> None:
    assert simplify(Program.parse(program)) == Program.parse(simple)


def test_long_programs_lose_their_dead_code() -> None:
    chain = ["r12 = exp(r13)", "r9 = add(r9, grad)"] * 200
    assert simplify(Program.parse("\n".join(chain))) == Program.parse("\n".join(chain[1::2]))


def test_each_instruction_is_explained() -> None:
    program = Program.parse("""
        r9 = exp(step)
        r9 = sub(1.0, 0.1)
        r12 = mul(grad, 1.0)
        r13 = square(r12)
        r14 = mul(grad, grad)
        r15 = sin(r16)
        r16 = cos(r15)
        r18 = add(r18, 0.1)
        r10 = mul(r13, r14)
        r10 = mul(r10, r9)
    """)
    expected = [
        (False, "line 2 overwrites"),
        (True, "0.8999999761581421"),
        (True, "grad"),
        (True, ""),
        (True, "line 4"),
        (False, "only line 7 reads"),
        (False, "only line 6 reads"),
        (False, "nothing else reads"),
        (True, ""),
        (True, ""),
    ]
    for explained, (live, fact) in zip(explain(program), expected, strict=True):
        assert explained.live == live
        assert fact in explained.remark
        assert bool(fact) == bool(explained.remark)
    assert explain(Program()) == []


def test_an_instruction_that_occurs_twice_is_explained_by_its_place() -> None:
    twice = Program.parse("r9 = mul(grad, 0.1)")[0]
    program = Program((twice, twice))
    assert [explained.live for explained in explain(program)] == [False, True]


def test_only_programs_are_taken() -> None:
    for function in (simplify, explain, canonical_form):
        with pytest.raises(TypeError, match="Program"):
            function("SGD")
