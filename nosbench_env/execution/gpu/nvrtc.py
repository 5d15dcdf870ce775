"""The interpreter's kernels on a CUDA device, compiled by the NVRTC that comes with torch."""

from __future__ import annotations

import ctypes
import warnings
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

_KERNELS = ("reduce_level", "finish_step", "gradient_norms", "clip_factors")


class CUDAKernels:
    """The compiled kernels of `interpreter.cu` on one device.

    Raises:
        RuntimeError, OSError, ImportError, AttributeError: If NVRTC is missing, or torch does not give access to it.
    """

    def __init__(self, device: torch.device) -> None:
        from torch.cuda import _utils  # private: where it is not what we know, there are no kernels

        self._device = device
        with torch.cuda.device(device):
            torch.cuda.synchronize()  # makes sure that there is a context to load the code into
            major, minor = torch.cuda.get_device_capability(device)
            image = _compile(files(__package__).joinpath("interpreter.cu").read_text(), f"sm_{major}{minor}", _utils)
            self._functions: Any = _utils._cuda_load_module(image, list(_KERNELS))

    def launch(self, name: str, grid: tuple[int, int], threads: int, *arguments: Tensor | int) -> None:
        """See `Kernels.launch`."""
        with torch.cuda.device(self._device):
            self._functions[name](grid=(*grid, 1), block=(threads, 1, 1), args=list(arguments))


def cuda_kernels(device: torch.device) -> CUDAKernels | None:
    """The kernels on a device; None, with a warning, where they can't be had: then torch's operations have to do."""
    return _kernels_of(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _kernels_of(index: int) -> CUDAKernels | None:
    try:
        return CUDAKernels(torch.device("cuda", index))
    except (RuntimeError, OSError, ImportError, AttributeError) as error:
        warnings.warn(
            f"the fused kernels can't be used on cuda:{index} ({error}); torch's operations are, which is slower",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def _compile(source: str, architecture: str, utils: Any) -> bytes:
    """Compiles to machine code, without contraction of products and sums."""
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
