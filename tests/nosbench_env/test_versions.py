import platform
from importlib.metadata import version

from nosbench_env.versions import UNKNOWN, installed_version, installed_versions


def test_versions_are_those_of_the_installed_packages() -> None:
    assert installed_version("numpy") == version("numpy")
    assert installed_version("no-such-package") == UNKNOWN
    assert installed_versions(["torch", "no-such-package", "numpy"]) == {
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": version("numpy"),
    }
