import warnings

import pytest
import torch

from nosbench_env.execution.gpu import nvrtc


def test_missing_kernels_are_a_warning_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("no such library")

    monkeypatch.setattr(nvrtc, "CudaKernels", fail)
    nvrtc._kernels_of.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"cuda:3 \(no such library\)"):
            assert nvrtc.cuda_kernels(torch.device("cuda", 3)) is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # once per process is enough
            assert nvrtc.cuda_kernels(torch.device("cuda", 3)) is None
    finally:
        nvrtc._kernels_of.cache_clear()


@pytest.mark.gpu
def test_kernels_are_compiled_once_per_device() -> None:
    kernels = nvrtc.cuda_kernels(torch.device("cuda"))
    assert kernels is not None
    assert nvrtc.cuda_kernels(torch.device("cuda", torch.cuda.current_device())) is kernels


@pytest.mark.gpu
def test_source_that_does_not_compile_is_an_error_with_its_log() -> None:
    from torch.cuda import _utils

    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match=r"NVRTC: .*interpreter\.cu"):
        nvrtc._compile("not CUDA", "sm_80", _utils)
