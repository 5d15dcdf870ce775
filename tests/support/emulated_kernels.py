"""The kernels of `interpreter.cu`, compiled for the CPU.

Tests without a GPU thus run the GPU's source.
"""

import ctypes
import shutil
import subprocess
from pathlib import Path

from torch import Tensor

from nosbench_env.execution.gpu import interpreter

COMPILER = shutil.which("g++")
_SUPPORT = Path(__file__).parent
_LAUNCHERS = """
extern "C" void launch_reduce_level(unsigned x, unsigned y, unsigned n, const Tables* tables, int level) {
    emulate(x, y, n, [=] { reduce_level(tables, level); });
}
extern "C" void launch_finish_step(unsigned x, unsigned y, unsigned n, const Tables* tables, const int* tiles) {
    emulate(x, y, n, [=] { finish_step(tables, tiles); });
}
extern "C" void launch_gradient_norms(unsigned x, unsigned y, unsigned n, const Tables* tables, float* norms) {
    emulate(x, y, n, [=] { gradient_norms(tables, norms); });
}
extern "C" void launch_clip_factors(
    unsigned x, unsigned y, unsigned n, const Tables* tables, const float* norms, float* factors) {
    emulate(x, y, n, [=] { clip_factors(tables, norms, factors); });
}
"""


class EmulatedKernels:
    """Kernels with few threads per block; blocks run one after the other."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        source = Path(interpreter.__file__).with_name("interpreter.cu").read_text()
        file = folder / "kernels.cpp"
        file.write_text(f'#include "cuda_emulation.h"\n{source}\n{_LAUNCHERS}')
        library = folder / "kernels.so"
        flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-pthread", "-Wno-unknown-pragmas"]
        command = [str(COMPILER), *flags, f"-I{_SUPPORT}", str(file), "-o", str(library)]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))
        self.threads = threads

    def launch(self, name: str, grid: tuple[int, int], threads: int, *arguments: Tensor | int) -> None:
        values = [
            ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, Tensor) else ctypes.c_int(argument)
            for argument in arguments
        ]
        getattr(self._library, f"launch_{name}")(*map(ctypes.c_uint, (*grid, self.threads)), *values)
