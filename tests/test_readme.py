"""The README: its examples run as they stand there, its table is that of the results, its links lead somewhere."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"<!-- tested -->\n```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors as small as those of the examples gain nothing from more, and lose much on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_python_example_is_tested() -> None:
    assert 0 < len(EXAMPLES) == README.count("```python\n")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.splitlines()[0])
def test_example_runs(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_named_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)$", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_table_is_that_of_the_results() -> None:
    with (ROOT / "benchmarks/results/baselines/scores.csv").open() as file:
        scores = [
            [row["name"], *(f"{float(row[column]):.3f}" if row[column] else "" for column in ("mean", "sd", "paper"))]
            for row in csv.DictReader(file)
        ]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", README, flags=re.M)]
    names = {name for name, *_ in scores}
    assert [row for row in rows if row[0] in names] == scores


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^):#]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
