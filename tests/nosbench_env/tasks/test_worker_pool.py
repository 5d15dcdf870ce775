import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nosbench_env import KNOWN_PROGRAMS, Curve, Program, make_task
from nosbench_env.tasks.task import Progress
from nosbench_env.tasks.worker_pool import WorkerError, WorkerPool

ROOT = Path(__file__).parents[3]
QUICK_WORKER = ROOT / "tests" / "support" / "quick_worker.py"
PROGRAMS = [KNOWN_PROGRAMS[name] for name in ("SGD", "Adam", "RMSprop", "Adadelta")]
DIES = Program.parse("r9 = div(param, r10); r9 = mul(r9, step)")
SIN, COS, SQUARE = (Program.parse(f"r9 = {name}(grad)") for name in ("sin", "cos", "square"))

QuickPool = Callable[..., WorkerPool]


def train(pool: WorkerPool, programs: list[Program], epochs: int = 1, **more: Any) -> dict[int, Curve]:
    """The curves by index."""
    curves: dict[int, Curve] = {}
    pool.train(programs, epochs, 0, on_result=lambda index, curve, _: curves.update({index: curve}), **more)
    return curves


def pids(pool: WorkerPool) -> list[int]:
    return [worker.process.pid for worker in pool._alive]


def lives(pid: int) -> bool:
    """True for a process that runs; one that has ended and not been waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Two real workers."""
    with contextlib.closing(WorkerPool("toy", 2)) as made:
        yield made


@pytest.fixture
def quick_pool(tmp_path: Path) -> Iterator[QuickPool]:
    """Makes pools whose workers do not train, and misbehave with programs of some functions."""
    made: list[WorkerPool] = []

    def make(workers: int = 2, hang_timeout: float = 60.0, **behaviour: str) -> WorkerPool:
        command = (sys.executable, str(QUICK_WORKER), str(tmp_path), json.dumps(behaviour))
        made.append(WorkerPool("toy", workers, hang_timeout, command=command))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def test_curves_are_to_the_bit_those_of_training_in_this_process(pool: WorkerPool) -> None:
    programs = [*PROGRAMS, DIES, Program()]
    expected = make_task("toy", "cpu").train_programs(programs, epochs=3)
    curves = train(pool, programs, epochs=3)
    assert set(curves) == set(range(len(programs)))
    for index, curve in enumerate(expected):
        np.testing.assert_array_equal(curves[index].step_losses, curve.step_losses)
        assert (curves[index].stopped_at, curves[index].first_epoch) == (curve.stopped_at, 0)
    assert curves[4].stopped_at is not None


def test_workers_stay_for_the_next_call_and_are_closed(pool: WorkerPool) -> None:
    train(pool, PROGRAMS)
    before = pids(pool)
    assert len(before) == 2
    train(pool, PROGRAMS[:3])
    assert pids(pool) == before
    pool.close()
    assert not any(map(lives, before))
    assert len(train(pool, PROGRAMS[:1])) == 1
    assert len(pids(pool)) == 1


def test_progress_tells_which_of_how_many_programs(pool: WorkerPool) -> None:
    seen: list[Progress] = []
    seconds: list[float] = []
    pool.train(PROGRAMS, 2, 0, on_step=seen.append, on_result=lambda *result: seconds.append(result[2]))
    assert {(p.step, p.steps, p.index, p.programs) for p in seen if p.step == p.steps} == {
        (20, 20, index, 4) for index in range(4)
    }
    assert len(seconds) == len(PROGRAMS)
    assert min(seconds) > 0


def test_a_worker_killed_while_training_is_replaced_and_the_result_is_right(pool: WorkerPool) -> None:
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if not killed and progress.index == 1 and progress.step < progress.steps:
            victim = next(worker.process.pid for worker in pool._alive if worker.index == 1)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    programs = PROGRAMS[:2]
    curves = train(pool, programs, epochs=200, on_step=kill)
    assert killed
    assert killed[0] not in pids(pool)
    for index, curve in enumerate(make_task("toy", "cpu").train_programs(programs, epochs=200)):
        np.testing.assert_array_equal(curves[index].step_losses, curve.step_losses)


def test_replies_hold_nan_and_the_first_epoch(quick_pool: QuickPool) -> None:
    curve = train(quick_pool(), [SIN], epochs=4)[0]
    np.testing.assert_array_equal(curve.step_losses, [[0.5, np.nan]])
    assert curve.first_epoch == 3


