"""The interpreter's kernels, compiled by torch's NVRTC."""

from __future__ import annotations

import ctypes
import warnings
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

_KERNELS = ("reduce_level", "finish_step", "gradient_norms", "clip_factors")


class CudaKernels:
    """The compiled kernels of `interpreter.cu` on one device.

    Raises:
        RuntimeError, OSError, ImportError, AttributeError: If NVRTC is missing, or torch does not give access to it.
    """

    def __init__(self, device: torch.device) -> None:
        from torch.cuda import _utils  # private: if it changes, there are no kernels

        self._device = device
        with torch.cuda.device(device):
            torch.cuda.synchronize()  # creates the context that the code is loaded into
            major, minor = torch.cuda.get_device_capability(device)
            image = _compile(files(__package__).joinpath("interpreter.cu").read_text(), f"sm_{major}{minor}", _utils)
            self._functions: Any = _utils._cuda_load_module(image, list(_KERNELS))

    def launch(self, name: str, grid: tuple[int, int], threads: int, *arguments: Tensor | int) -> None:
        """See `Kernels.launch`."""
        with torch.cuda.device(self._device):
            self._functions[name](grid=(*grid, 1), block=(threads, 1, 1), args=list(arguments))


def cuda_kernels(device: torch.device) -> CudaKernels | None:
    """Returns the kernels on a device; warns and returns None without any."""
    return _kernels_of(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _kernels_of(index: int) -> CudaKernels | None:
    try:
        return CudaKernels(torch.device("cuda", index))
    except (RuntimeError, OSError, ImportError, AttributeError) as error:
        warnings.warn(
            f"no fused kernels on cuda:{index} ({error}); torch's operations are used, which are slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _compile(source: str, architecture: str, utils: Any) -> bytes:
    """Compiles CUDA source, without contracting products and sums."""
    find_library = getattr(utils, "_get_gpu_rtc_library", None) or utils._get_nvrtc_library
    nvrtc = find_library()

    def check(result: int) -> None:
        if result != 0:
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(result).decode()}")

    program = ctypes.c_void_p()
    check(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"interpreter.cu", 0, None, None),
    )
    try:
        options = [f"--gpu-architecture={architecture}".encode(), b"--fmad=false", b"--std=c++17"]
        result = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        if result != 0:
            size = ctypes.c_size_t()
            check(nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)))
            log = ctypes.create_string_buffer(size.value)
            check(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"NVRTC: {log.value.decode()}")
        size = ctypes.c_size_t()
        check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        image = ctypes.create_string_buffer(size.value)
        check(nvrtc.nvrtcGetCUBIN(program, image))
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
