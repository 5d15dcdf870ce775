from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from nosbench_env.cli.options import aligned, counted_epochs, interruptible, with_options

NAMES = [["name", "loss"], ["SGD", "0.5"], ["Incumbent", "-0.48"]]


@dataclass(frozen=True, kw_only=True)
class Shared:
    program: Annotated[str, typer.Argument()]
    seeds: Annotated[int, typer.Option(min=1)] = 3
    as_json: Annotated[bool, typer.Option("--json")] = False


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @with_options
    def show(options: Shared, factor: Annotated[float, typer.Option()] = 2.0) -> None:
        """Shows its options."""
        print(options.program, options.seeds, options.as_json, factor)

    return app


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [(["SGD"], "SGD 3 False 2.0"), (["Adam", "--seeds", "5", "--factor", "0.5", "--json"], "Adam 5 True 0.5")],
)
def test_options_of_a_dataclass_are_options_of_the_command(
    app: typer.Typer, arguments: list[str], printed: str
) -> None:
    assert CliRunner().invoke(app, arguments).output.strip() == printed


def test_annotations_of_shared_options_are_checked(app: typer.Typer) -> None:
    assert CliRunner().invoke(app, ["SGD", "--seeds", "0"]).exit_code == 2
    assert "Shows its options." in CliRunner().invoke(app, ["--help"]).output


def test_columns_are_aligned() -> None:
    assert aligned(NAMES, left=(0,)) == ["    name        loss", "    SGD          0.5", "    Incumbent  -0.48"]


def test_epochs_are_counted_in_english() -> None:
    assert (counted_epochs(1), counted_epochs(20)) == ("1 epoch", "20 epochs")


def test_ctrl_c_ends_a_command_with_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(typer.Exit) as exited, interruptible(lambda: "Stopped."):
        raise KeyboardInterrupt
    assert exited.value.exit_code == 130
    assert "Stopped." in capsys.readouterr().err