def test_never_more_workers_than_programs_or_than_asked_for(quick_pool: QuickPool) -> None:
    for workers, programs, expected in ((5, 3, 3), (2, 8, 2), (3, 0, 0)):
        pool = quick_pool(workers)
        assert set(train(pool, [SIN] * programs)) == set(range(programs))
        assert len(pids(pool)) == expected


@pytest.mark.parametrize("how", ["kill", "exit", "orphan", "stop", "garbage"])
def test_a_lost_worker_is_replaced_and_its_program_tried_again(quick_pool: QuickPool, tmp_path: Path, how: str) -> None:
    pool = quick_pool(hang_timeout=3.0 if how == "stop" else 60.0, sin=f"{how}-once")
    assert set(train(pool, [SIN, COS, SQUARE])) == {0, 1, 2}
    assert (tmp_path / "asked").read_text().count("sin") == 2


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("kill", "SIGKILL.* memory"),
        ("exit", "exit code 7"),
        ("stop", "silent for 2 s"),
        ("garbage", "reply: b'Traceback of something'"),
        ("raise", "ValueError: no luck"),
    ],
)
def test_a_program_that_cannot_be_trained_is_named_when_all_others_are_done(
    quick_pool: QuickPool, tmp_path: Path, how: str, reason: str
) -> None:
    pool = quick_pool(hang_timeout=2.0 if how == "stop" else 60.0, sin=how)
    done: list[int] = []
    with pytest.raises(WorkerError) as raised:
        pool.train([SIN, COS, SQUARE, COS], 1, 0, on_result=lambda index, *_: done.append(index))
    assert sorted(done) == [1, 2, 3]
    message = str(raised.value)
    assert message.startswith("1 of 4 programs")
    (told,) = re.findall(r"\n\nr9 = sin\(grad\)\n-> (.*)\n\n", message)  # and no other program
    assert re.search(reason, told)
    assert ("twice" in told) == (how != "raise")
    assert "workers=1 (--workers 1)" in message
    assert (tmp_path / "asked").read_text().count("sin") == (1 if how == "raise" else 2)
    assert set(train(pool, [COS, SQUARE])) == {0, 1}


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["/nonexistent/python"], r"No such file or directory: '/nonexistent/python'"),
        (
            [sys.executable, "-c", "raise SystemExit(3)"],
            "exit code 3.*stderr",
        ),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "silent for 0.5 s"),
        (
            [
                sys.executable,
                "-c",
                "from nosbench_env.tasks import worker; worker.make_task = lambda *_: __import__('no_such_module'); "
                "worker.main()",
                "toy",
            ],
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
    ],
    ids=["no such file", "exits", "hangs", "import error"],
)
def test_workers_that_cannot_start_are_an_error_and_not_started_for_ever(command: list[str], reason: str) -> None:
    pool = WorkerPool("toy", 2, hang_timeout=0.5 if "sleep" in command[-1] else 60.0, command=command)
    with pytest.raises(WorkerError, match=rf"can't start .*{reason}.* workers=1"):
        train(pool, [SIN, COS])
    assert pids(pool) == []


def test_a_worker_that_died_between_calls_is_replaced_unnoticed(quick_pool: QuickPool, tmp_path: Path) -> None:
    pool = quick_pool()
    train(pool, [SIN, COS])
    for worker in pool._alive:
        worker.process.kill()
        worker.process.wait()
    assert set(train(pool, [SIN, COS])) == {0, 1}
    assert (tmp_path / "asked").read_text().count("sin") == 2


@pytest.mark.parametrize("where", ["on_step", "on_result"])
def test_an_interrupt_ends_the_trainings_at_once_and_keeps_idle_workers(quick_pool: QuickPool, where: str) -> None:
    pool = quick_pool(sin="slow", cos="slow")
    train(pool, [SQUARE, SQUARE])
    before = pids(pool)

    done: list[int] = []

    def on_step(_: Progress) -> None:
        if done:
            raise KeyboardInterrupt

    def on_result(index: int, *_: object) -> None:
        done.append(index)
        if where == "on_result":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.train([SIN, SQUARE], 1, 0, on_step=on_step, on_result=on_result)
    assert done == [1]  # the slow training was not waited for
    assert len(pids(pool)) == 1
    assert sum(map(lives, before)) == 1
    assert set(train(pool, [SQUARE, SQUARE])) == {0, 1}


