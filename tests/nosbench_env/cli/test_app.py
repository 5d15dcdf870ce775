import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nosbench_env import KNOWN_PROGRAMS, Program, SearchSpace
from nosbench_env.agents import AGENTS
from nosbench_env.cli.app import AgentName

TOY = ["--task", "toy", "--device", "cpu"]


def test_help_teaches(nosbench) -> None:
    for arguments, words in (
        (["--help"], ["search", "evaluate", "doctor", "nosbench evaluate Adam --task toy"]),
        (["evaluate", "-h"], ["AdamW", "r9 = mul(grad, 0.01)", "--json", "nosbench evaluate runs/my-run/best.txt"]),
        (["search", "--help"], ["--budget", "--start", "Ctrl-C", "evolution", "maskable-ppo", "--constraint"]),
        (["doctor", "--help"], ["versions, devices, the store"]),
    ):
        run = nosbench(*arguments)
        assert run.code == 0
        text = " ".join(run.out.split())
        assert all(word in text for word in words), (arguments, text)
    assert nosbench("--version").out.count(".") == 2


def test_every_agent_can_be_chosen() -> None:
    assert {name.value for name in AgentName} == set(AGENTS)


def test_help_is_quick_to_come() -> None:
    code = "import sys; from nosbench_env.cli import app; assert not {'torch', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_evaluate_trains_once_and_then_tells_a_hit(nosbench) -> None:
    first = nosbench("evaluate", "adam", *TOY, "--epochs", "2")
    assert first.code == 0
    assert "r11 = square(grad)" in first.out
    assert "epoch   2  loss 1.1" in first.out
    assert "toy task, 2 epochs, seed 0: final loss 1.1" in first.out
    assert "trained in" in first.out
    second = nosbench("evaluate", "Adam", *TOY, "--epochs", "2")
    assert "a hit: trained on 20" in second.out
    shorter = nosbench("evaluate", "Adam", *TOY, "--epochs", "1")
    assert "a hit: trained on 20" in shorter.out


def test_evaluate_takes_names_texts_and_files(nosbench, tmp_path: Path) -> None:
    (tmp_path / "program.txt").write_text("# SGD\nr9 = mul(grad, 0.01)\n")
    (tmp_path / "mark.txt").write_text("\ufeffr9 = mul(grad, 0.01)\r\n")
    (tmp_path / "program.json").write_text('[["mul", [1, 6], 9]]')
    (tmp_path / "SGD").write_text("a known name wins over a file of that name")
    losses = set()
    for argument in ("SGD", "sgd", "r9 = mul(grad, 0.01)", "program.txt", "program.json", "./program.txt", "mark.txt"):
        run = nosbench("evaluate", argument, *TOY, "--epochs", "1", "--json")
        assert run.code == 0
        data = json.loads(run.out)
        losses.add(data["loss"])
    assert len(losses) == 1
    assert Program.from_json(data["program"]) == Program.parse("r9 = mul(grad, 0.01)")
    assert data["hit"] is True
    assert data["status"] == "ok"


def test_evaluate_says_that_a_program_diverges(nosbench) -> None:
    run = nosbench("evaluate", "r9 = log(r9); r9 = mul(r9, r10)", *TOY)
    assert run.code == 0
    assert "final loss nan (nan)" in run.out
    assert "diverges on the probe" in run.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "Adamm"], "'Adamm' is no known program (SGD, SignSGD, Adam, AdamW"),
        (["evaluate", "r9 = mul(grad)"], "line 1: 'mul' takes 2 inputs, got 1"),
        (["evaluate", "."], ". is a folder, but no run folder that has found something"),
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
        (["evaluate", "SGD", "--store", "corrupt"], "damaged or no SQLite database"),
        (["evaluate", "SGD", "--store", "/proc/nosbench/x"], "can't open the store /proc/nosbench/x"),
        (["evaluate", "SGD", "--store", "."], "can't"),
        (["evaluate"], "Missing argument 'PROGRAM'"),
        (["search", "--agent", "sac"], "'sac' is not one of 're', 'rs', 'ppo', 'maskable-ppo'"),
        (["search", "--agent", "ppo", "--start", "Adam"], "--start is for --agent re"),
        (["search", "--agent", "smac-hpo", "--start", "Adam"], "--start is for --agent re"),
        (["search", "--agent", "smac-nos", "--constraint", "used"], "--constraint is not for --agent smac-nos"),
        (["search", "--agent", "smac-hpo", "--constraint", "used"], "--constraint is not for --agent smac-hpo"),
        (["search", "--agent", "smac-hpo", "--initial", "0"], "initial_configs must be an integer >= 1, got 0"),
        (["search", "--agent", "rs", "--initial", "9"], "--initial is for --agent smac-nos and smac-hpo"),
        (["search", "--constraint", "short"], "constraints must be some of ['gradient', 'used', 'written'], got"),
        (["search", "--constraint", "used", "--start", "r9 = mul(grad, 0.1); r10 = log(step)"], "constraint 'used'"),
        (["search", "--agent", "rs", "--start", "Adam"], "--start is for --agent re"),
        (["search", "--seed", "-1"], "seed must be an integer >= 0, got -1"),
        (["search", "--start", "Adamm"], "'Adamm' is no known program"),
        (["search", "--epochs", "100001"], "epochs must be at most 100,000"),
        (["search", "--epochs", "0"], "epochs must be an integer >= 1, got 0"),
        (["search", "--budget", "0"], "budget: queries must be a positive integer, got 0"),
        (["search", "--run", "corrupt", "--task", "toy"], "can't use the run folder corrupt"),
        (["search", "--store", "corrupt", "--task", "toy"], "damaged or no SQLite database"),
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


