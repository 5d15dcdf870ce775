import copy
import dataclasses
import json
import pickle
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from strategies import any_programs

from nosbench_env import Instruction, InvalidProgram, Program
from nosbench_env.language.known_programs import KNOWN_PROGRAMS

SGD = Program.parse("r9 = mul(grad, 0.01)")


@given(any_programs())
def test_text_json_and_pickle_give_the_program_back(program: Program) -> None:
    assert Program.parse(str(program)) == program
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program
    assert pickle.loads(pickle.dumps(program)) == program
    assert hash(copy.deepcopy(program)) == hash(program)


def test_text_names_slots_as_table_2_does() -> None:
    program = Program.from_json([["interpolate", [0, 1, 2], 9], ["mul", [3, 8], 255]])
    assert str(program) == "r9 = interpolate(param, grad, step)\nr255 = mul(1.0, 1e-06)"


@pytest.mark.parametrize(
    "text",
    [
        "r9=mul(grad,0.01)",
        "  r9 = mul ( grad , .01 ) ;",
        "# a comment\n\nr9 = mul(grad, 1e-2)  # rate; and more",
        "r9 = mul(r1, r6)",
        "r9 = mul(grad, 0.0100)",
        "r9 = mul(grad, +1E-2)",
        "r9 = mul(grad, 0.01)\r\n",
        "# no new line: \u2028 r9 = sign(grad)\nr9 = mul(grad, 0.01)",
    ],
)
def test_spelling_is_free(text: str) -> None:
    assert Program.parse(text) == SGD


