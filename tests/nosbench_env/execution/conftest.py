import pytest
from emulated_kernels import COMPILER, EmulatedKernels


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> EmulatedKernels:
    """The GPU's kernels, run on the CPU by a single thread per block."""
    if COMPILER is None:
        pytest.skip("needs g++ to run the GPU's kernels on the CPU")
    return EmulatedKernels(tmp_path_factory.mktemp("kernels"))