def test_search_prints_the_best_program_beside_adamw(nosbench, tmp_path: Path) -> None:
    run = nosbench("search", *TOY, "--epochs", "2", "--budget", "120", "--seed", "3")
    assert run.code == 0
    assert "120 queries" in run.out
    assert "AdamW 1.1" in run.out
    assert "query     1  loss 1.1" in run.err
    folder = tmp_path / "runs" / "re-adamw-toy-e2-s3"
    assert {path.name for path in folder.iterdir()} >= {"config.json", "history.jsonl", "best.txt", "agent.json"}
    best = nosbench("evaluate", str(folder / "best.txt"), *TOY, "--epochs", "2", "--json")
    assert json.loads(best.out)["hit"] is True


def test_the_same_search_again_is_finished_and_a_greater_budget_prolongs_it(nosbench) -> None:
    command = ["search", *TOY, "--agent", "rs", "--epochs", "1", "--json", "--budget"]
    first, second, longer = (json.loads(nosbench(*command, budget).out) for budget in ("15", "15", "25"))
    assert first["best"] == second["best"]
    assert (second["queries"], second["distinct"], second["trained"]) == (15, first["distinct"], first["trained"])
    assert (first["queries"], longer["queries"]) == (15, 25)
    assert longer["best"]["loss"] <= first["best"]["loss"]
    assert longer["reference"]["program"] == KNOWN_PROGRAMS["AdamW"].to_json()


def test_a_run_folder_of_another_configuration_is_refused(nosbench) -> None:
    command = ["search", *TOY, "--agent", "rs", "--epochs", "1", "--budget", "3", "--run", "here"]
    assert nosbench(*command).code == 0
    run = nosbench(*command, "--seed", "1")
    assert run.code == 2
    assert "here holds another run: seed is 0, now 1. Choose another folder with --run" in run.err


def test_batches_have_a_run_folder_of_their_own_and_the_same_random_search(nosbench, tmp_path: Path) -> None:
    command = ["search", *TOY, "--epochs", "1", "--budget", "12", "--json"]
    for agent, folder in (("rs", "rs-toy-e1-s0"), ("re", "re-adamw-toy-e1-s0")):
        one, several = (
            json.loads(nosbench(*command, "--agent", agent, *more).out)
            for more in ([], ["--batch", "5", "--workers", "2"])
        )
        assert (one["run"], several["run"]) == (f"runs/{folder}", f"runs/{folder}-b5")
        assert one["best"]["loss"] == several["best"]["loss"]
        config = json.loads((tmp_path / several["run"] / "config.json").read_text())
        assert config["batch_size"] == 5


