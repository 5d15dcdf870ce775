"""Versions of Python and of installed packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def installed_version(package: str) -> str:
    """Returns a package's version, or `UNKNOWN` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of Python and of the installed packages.

    Packages that are not installed are left out.

    >>> list(installed_versions(["numpy", "no-such-package"]))
    ['python', 'numpy']
    """
    versions = {package: installed_version(package) for package in packages}
    known = {package: number for package, number in versions.items() if number != UNKNOWN}
    return {"python": platform.python_version()} | known
