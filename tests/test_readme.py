"""The README's examples run as they stand there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"<!-- tested -->\n```python\n(.*?)```", README, flags=re.DOTALL)


def test_every_python_example_is_tested() -> None:
    assert len(EXAMPLES) == README.count("```python\n") == 8


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.splitlines()[0])
def test_example_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_named_commands_exist() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)$", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