def test_a_program_that_no_worker_survives_is_said_and_the_same_command_goes_on(
    nosbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nosbench_env.tasks.worker_pool import WorkerError, WorkerPool

    def fail(*_: object, **__: object) -> None:
        raise WorkerError("1 of 4 programs could not be trained")

    command = ["search", *TOY, "--agent", "rs", "--epochs", "1", "--budget", "40", "--batch", "8", "--workers", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(WorkerPool, "train", fail)
        run = nosbench(*command)
    assert run.code == 2
    assert run.err.endswith("nosbench: 1 of 4 programs could not be trained\n")
    again = nosbench(*command[:-1], "1", "--json")
    assert json.loads(again.out)["queries"] == 40


def test_distinct_programs_can_limit_a_search(nosbench) -> None:
    run = nosbench("search", *TOY, "--agent", "rs", "--epochs", "1", "--distinct", "4", "--json", "--quiet")
    assert json.loads(run.out)["distinct"] == 4
    assert run.err == ""


@pytest.mark.parametrize("agent", [name for name in AGENTS if name not in ("rs", "re", "smac-nos", "smac-hpo")])
def test_reinforcement_learning_searches_in_batches_and_goes_on(nosbench, tmp_path: Path, agent: str) -> None:
    if agent == "maskable-ppo":
        pytest.importorskip("sb3_contrib")
    command = ["search", *TOY, "--agent", agent, "--epochs", "1", "--workers", "1", "--json", "--budget"]
    first = json.loads(nosbench(*command, "16").out)
    assert (first["queries"], first["run"]) == (16, f"runs/{agent}-toy-e1-s0")
    longer = json.loads(nosbench(*command, "32").out)
    assert longer["queries"] == 32
    folder = tmp_path / longer["run"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["agent"], config["batch_size"]) == (agent, 16)
    batches = [json.loads(line)["batch"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert batches == [1] * 16 + [2] * 16
    assert list(folder.glob("events.out.tfevents.*"))


def test_smac_searches_among_optimizers_and_the_best_can_be_evaluated(nosbench) -> None:
    pytest.importorskip("smac")
    command = ["search", *TOY, "--agent", "smac-hpo", "--epochs", "1", "--initial", "4", "--budget"]
    found = nosbench(*command, "4")
    assert "Run folder: runs/smac-hpo-toy-e1-s0-i4\n" in found.out
    assert "\n    torch.optim." in found.out
    longer = json.loads(nosbench(*command, "6", "--json").out)
    assert longer["queries"] == 6
    again = json.loads(nosbench("evaluate", f"{longer['run']}/best.txt", *TOY, "--epochs", "1", "--json").out)
    assert (again["program"], again["loss"]) == (longer["best"]["program"], longer["best"]["loss"])


def test_constraints_keep_to_programs_that_obey_them_in_a_run_folder_of_their_own(nosbench) -> None:
    command = ["search", *TOY, "--agent", "rs", "--epochs", "1", "--budget", "10", "--json"]
    found = json.loads(nosbench(*command, "--constraint", "written", "--constraint", "gradient").out)
    assert found["run"] == "runs/rs-toy-e1-s0-gradient-written"
    space = SearchSpace(constraints=("written", "gradient"))
    history = Path(found["run"], "history.jsonl").read_text().splitlines()
    assert all(Program.from_json(json.loads(line)["program"]) in space for line in history)
    again = json.loads(nosbench(*command, "--constraint", "gradient", "--constraint", "written").out)
    assert (again["run"], again["queries"]) == (found["run"], 10)


def test_a_missing_extra_is_named(nosbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nosbench_env.agents.ppo.find_spec", lambda name: None)
    run = nosbench("search", "--agent", "maskable-ppo", *TOY)
    assert (run.code, run.err) == (
        2,
        "nosbench: maskable-ppo needs sb3-contrib: pip install 'nosbench_env[sb3-contrib]'\n",
    )


@pytest.mark.parametrize("agent", ["smac-nos", "smac-hpo"])
def test_smac_missing_is_named(nosbench, monkeypatch: pytest.MonkeyPatch, agent: str) -> None:
    monkeypatch.setattr("nosbench_env.agents.smac_spaces.find_spec", lambda name: None)
    run = nosbench("search", "--agent", agent, *TOY)
    assert (run.code, run.err) == (
        2,
        "nosbench: searching with SMAC needs smac: pip install 'nosbench_env[smac]'\n",
    )


def test_a_program_of_ones_own_can_be_the_start(nosbench) -> None:
    run = nosbench("search", *TOY, "--start", "r9 = mul(grad, 0.1)", "--epochs", "1", "--budget", "5", "--json")
    assert json.loads(run.out)["best"]["program"] == [["mul", [1, 5], 9]]


@pytest.mark.parametrize(
    ("batch", "folder"), [([], "rs-toy-e5-s0"), (["--batch", "4", "--workers", "2"], "rs-toy-e5-s0-b4")]
)
def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path, batch: list[str], folder: str) -> None:
    command = [
        sys.executable,
        "-m",
        "nosbench_env",
        "search",
        *TOY,
        "--agent",
        "rs",
        "--epochs",
        "5",
        "--budget",
        "100",
        *batch,
    ]
    environment = os.environ | {"NOSBENCH_STORE": str(tmp_path / "s.sqlite")}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    history = tmp_path / "runs" / folder / "history.jsonl"
    deadline = time.monotonic() + 60
    while not (history.exists() and history.stat().st_size > 1000) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert f"all are kept in runs/{folder}" in err
    assert "To go on, run the same command again." in err
    done = history.read_text().splitlines()
    assert 0 < len(done) < 100
    again = subprocess.run([*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert json.loads(again.stdout)["queries"] == 100
    assert history.read_text().splitlines()[: len(done)] == done


def test_ctrl_c_before_the_first_result_says_so(nosbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the command ignores further ones; the tests must not
    from nosbench_env.oracles.oracle import Oracle

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Oracle, "query_many", interrupt)
    evaluation = nosbench("evaluate", "SGD", *TOY)
    assert (evaluation.code, evaluation.err.strip()) == (130, "Interrupted; this training is not kept.")
    search = nosbench("search", *TOY)
    assert (search.code, "Stopped; queries done before are kept." in search.err) == (130, True)


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


def test_doctor_finds_a_sound_installation_sound(nosbench, tmp_path: Path) -> None:
    run = nosbench("doctor")
    assert run.code == 0
    assert "FAIL" not in run.out
    assert f"{tmp_path / 'results.sqlite'}, 0 results" in run.out
    findings = json.loads(nosbench("doctor", "--json").out)
    assert {"python", "torch", "store", "optimizer", "fingerprint", "training"} <= {f["what"] for f in findings}


def test_doctor_finds_a_broken_store(nosbench, tmp_path: Path) -> None:
    (tmp_path / "corrupt").write_bytes(b"not a database" * 100)
    run = nosbench("doctor", "--store", "corrupt")
    assert run.code == 2
    assert "FAIL  store" in run.out
