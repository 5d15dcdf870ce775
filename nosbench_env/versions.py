"""Versions of Python and of installed packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def installed_version(package: str) -> str:
    """Returns the version of a package; `UNKNOWN` if it is not installed, as in a bare checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of Python and of those packages that are installed.

    >>> list(installed_versions(["numpy", "no-such-package"]))
    ['python', 'numpy']
    """
    versions = {package: installed_version(package) for package in packages}
    known = {package: found for package, found in versions.items() if found != UNKNOWN}
    return {"python": platform.python_version()} | known
