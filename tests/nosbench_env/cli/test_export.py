import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nosbench_env import KNOWN_PROGRAMS, Program, canonical_form
from nosbench_env.export import to_json, to_latex, to_optax, to_python, to_torch


@pytest.mark.parametrize(
    ("target", "write"),
    [
        ("torch", to_torch),
        ("optax", to_optax),
        ("latex", lambda program: to_latex(program, "Adam")),
        ("json", lambda program: to_json(program, "Adam")),
        ("python", to_python),
    ],
)
def test_a_program_is_printed_or_written(
    target: str, write: Callable[[Program], str], nosbench: Callable[..., Any], tmp_path: Path
) -> None:
    expected = write(KNOWN_PROGRAMS["Adam"])
    assert nosbench("export", "adam", "--to", target).out == expected
    result = nosbench("export", "Adam", "--to", target, "--output", "folder/file")
    assert (result.code, result.out) == (0, "Written to folder/file\n")
    assert (tmp_path / "folder" / "file").read_text() == expected


def test_a_file_is_not_overwritten_unless_forced(nosbench: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("mine")
    result = nosbench("export", "Adam", "--output", "mine.py")
    assert (result.code, result.err) == (2, "nosbench: mine.py exists; --force overwrites it\n")
    assert (tmp_path / "mine.py").read_text() == "mine"
    assert nosbench("export", "Adam", "--output", "mine.py", "--force").code == 0
    assert (tmp_path / "mine.py").read_text() == to_torch(KNOWN_PROGRAMS["Adam"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nothing"], "'nothing' is no known program"),
        (["export", "Adam", "--name", "import os"], "name must be a Python name"),
        (["export", "Adam", "--to", "optax", "--name", "Jax"], "name 'Jax' would make a function 'jax'"),
        (["export", "Adam", "--standalone"], "--standalone is for --to latex, got --to torch"),
        (["export", "Adam", "--output", "/proc/none/file"], "/proc/none/file can't be written (No such file"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], message: str, nosbench: Callable[..., Any]) -> None:
    result = nosbench(*arguments)
    assert result.code == 2
    assert message in result.err


def test_what_is_exported_as_data_is_read_again(nosbench: Callable[..., Any], tmp_path: Path) -> None:
    nosbench("export", "Incumbent", "--to", "json", "--output", "incumbent.json")
    data = json.loads((tmp_path / "incumbent.json").read_text())
    assert Program.from_json(data["program"]) == KNOWN_PROGRAMS["Incumbent"]
    assert Program.parse("\n".join(data["text"])) == KNOWN_PROGRAMS["Incumbent"]
    assert data["canonical"] == str(canonical_form(KNOWN_PROGRAMS["Incumbent"]))
    assert nosbench("export", "incumbent.json", "--to", "python").out == to_python(KNOWN_PROGRAMS["Incumbent"])
    (tmp_path / "incumbent.json").write_text('{"program": 3}')
    assert "incumbent.json: a program is a list" in nosbench("export", "incumbent.json").err


def test_a_step_in_python_is_read(nosbench: Callable[..., Any], tmp_path: Path) -> None:
    nosbench("export", "Adadelta", "--to", "python", "--output", "step.py")
    assert nosbench("export", "step.py", "--to", "latex", "--name", "Adam").out == to_latex(
        KNOWN_PROGRAMS["Adadelta"], "Adam"
    )