def test_program_is_an_immutable_sequence() -> None:
    program = KNOWN_PROGRAMS["Adam"]
    assert len(program) == len(list(program)) == 12
    assert program[0] == Instruction("square", (1,), 11)
    assert isinstance(program[:3], Program)
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.instructions = ()
    with pytest.raises(TypeError):
        program[0] = program[1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        program[0].output = 10


def test_equality_compares_what_is_written() -> None:
    assert Program.parse("r9 = mul(grad, 0.01)") != Program.parse("r9 = mul(0.01, grad)")
    assert len({SGD, Program.from_json([("mul", (1, 6), 9)])}) == 1


def test_numpy_integers_are_slots() -> None:
    assert Instruction("mul", (np.int64(1), np.int32(6)), np.uint8(9)) == SGD[0]
    json.dumps(Program((Instruction("mul", (np.int64(1), 6), np.int64(9)),)).to_json())


@pytest.mark.parametrize(
    "parts",
    [
        ("mul", (1, True), 9),
        ("mul", (1, 6.0), 9),
        ("mul", (1, 256), 9),
        ("mul", (-1, 6), 9),
        ("mul", (1,), 9),
        ("frobnicate", (1,), 9),
        ("mul", (1, 6), True),
        ("mul", (1, 6), 256),
        ("mul", (1, 6), 8),
    ],
)
def test_instructions_made_of_plain_tuples_are_checked_too(parts: tuple) -> None:
    with pytest.raises(InvalidProgram):
        Instruction(*parts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([["frobnicate", [1], 9]], r"instruction 1: unknown function 'frobnicate'; known are square"),
        ([["mul", [1, 6], 9], ["add", [1, 2, 3], 9]], r"instruction 2: 'add' takes 2 inputs, got 3"),
        ([["square", [], 9]], r"'square' takes 1 input, got 0"),
        ([["mul", [1, 256], 9]], r"input slot must lie in 0 to 255, got 256"),
        ([["mul", [1, -1], 9]], r"input slot must lie in 0 to 255, got -1"),
        ([["mul", [1, 6], 256]], r"output slot must lie in 0 to 255, got 256"),
        ([["mul", [1, 6], 0]], r"output slot 0 \(param\) is read-only; slots 9 to 255"),
        ([["mul", [1, 6], 8]], r"output slot 8 \(1e-06\) is read-only"),
        ([["mul", [1, 6.0], 9]], r"input slot must be an integer, got 6.0"),
        ([["mul", [1, True], 9]], r"input slot must be an integer, got True"),
        ([["mul", [1, "6"], 9]], r"input slot must be an integer, got '6'"),
        ([["mul", [1, 6], None]], r"output slot must be an integer, got None"),
        ([["mul", "16", 9]], r"inputs of 'mul' must be a sequence of slots, got '16'"),
        ([["mul", 1, 9]], r"inputs of 'mul' must be a sequence of slots, got 1"),
        ([[5, [1], 9]], r"function must be a name, got 5"),
        ([[["mul"], [1], 9]], r"function must be a name"),
        ([["mul", [1, 6]]], r"instruction 1: expected \[function, inputs, output\]"),
        (["mul"], r"instruction 1: expected \[function, inputs, output\], got 'mul'"),
        ({"program": []}, r"a program is a list of \[function, inputs, output\], got"),
        ("r9 = mul(grad, 0.01)", r"a program is a list"),
        (None, r"a program is a list"),
        ([["square", [1], 9]] * 1025, r"at most 1,024 instructions, got 1,025"),
        ([["mul", [1, 10**5000], 9]], r"input slot must lie in 0 to 255, got a very large int"),
        ([["x" * 10**6, [1], 9]], r"unknown function 'xxx.*\.\.\."),
    ],
)
def test_malformed_json_is_refused_with_a_reason(data: Any, message: str) -> None:
    with pytest.raises(InvalidProgram, match=message) as caught:
        Program.from_json(data)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r9 = mul(grad, 0.02)", r"line 1: .*constants are 1.0, 0.5, .*'0.02'"),
        ("r9 = mul(grad, 1.2.3)", r"line 1: .*constants are 1.0.*'1.2.3'"),
        ("\n\nr9 = mul grad", r"line 3: expected 'r9 = function\(input, ...\)', got 'r9 = mul grad'"),
        ("r9 = mul(grad, -1)", r"line 1: .*constants are 1.0.*'-1'"),
        ("r\u0661\u0669 = mul(grad, 0.01)", r"line 1: expected"),
        ("r9 = square(r\u0661)", r"line 1: .*slot 'r\u0661'"),
        ("r9 = mul(grad, lr)", r"line 1: .*slot 'lr'.* param, grad"),
        ("r9 = mul(grad, )", r"line 1: .*slot ''"),
        ("grad = mul(grad, 0.01)", r"line 1: output slot 1 \(grad\) is read-only"),
        ("0.01 = mul(grad, 0.01)", r"line 1: expected"),
        ("r999 = mul(grad, 0.01)", r"line 1: output slot must lie in 0 to 255, got 999"),
        ("r99999 = mul(grad, 0.01)", r"line 1: .*slot 'r99999'"),
        ("r9 = mul(grad)", r"line 1: 'mul' takes 2 inputs, got 1"),
        ("r9 = __import__('os')", r"line 1: .*os"),
        ("r9 = square(grad)\n" * 1025, r"at most 1,024 instructions, got 1,025"),
        ("x" * 2**19, r"at most 262,144 characters, got 524,288"),
        (7, r"must be a string, got 7"),
    ],
)
def test_malformed_text_is_refused_with_a_reason(text: Any, message: str) -> None:
    with pytest.raises(InvalidProgram, match=message) as caught:
        Program.parse(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("hostile", ["(" * 2**18, "r9=" * 80_000, "a" * 2**18, "r9 = mul(" + "1," * 100_000 + ")"])
def test_hostile_text_is_refused_at_once(hostile: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidProgram):
        Program.parse(hostile)
    assert time.process_time() - started < 30  # it takes milliseconds; quadratic matching would take minutes


def test_deep_nesting_is_refused() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidProgram, match="instruction 1: expected"):
        Program.from_json(deep)


def test_only_instructions_make_a_program() -> None:
    with pytest.raises(InvalidProgram, match="instruction 1: expected an Instruction, got 'mul'"):
        Program(("mul",))
    with pytest.raises(InvalidProgram, match=r"instructions .* got 5"):
        Program(5)


def test_notebooks_show_text_and_pseudocode() -> None:
    html = KNOWN_PROGRAMS["RMSprop"]._repr_html_()
    assert "r10 = sub(1.0, 0.01)" in html
    assert "w = w - 0.01*(g/(sqrt(m) + 1e-08))" in html
    assert "never changes" in Program()._repr_html_()


def test_programs_are_simplified_and_read_from_python() -> None:
    assert Program.parse("r9 = exp(step); r10 = mul(grad, 0.01)").simplified() == Program.parse("r10 = mul(grad, 0.01)")
    assert Program.from_python("def step(w, grad): return 0.01 * grad") == Program.parse("r9 = mul(0.01, grad)")
