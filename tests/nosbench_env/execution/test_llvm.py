import gc
import os
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nosbench_env.execution.llvm import CompiledLoops, Loop, Operation


def run(loop: Loop, arrays: list[list[np.ndarray]], scalars: list[list[float]]) -> int:
    """Runs a loop over tensors, each given by its arrays and its scalars."""
    native = CompiledLoops([loop])
    sizes = np.array([len(own[0]) for own in arrays], dtype=np.int64)
    pointers = np.array([[array.ctypes.data for array in own] for own in arrays], dtype=np.int64)
    values = np.array(scalars, dtype=np.float32)
    return native.functions[0](len(arrays), sizes.ctypes.data, pointers.ctypes.data, values.ctypes.data)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 100])
def test_every_element_is_computed_and_none_beyond(size: int) -> None:
    a, out = np.arange(size, dtype=np.float32), np.full(size + 20, 7.0, dtype=np.float32)
    loop = Loop(2, 1, (Operation("mul", ("a0", "s0")), Operation("add", ("v0", 0.5))), (("v1", 1),))
    run(loop, [[a, out]], [[2.0]])
    np.testing.assert_array_equal(out[:size], a * 2 + np.float32(0.5))
    np.testing.assert_array_equal(out[size:], 7.0)


def test_each_tensor_has_its_own_arrays_and_scalars() -> None:
    arrays = [[np.full(n, n, dtype=np.float32)] for n in (3, 40)]
    run(Loop(1, 1, (Operation("sub", ("a0", "s0")),), (("v0", 0),)), arrays, [[1.0], [2.0]])
    assert (arrays[0][0] == 2).all()
    assert (arrays[1][0] == 38).all()


@pytest.mark.parametrize("place", [0, 20, 39])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_stored_value_that_is_not_finite_is_reported(place: int, value: float) -> None:
    a, b = np.ones(40, dtype=np.float32), np.ones(40, dtype=np.float32)
    loop = Loop(2, 0, (Operation("add", ("a0", 0.0)),), (("v0", 1),), checked=1)
    assert run(loop, [[a, b], [a.copy(), b.copy()]], [[], []]) == 0
    a[place] = value
    assert run(loop, [[b, b.copy()], [a, b]], [[], []]) == 1
    assert run(loop, [[a, b], [b.copy(), b.copy()]], [[], []]) == 1


def test_products_and_sums_are_rounded_one_by_one() -> None:
    # (1 + e)^2 - 1 - 2e is e^2 where they are fused, and 0 where the square is rounded first.
    e = np.float32(2.0**-12)
    a = np.full(33, 1 + e, dtype=np.float32)
    loop = Loop(1, 0, (Operation("square", ("a0",)), Operation("sub", ("v0", float(1 + 2 * e)))), (("v1", 0),))
    run(loop, [[a]], [[]])
    assert (a == 0).all()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_machine_code_is_freed_with_its_object() -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    def compile_some(count: int) -> None:
        for number in range(count):
            CompiledLoops([Loop(1, 0, (Operation("add", ("a0", float(number))),), (("v0", 0),))])
        gc.collect()

    compile_some(50)
    before = resident()
    compile_some(300)
    assert resident() - before < 15  # MB; they would take some 30 if none were freed


def test_a_process_forked_while_a_thread_compiles_can_compile() -> None:
    done = threading.Event()
    loop = Loop(1, 0, (Operation("add", ("a0", 1.0)),), (("v0", 0),))

    def compile_on() -> None:
        while not done.is_set():
            CompiledLoops([loop])

    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(compile_on)
        try:
            for _ in range(12):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of such forks
                    child = os.fork()
                if child == 0:
                    signal.alarm(20)  # a deadlock ends the child
                    CompiledLoops([loop])
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            done.set()
        compiling.result()
