import subprocess
import sys
from pathlib import Path

import pytest

TOY = ["--task", "toy", "--device", "cpu"]


def test_help_teaches(nosbench) -> None:
    for arguments, words in (
        (["--help"], ["search", "evaluate", "doctor", "nosbench evaluate Adam --task toy"]),
        (["evaluate", "-h"], ["AdamW", "r9 = mul(grad, 0.01)", "--json", "nosbench evaluate runs/my-run/best.txt"]),
        (["search", "--help"], ["--budget", "--start", "Ctrl-C", "evolution", "maskable-ppo", "--constraint"]),
        (["doctor", "--help"], ["versions, devices, store"]),
    ):
        run = nosbench(*arguments)
        assert run.code == 0
        text = " ".join(run.out.split())
        assert all(word in text for word in words), (arguments, text)
    assert nosbench("--version").out.count(".") == 2


def test_help_is_quick_to_come() -> None:
    code = "import sys; from nosbench_env.cli import app; assert not {'torch', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "Adamm"], "'Adamm' is no known program (SGD, SignSGD, Adam, AdamW"),
        (["evaluate", "r9 = mul(grad)"], "line 1: 'mul' takes 2 inputs, got 1"),
        (["evaluate", "."], ". is a folder without best.txt"),
        (["evaluate", "broken.json"], "broken.json: Expecting value: line 1"),
        (["evaluate", "wrong.json"], "wrong.json: instruction 1: unknown function 'evil'"),
        (["evaluate", "object.json"], "object.json: a program is a list of"),
        (["evaluate", "nested.json"], "nested.json: "),
        (["evaluate", "broken.txt"], "broken.txt: line 2: unknown slot 'lr'"),
        (["evaluate", "binary"], "binary is no text in UTF-8"),
        (["evaluate", "huge"], "huge: a program file has at most 1,048,576 bytes"),
        (["evaluate", "SGD", "--task", "mnist"], "unknown task 'mnist'; known are pfn, toy"),
        (["evaluate", "SGD", "--device", "tpu"], "unknown device 'tpu'; use 'auto', 'cpu'"),
        (["evaluate", "SGD", "--device", "cuda:99"], "device 'cuda:99' is not available: torch sees"),
        (["evaluate", "SGD", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["evaluate", "SGD", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["evaluate", "SGD", "--seed", "-1"], "seed must be an integer from 0 to 1,000,000, got -1"),
        (["evaluate", "SGD", "--store", "mysql://x/y"], "store must be a file or a URL, sqlite:///file"),
        (["evaluate", "SGD", "--store", "corrupt"], "damaged or not a SQLite database"),
        (["evaluate", "SGD", "--store", "/proc/nosbench/x"], "can't open the store /proc/nosbench/x"),
        (["evaluate", "SGD", "--store", "."], "can't"),
        (["evaluate"], "Missing argument 'PROGRAM'"),
        (["search", "--agent", "sac"], "'sac' is not one of 're', 'rs', 'ppo', 'maskable-ppo'"),
        (["search", "--agent", "ppo", "--start", "Adam"], "(--start) is for the agent re"),
        (["search", "--agent", "smac-hpo", "--start", "Adam"], "(--start) is for the agent re"),
        (["search", "--agent", "smac-nos", "--constraint", "used"], "(--constraint) are not for smac-nos"),
        (["search", "--agent", "smac-hpo", "--constraint", "used"], "(--constraint) are not for smac-hpo"),
        (["search", "--agent", "smac-hpo", "--initial", "0"], "initial_configs must be an integer >= 1, got 0"),
        (["search", "--agent", "rs", "--initial", "9"], "(--initial) is for smac-nos and smac-hpo"),
        (["search", "--constraint", "short"], "constraints must be some of ['gradient', 'used', 'written'], got"),
        (["search", "--constraint", "used", "--start", "r9 = mul(grad, 0.1); r10 = log(step)"], "constraint 'used'"),
        (["search", "--agent", "rs", "--start", "Adam"], "(--start) is for the agent re"),
        (["search", "--seed", "-1"], "seed must be an integer >= 0, got -1"),
        (["search", "--start", "Adamm"], "'Adamm' is no known program"),
        (["search", "--epochs", "100001"], "epochs must be at most 100,000"),
        (["search", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["search", "--budget", "0"], "budget: queries must be a positive integer, got 0"),
        (["search", "--run", "corrupt", "--task", "toy"], "can't use the run folder corrupt"),
        (["search", "--store", "corrupt", "--task", "toy"], "damaged or not a SQLite database"),
        (["search", "--batch", "0", "--task", "toy"], "batch_size must be an integer >= 1, got 0"),
        (["search", "--workers", "0", "--task", "toy"], "workers must be an integer >= 1, got 0"),
        (["frobnicate"], "No such command 'frobnicate'"),
    ],
)
def test_wrong_use_gets_one_message_and_exit_code_2(
    nosbench, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "broken.json").write_text("[[")
    (tmp_path / "wrong.json").write_text('[["evil", [1], 9]]')
    (tmp_path / "object.json").write_text('{"program": 1}')
    (tmp_path / "nested.json").write_text("[" * 100_000)
    (tmp_path / "broken.txt").write_text("r9 = square(grad)\nr9 = mul(grad, lr)\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "huge").write_bytes(b"#" * (2**20 + 1))
    (tmp_path / "corrupt").write_bytes(b"not a database, not a folder" * 100)
    run = nosbench(*arguments)
    assert run.code == 2, run.err
    assert message in " ".join(run.err.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "SGD", "--epochs", "1", *TOY], ["doctor"]])
def test_output_that_cannot_be_written_is_said(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "nosbench_env", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr == "nosbench: [Errno 28] No space left on device. What was finished before is kept\n"


def test_a_reader_that_goes_early_and_a_closed_stderr_do_no_harm() -> None:
    command = f"{sys.executable} -m nosbench_env evaluate SGD --epochs 1 --task toy --device cpu"
    shell = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True)
    assert (shell.stdout, shell.stderr) == ("r9 = sub(0.1, 0.1)\n", "")
    closed = subprocess.run(f"{command} 2>&-", shell=True, stdout=subprocess.PIPE, text=True)
    assert closed.returncode == 0
    assert "final loss" in closed.stdout


def test_a_defect_of_ours_is_said_in_a_message_too(nosbench, monkeypatch: pytest.MonkeyPatch) -> None:
    from nosbench_env.oracles.oracle import Oracle

    def defect(*_: object, **__: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(Oracle, "query_many", defect)
    run = nosbench("evaluate", "SGD", *TOY)
    assert run.code == 1
    assert "KeyError: 'oops'\nThis should not happen." in run.err
