"""What a shell is offered at the press of the key: in bash, zsh and fish, through typer's protocol."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from nosbench_env import KNOWN_PROGRAMS
from nosbench_env.cli import completion
from nosbench_env.cli.app import app
from nosbench_env.tasks import TASKS

BIN = Path(sys.executable).parent
glob = Path.glob


def nosbench(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the command as a shell does that asks for words."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [BIN / "nosbench"], cwd=folder, env=os.environ | variables | {"PATH": path}, capture_output=True, text=True
    )


def words_of(shell: str, line: str, folder: Path) -> list[str]:
    """What a shell is offered for the last word of a command line, which may be empty."""
    words = line.split(" ")
    if shell == "bash":
        asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    else:
        asked = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    run = nosbench(folder, _NOSBENCH_COMPLETE=f"complete_{shell}", **asked)
    assert (run.returncode, run.stderr) == (0, "")
    if shell == "zsh":
        if run.stdout.strip() == "_files":
            return []
        offered = run.stdout.strip().removeprefix("_arguments '*: :((").removesuffix("))'")
        return [word.split('":"')[0].strip('"') for word in offered.split("\n")]
    return [word.split("\t")[0] for word in run.stdout.split("\n") if word]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two runs, one of which has found something."""
    for run in ("re-adamw-toy-e5-s0", "rs-toy-e5-s0"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "history.jsonl").touch()
    (tmp_path / "runs" / "re-adamw-toy-e5-s0" / "best.txt").touch()
    (tmp_path / "runs" / "something else").mkdir()
    return tmp_path


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_offered_the_programs(shell: str, folder: Path) -> None:
    assert words_of(shell, "nosbench evaluate ", folder) == [*KNOWN_PROGRAMS, "runs/re-adamw-toy-e5-s0/best.txt"]
    assert words_of(shell, "nosbench evaluate Adam", folder) == ["Adam", "AdamW"]
    assert words_of(shell, "nosbench evaluate program.t", folder) == []  # a file: the shell knows


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nosbench evaluate adamw", ["adamw"]),
        ("nosbench evaluate AdamW --task ", list(TASKS)),
        ("nosbench search --agent r", ["re", "rs", "reinforce", "risk-seeking"]),
        ("nosbench search --start ra", ["random"]),
        ("nosbench search --constraint ", ["gradient", "used", "written"]),
        ("nosbench search --run runs/re", ["runs/re-adamw-toy-e5-s0"]),
        ("nosbench search --device c", ["cpu", "cuda"]),
        ("nosbench compare ", ["runs/re-adamw-toy-e5-s0", "runs/rs-toy-e5-s0"]),
        ("nosbench compare runs/rs-toy-e5-s0 ./runs/rs", ["./runs/rs-toy-e5-s0"]),
        ("nosbench compare runs/rs-toy-e5-s0 --reference n", ["none"]),
        ("nosbench study cache --task t", ["toy"]),
        ("nosbench baselines rec", ["recent"]),
        ("nosbench baselines torch.ada", ["torch.adam", "torch.adamW", "torch.adagrad", "torch.adadelta"]),
        ("nosbench plot AdamW-", ["AdamW-cosine", "AdamW-cosine-to-zero"]),
        ("nosbench plot runs/r", ["runs/re-adamw-toy-e5-s0"]),
        ("nosbench store prune --task t", ["toy"]),
        ("nosbench evaluate Adam --identity p", ["paper"]),
        ("nosbench evaluate Adam --arithmetic t", ["tf32"]),
    ],
)
def test_words_that_an_argument_or_option_takes(
    line: str, words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda path, pattern: () if path == Path("/dev") else glob(path, pattern))
    monkeypatch.chdir(folder)
    assert offered(line) == words


def offered(line: str) -> list[str]:
    """The same in this process, which is quicker."""
    from typer._completion_classes import BashComplete

    *arguments, incomplete = line.split(" ")[1:]
    shell = BashComplete(typer.main.get_command(app), {}, "nosbench", "_NOSBENCH_COMPLETE")
    return [item.value for item in shell.get_completions(arguments, incomplete)]


def test_gpus_are_those_that_the_system_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Path("/dev/nvidia10"), Path("/dev/nvidia0"), Path("/dev/nvidia0tool")]
    monkeypatch.setattr(Path, "glob", lambda path, pattern: nodes)
    assert completion.devices() == ["auto", "cpu", "cuda", "cuda:0", "cuda:10"]


def test_every_option_of_these_names_is_completed() -> None:
    """A new command that takes a task, a device, ... uses what is here."""
    taken = {
        "names",
        "candidates",
        "task",
        "device",
        "identity",
        "arithmetic",
        "constraint",
        "run",
        "runs",
        "program",
        "start",
    }
    missing = []

    def has_choices(param) -> bool:
        described = getattr(param, "type_descriptor", None)  # typer before 0.29 has none
        return hasattr(param.type, "choices") if described is None else described.is_choice

    def look(command, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            look(inner, f"{path} {name}")
        missing.extend(
            f"{path}: {param.name}"
            for param in command.params
            if param.name in taken and param._custom_shell_complete is None and not has_choices(param)
        )

    look(typer.main.get_command(app), "nosbench")
    assert not missing


def test_it_is_quick_and_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys; from nosbench_env.cli import completion\n"
        "completion.programs(''), completion.run_folders(''), completion.tasks(), completion.constraints()\n"
        "assert not {'torch', 'sqlalchemy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


@pytest.mark.parametrize(
    ("shell", "ask"),
    [
        (
            "bash",
            'COMP_WORDS=(nosbench evaluate Adam) COMP_CWORD=2; _nosbench_completion nosbench; echo "${COMPREPLY[@]}"',
        ),
        ("fish", 'complete -C "nosbench evaluate Adam"'),
    ],
)
def test_the_script_works_in_the_shell_itself(shell: str, ask: str, folder: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    script = folder / "script"
    script.write_text(nosbench(folder, _NOSBENCH_COMPLETE=f"source_{shell}").stdout)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [shell, "-c", f"source {script}; {ask}"],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["Adam", "AdamW"]
