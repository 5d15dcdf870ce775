import csv
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import write_run

from nosbench_env import KNOWN_PROGRAMS
from nosbench_env.comparison import Comparison, compare, read_run
from nosbench_env.comparison.comparison import CURVE_FIELDS, PAIR_FIELDS, RUN_FIELDS, TABLE_FIELDS
from nosbench_env.comparison.reference import Reference
from nosbench_env.comparison.report import render, write_report
from nosbench_env.language.pseudocode import pseudocode

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;$\\frac{"
PICTURES = ["curves-distinct.png", "curves-queries.png", "curves-seconds.png", "losses.png"]


class Page(HTMLParser):
    """A page's elements, their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def test_runs_over_optimizers_show_them_as_they_are(tmp_path: Path) -> None:
    from nosbench_env import OptimizerConfig, Oracle
    from nosbench_env.agents import Budget, RandomSearch, search

    oracle = Oracle("toy", tmp_path / "store.sqlite", "cpu", workers=1)
    adam = OptimizerConfig("torch.optim.Adam", {"lr": 0.1, "betas": (0.5, 0.9)})
    for seed in range(2):
        search(OneOptimizer(adam, seed), oracle, Budget(queries=3), epochs=1, folder=tmp_path / f"hpo-{seed}")
        search(RandomSearch(seed=seed), oracle, Budget(queries=3), epochs=1, folder=tmp_path / f"rs-{seed}")
    comparison = compare([read_run(folder) for folder in sorted(tmp_path.glob("*-?"))])
    text = " ".join(Page(render(comparison, {})).text.split())
    assert "SMAC over optimizers" in text
    assert f"hyperparameters; query 1 of the run with seed 0 {adam}" in text
    assert {row["program"] for row in comparison.runs if row["method"] == "SMAC over optimizers"} == {str(adam)}
    write_report(comparison, tmp_path / "report", plot=False)


class OneOptimizer:
    """Proposes one and the same."""

    name = "smac-hpo"

    def __init__(self, optimizer: Any, seed: int) -> None:
        self.optimizer, self.seed = optimizer, seed

    def ask(self, n: int = 1) -> list[Any]:
        return [self.optimizer] * n

    def tell(self, programs: Any, evaluations: Any) -> None:
        pass

    def config(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def compared(tmp_path: Path, *agents: str, **others) -> Comparison:
    runs = [
        read_run(write_run(tmp_path / f"{i}-{seed}", [9.0, None, 3.0 + i + seed, 1.5], agent, seed, **others))
        for i, agent in enumerate(agents)
        for seed in range(3)
    ]
    return compare(runs, find_reference=lambda conditions: Reference("AdamW", 2.0))


def test_all_files_are_written_and_again_the_same(tmp_path: Path) -> None:
    comparison = compared(tmp_path, "rs", "re")
    files = write_report(comparison, tmp_path / "out" / "deep")
    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "out" / "deep").iterdir())
    assert files[0].name == "report.html"
    assert {path.name for path in files} >= set(PICTURES)
    first = {path: path.read_bytes() for path in files}
    assert all(data.startswith(b"\x89PNG") for path, data in first.items() if path.suffix == ".png")
    write_report(comparison, tmp_path / "out" / "deep")
    assert {path: path.read_bytes() for path in files} == first


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    (page, *_) = write_report(compared(tmp_path, "rs", "re"), tmp_path / "out")
    text = page.read_text()
    parsed = Page(text)
    assert parsed.open == []
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"script", "link", "iframe", "object", "a", "base"})
    sources = [attributes["src"] for tag, attributes in parsed.elements if tag == "img"]
    assert len(sources) == len(PICTURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "url(" not in text
    assert "://" not in text
    assert ("meta", {"http-equiv": "Content-Security-Policy"}) in [
        (tag, {"http-equiv": attributes["http-equiv"]})
        for tag, attributes in parsed.elements
        if "http-equiv" in attributes
    ]
    assert all(attributes.get("alt") for tag, attributes in parsed.elements if tag == "img")


def test_what_runs_hold_is_text_and_nothing_else(tmp_path: Path) -> None:
    plain = compared(tmp_path / "plain", "rs", "ppo", note="x")
    hostile = compared(
        tmp_path / f"h {HOSTILE.replace('/', '')}", HOSTILE, "ppo", note={HOSTILE: HOSTILE}, task=HOSTILE
    )
    expected, found = Page(render(plain, {})), Page(render(hostile, {}))
    # The same elements and attributes as of harmless runs: no name became one.
    assert found.elements == expected.elements
    assert "<script>alert(1)</script>" in found.text
    assert "{{ 7 * 7 }}" in found.text
    write_report(hostile, tmp_path / "out")  # nor does a plot take it for mathematics


@given(name=st.text(max_size=30), task=st.text(max_size=30))
@settings(max_examples=12)
def test_no_name_changes_the_page(tmp_path_factory: pytest.TempPathFactory, name: str, task: str) -> None:
    folder = tmp_path_factory.mktemp("runs")
    harmless = [read_run(write_run(folder / f"a{k}", [1.0], "a", k)) for k in range(2)]
    drawn = [read_run(write_run(folder / f"b{k}", [1.0], f"agent {name}", k, task=f"t{task}")) for k in range(2)]
    expected, found = (Page(render(compare(runs), {})) for runs in (harmless, drawn))
    assert found.elements == expected.elements


def test_the_page_shows_each_methods_best_program(tmp_path: Path) -> None:
    known = {name: KNOWN_PROGRAMS[name] for name in ("AdamW", "RMSprop")}
    for name, program in known.items():
        folder = write_run(tmp_path / name, [1.0], name)
        line = json.loads((folder / "history.jsonl").read_text())
        (folder / "history.jsonl").write_text(json.dumps(line | {"program": program.to_json()}) + "\n")
    text = Page(render(compare([read_run(tmp_path / name) for name in known]), {})).text
    for program in known.values():
        assert pseudocode(program) in text
        assert str(program) in text
        assert str(program.simplified()) in text
    assert "gradient-based" in text


def test_the_page_says_how_it_was_made(tmp_path: Path) -> None:
    comparison = compared(tmp_path, "rs", "ppo")
    text = " ".join(Page(render(comparison, {})).text.split())
    assert "Task toy (version 1), 5 epochs, training seed 0, float32, identity fingerprint" in text
    assert "numpy" in text
    assert "AdamW reaches 2.0000" in text
    assert all(note in text for note in comparison.notes)
    assert str(tmp_path / "0-0") in text
    assert "plots were not asked for" in text


def test_tables_are_read_back(tmp_path: Path) -> None:
    comparison = compared(tmp_path, "rs", "re")
    write_report(comparison, tmp_path / "out", plot=False)
    assert not list((tmp_path / "out").glob("*.png"))
    for name, fields, rows in (
        ("table", TABLE_FIELDS, comparison.table),
        ("runs", RUN_FIELDS, comparison.runs),
        ("pairs", PAIR_FIELDS, comparison.pair_rows),
        ("curves", CURVE_FIELDS, comparison.curve_rows),
    ):
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as file:
            header, *lines = csv.reader(file)
        assert header == list(fields)
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            for cell, field in zip(line, fields, strict=True):
                value = row[field]
                if isinstance(value, float) and not math.isnan(value):
                    assert float(cell) == value
                elif isinstance(value, str):
                    assert cell == value
    data = json.loads((tmp_path / "out" / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert data["format"] == "nosbench-comparison"


def test_a_spreadsheet_computes_nothing(tmp_path: Path) -> None:
    write_report(compared(tmp_path, "=HYPERLINK(1)"), tmp_path / "out", plot=False)
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        assert list(csv.reader(file))[1][0] == "'=HYPERLINK(1)"


def test_names_that_are_no_unicode_are_written_all_the_same(tmp_path: Path) -> None:
    broken = "a\ud800b"
    folder = tmp_path / os.fsdecode(b"runs-\xff")
    runs = [read_run(write_run(folder, [1.0], broken, task=broken, note=broken))]
    write_report(compare(runs), tmp_path / "out", plot=False)
    assert "a\\ud800b" in (tmp_path / "out" / "report.html").read_text()
    assert "runs-\\udcff" in (tmp_path / "out" / "runs.csv").read_text()


def test_no_line_of_the_page_is_left_untranslated(tmp_path: Path) -> None:
    assert not re.search(r"\{[%{#]", render(compared(tmp_path, "rs", "ppo"), {}))