def test_threads_take_turns(quick_pool: QuickPool) -> None:
    pool = quick_pool()
    results: list[dict[int, Curve]] = []
    threads = [threading.Thread(target=lambda: results.append(train(pool, [SIN, COS, SQUARE]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [set(curves) for curves in results] == [{0, 1, 2}] * 4
    assert len(pids(pool)) == 2


def test_a_callback_cannot_train_in_the_same_pool(quick_pool: QuickPool) -> None:
    pool = quick_pool()
    with pytest.raises(RuntimeError, match="callback of the same pool"):
        pool.train([SIN], 1, 0, on_result=lambda *_: pool.train([COS], 1, 0))
    assert set(train(pool, [COS])) == {0}


def test_a_forked_child_leaves_the_workers_alone_and_starts_its_own(quick_pool: QuickPool) -> None:
    pool = quick_pool()
    train(pool, [SIN, COS])
    before = pids(pool)
    child = os.fork()
    if child == 0:
        try:
            assert pids(pool) == []
            assert set(train(pool, [SIN, COS])) == {0, 1}
            assert not set(pids(pool)) & set(before)
            pool.close()
            gc.collect()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert all(map(lives, before))
    assert set(train(pool, [SIN, COS])) == {0, 1}
    assert pids(pool) == before


def test_workers_end_with_the_pool(quick_pool: QuickPool, tmp_path: Path) -> None:
    pool = WorkerPool("toy", 2, command=(sys.executable, str(QUICK_WORKER), str(tmp_path), "{}"))
    train(pool, [SIN, COS])
    before = pids(pool)
    del pool
    gc.collect()
    assert not any(map(lives, before))


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from nosbench_env import KNOWN_PROGRAMS, Oracle

oracle = Oracle("toy", "sqlite://", "cpu", workers=2)
programs = [KNOWN_PROGRAMS[name] for name in ("SGD", "Adam")]
print(*(evaluation.status for evaluation in oracle.query_many(programs, epochs=1)), flush=True)
print(*(worker.process.pid for worker in oracle._pool._alive), flush=True)
if {long}:
    oracle.query_many(programs, epochs=5000, on_step=lambda progress: print("training", flush=True))
"""


def run_script(folder: Path, long: bool) -> subprocess.Popen[str]:
    """A script without `if __name__ == "__main__"`, beside files that would be in the way of a worker's imports."""
    (folder / "script.py").write_text(SCRIPT.format(root=str(ROOT), long=long))
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "json.py").write_text("raise RuntimeError('not this one')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py")],
        cwd=folder / "elsewhere",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_script_needs_no_main_guard_and_leaves_no_workers(tmp_path: Path) -> None:
    script = run_script(tmp_path, long=False)
    out, err = script.communicate(timeout=120)
    assert (script.returncode, err) == (0, "")
    statuses, workers = out.splitlines()
    assert statuses == "ok ok"
    assert len(workers.split()) == 2
    assert not any(lives(int(pid)) for pid in workers.split())


@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_their_parent_is_ended_while_they_train(tmp_path: Path, ended_by: signal.Signals) -> None:
    script = run_script(tmp_path, long=True)
    assert script.stdout is not None
    assert script.stdout.readline() == "ok ok\n"
    workers = [int(pid) for pid in script.stdout.readline().split()]
    assert script.stdout.readline() == "training\n"
    assert [lives(pid) for pid in workers] == [True, True]
    script.send_signal(ended_by)
    _, err = script.communicate(timeout=60)
    assert script.returncode == -ended_by
    assert err.strip().endswith("KeyboardInterrupt") if ended_by == signal.SIGINT else err == ""
    wait_until(lambda: not any(map(lives, workers)), 20)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="task 'mnist'"):
        WorkerPool("mnist", 2)
    for bad in (0, -1, 2.0, True, "2"):
        with pytest.raises(ValueError, match=r"workers .* >= 1, got"):
            WorkerPool("toy", bad)
    for bad in (0, -1, "1", float("nan")):
        with pytest.raises(ValueError, match=r"hang_timeout .* > 0, got"):
            WorkerPool("toy", 2, hang_timeout=bad)
