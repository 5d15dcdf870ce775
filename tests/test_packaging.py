import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_module_once(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)  # what is committed, links included
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    tracked = subprocess.run(["git", "ls-files"], cwd=source, capture_output=True, text=True, check=True).stdout.split()
    expected = {
        name if name.startswith("nosbench_env/") else f"nosbench_env/{name}"
        for name in tracked
        if name.startswith(("nosbench_env/", "agents/", "wrappers/"))
        and name.endswith((".py", ".cu", ".jinja", "py.typed", ".jsonl.gz"))
    }
    assert sorted(names) == sorted(expected)
    metadata = next(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/METADATA"))
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    assert "License-Expression: MIT" in text
    assert "Requires-Python: >=3.11" in text


def test_the_lowest_constraints_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ("sb3-contrib", "smac", "optimizers", "tune", "plot", "postgres")
    texts = project["dependencies"] + [text for extra in extras for text in project["optional-dependencies"][extra]]
    pins = {
        canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version)
        for line in (ROOT / "constraints-lowest.txt").read_text().splitlines()
        if not line.startswith("#")
        for pin in [Requirement(line.partition("#")[0])]
    }
    for requirement in map(Requirement, texts):
        (bound,) = (Version(part.version) for part in requirement.specifier if part.operator == ">=")
        assert pins[canonicalize_name(requirement.name)] == bound, requirement.name
