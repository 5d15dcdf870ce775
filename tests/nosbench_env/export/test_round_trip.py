import json

import pytest
from exported import of_program, same, start_and_gradients
from hypothesis import given, settings
from strategies import any_programs, memory_shuffles, programs

from nosbench_env import KNOWN_PROGRAMS, InvalidProgram, Program, SearchSpace, canonical_form
from nosbench_env.export import to_json, to_python


@given(any_programs())
def test_json_files_hold_the_program_its_text_and_its_form(program: Program) -> None:
    data = json.loads(to_json(program, 'a "name"'))
    assert data["name"] == 'a "name"'
    assert Program.from_json(data["program"]) == program
    assert Program.parse("\n".join(data["text"])) == program
    assert data["canonical"] == str(canonical_form(program))


def test_json_files_have_an_instruction_per_line() -> None:
    program = KNOWN_PROGRAMS["Adam"]
    lines = to_json(program).splitlines()
    assert sum(line.strip().startswith("[") for line in lines) == len(program)
    assert sum(" = " in line for line in lines) == len(program)
    assert json.loads(to_json(program))["name"] is None


@pytest.mark.parametrize("name", KNOWN_PROGRAMS)
def test_known_programs_come_back(name: str) -> None:
    program = KNOWN_PROGRAMS[name]
    again = Program.from_python(to_python(program))
    assert canonical_form(again) == canonical_form(program)
    SearchSpace(max_instructions=30).admit(again)  # few slots are used


def assert_comes_back(program: Program) -> None:
    try:
        again = Program.from_python(to_python(program))
    except InvalidProgram as error:
        assert "can't be composed" in str(error)  # noqa: PT017
        return
    start, grads = start_and_gradients()
    assert canonical_form(again) == canonical_form(program) or same(
        of_program(again, start, grads), of_program(program, start, grads)
    ), f"{program!r}\n{to_python(program)}\n{again!r}"


@given(programs())
@settings(max_examples=60)
def test_random_programs_come_back(program: Program) -> None:
    assert_comes_back(program)


@given(any_programs())
@settings(max_examples=30)
def test_so_do_those_of_the_whole_language(program: Program) -> None:
    assert_comes_back(program)


@given(memory_shuffles())
@settings(max_examples=60)
def test_so_do_those_that_shuffle_their_memory(program: Program) -> None:
    assert_comes_back(program)


def test_a_program_that_never_updates_returns_0() -> None:
    assert canonical_form(Program.from_python(to_python(Program()))) == canonical_form(Program())
