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
from nosbench_env.cli.search import AgentName

TOY = ["--task", "toy", "--device", "cpu"]


def test_every_agent_can_be_chosen() -> None:
    assert {name.value for name in AgentName} == set(AGENTS)


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
    while not (history.exists() and history.stat().st_size > 1000):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert f"are kept in runs/{folder}" in err
    assert "same command again" in err
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
    assert (evaluation.code, "This training is lost" in evaluation.err) == (130, True)
    search = nosbench("search", *TOY)
    assert (search.code, "Finished queries are kept" in search.err) == (130, True)
