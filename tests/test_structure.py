"""The shape of the repository: few modules at the top, links to the outer folders, tests that mirror the modules."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_AT_THE_TOP = 8
FOLDERS = ("nosbench_env", "agents", "wrappers")

# Modules without a test file of their own, and the tests that cover them.
TESTED_ELSEWHERE = {
    "agents/agent.py": "agents/test_agents.py",
    "agents/random_search.py": "agents/test_agents.py",
    "nosbench_env/execution/gpu/without_kernels.py": "nosbench_env/execution/test_equality.py",
    "wrappers/evaluation_reward.py": "wrappers/test_wrappers.py",
}
# Test files that cover several modules.
CROSS_CUTTING = {
    "tests/agents/test_agents.py",
    "tests/nosbench_env/execution/test_equality.py",
    "tests/nosbench_env/results/test_transfer_fuzz.py",
    "tests/nosbench_env/store/test_faults.py",
    "tests/nosbench_env/store/test_fuzz.py",
    "tests/nosbench_env/store/test_read_only.py",
    "tests/nosbench_env/tasks/test_tasks.py",  # the package's table of tasks
    "tests/wrappers/test_optimal_policies.py",
    "tests/wrappers/test_wrappers.py",
}


def modules() -> set[str]:
    """The modules as paths from the root, without the links and without packages' `__init__`."""
    return {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py") and not any(part.is_symlink() for part in path.parents)
    }


def module_of(test: Path) -> str:
    """The module that a test file is named after."""
    return str(test.relative_to(ROOT / "tests").with_name(test.name.removeprefix("test_")))


def mirrored_modules() -> dict[str, str]:
    """The test files below the mirrored folders, by the module that each is named after."""
    return {
        module_of(path): str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / "tests" / folder).rglob("test_*.py")
    }


def test_every_module_has_its_test_file() -> None:
    assert modules() - set(mirrored_modules()) == set(TESTED_ELSEWHERE)


def test_every_test_file_has_its_module() -> None:
    assert {test for module, test in mirrored_modules().items() if module not in modules()} == CROSS_CUTTING


def test_modules_tested_elsewhere_name_a_test_that_exists() -> None:
    assert [test for test in TESTED_ELSEWHERE.values() if not (ROOT / "tests" / test).is_file()] == []


def test_few_modules_stand_at_the_top() -> None:
    assert len(list((ROOT / "nosbench_env").glob("*.py"))) <= MOST_AT_THE_TOP


def test_the_links_lead_to_the_folders() -> None:
    for name in ("agents", "wrappers"):
        link = ROOT / "nosbench_env" / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / name


def test_the_light_part_loads_neither_torch_nor_sqlalchemy() -> None:
    light = [
        path.removesuffix(".py").replace("/", ".")
        for path in modules()
        if path.startswith("nosbench_env/language/") or path == "nosbench_env/execution/settings.py"
    ]
    code = f"import sys, {', '.join(sorted(light))}; print(sorted({{'torch', 'sqlalchemy'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
