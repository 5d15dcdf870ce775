"""The table of tasks: names, and the contract that all entries keep."""

import math
import subprocess
import sys
from functools import partial

import pytest
import torch

from nosbench_env import KNOWN_PROGRAMS, TASKS, make_task
from nosbench_env.identity.identify import identify
from nosbench_env.results.key import ResultKey
from nosbench_env.tasks import check_task_name, task_class
from nosbench_env.tasks.mlp_data import DATA_SETS
from nosbench_env.tasks.task import Progress, probe_of


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_with_any_optimizer_and_tells_its_progress(name: str) -> None:
    task = make_task(name, "cpu")
    seen: list[Progress] = []

    class Enough(Exception):
        pass

    def stop_soon(progress: Progress) -> None:
        seen.append(progress)
        if progress.step == 3:
            raise Enough

    with pytest.raises(Enough):
        task.train(partial(torch.optim.SGD, lr=1e-2), seed=1, on_step=stop_soon)
    assert [progress.step for progress in seen] == [1, 2, 3]
    assert seen[0].steps == task.default_epochs * task.steps_per_epoch
    assert all(math.isfinite(progress.loss) for progress in seen)
    assert (task.name, task.arithmetic, task.device) == (name, "float32", "cpu")
    assert task_class(name).version == task.version


def test_the_mlp_tasks_are_those_of_the_data_sets() -> None:
    names = {name: TASKS[name].split(":")[2] for name in TASKS if name.startswith("mlp")}
    assert names == {"mlp" if data_set == "digits" else f"mlp-{data_set}": data_set for data_set in DATA_SETS}


@pytest.mark.parametrize(
    ("name", "device", "arithmetic", "facts"),
    [
        ("cifar", "cpu", "float32", r"task 'cifar'.*pfn, toy"),
        ("toy", "gpu", "float32", "device 'gpu'.*'auto', 'cpu', 'cuda'"),
        ("toy", "meta", "float32", "device 'meta'"),
        ("toy", "cuda:99", "float32", "device 'cuda:99'.*'cpu'"),
        ("pfn", "cpu", "bf16", "arithmetic 'bf16'.*'float32' and 'tf32'"),
        ("toy", "cpu", "tf32", "toy task.*'float32', got arithmetic 'tf32'"),
        ("mlp-iris", "cpu", "tf32", "mlp-iris task.*'float32', got arithmetic 'tf32'"),
    ],
)
def test_unknown_tasks_devices_and_arithmetics_are_refused(name: str, device: str, arithmetic: str, facts: str) -> None:
    with pytest.raises(ValueError, match=facts):
        make_task(name, device, arithmetic)


@pytest.mark.parametrize(
    "name", ["mlp-digits", "mlp-openml-0", "mlp-openml-031", "mlp-openml-", "mlp-openml-1234567890", "", None]
)
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown task .*pfn, toy, mlp, .* mlp-openml-31"):
        check_task_name(name)


def test_names_stand_in_keys_and_are_known_without_their_data() -> None:
    for name in (*TASKS, "mlp-openml-31"):
        key = f"{check_task_name(name)}-1/seed=0/float32/paper-1:0x1.8p-2"
        assert ResultKey.parse(key).task == name
    value, _ = identify(KNOWN_PROGRAMS["Adam"], "fingerprint", probe_of(task_class("mlp-openml-31")))
    assert value == identify(KNOWN_PROGRAMS["Adam"], "fingerprint", probe_of(make_task("mlp-iris", "cpu")))[0]


def test_names_are_checked_without_torch() -> None:
    code = (
        "import sys; from nosbench_env.tasks import check_task_name; check_task_name('mlp-openml-31')\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
