"""What a study was made with."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

_PACKAGES = ("nosbench_env", "torch", "numpy", "scipy", "matplotlib", "smac", "ConfigSpace", "pytorch_optimizer")


def made_by(device: str) -> dict[str, str]:
    """The device's name, and the versions of what is installed.

    Args:
        device: As torch writes it.
    """
    of = torch.device(device)
    found = {
        "device": torch.cuda.get_device_name(of) if of.type == "cuda" else f"cpu ({platform.machine()})",
        "python": platform.python_version(),
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra that is not installed, or a bare checkout
            continue
    return found
