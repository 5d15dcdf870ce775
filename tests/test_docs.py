"""The documentation: it builds without warnings, its links lead somewhere, its commands and code work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import gymnasium
import pytest
import torch
import typer

import nosbench_env
from nosbench_env import FUNCTIONS, agents, comparison, wrappers
from nosbench_env.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


class Block(NamedTuple):
    """A block of code of a page, and the name of the file that it is, if it is one."""

    language: str
    file: str
    code: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(*found)
        for found in re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', page.read_text(), flags=re.M | re.S)
    ]


def named(page: Path) -> str:
    return str(page.relative_to(DOCS))


# -- The site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` builds them; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    return folder


class _Html(HTMLParser):
    """A page's ids, what it links to, what a browser loads with it, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids, self.links, self.loaded, self.text = set[str](), list[str](), list[str](), ""
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.ids |= {value for name in ("id", "name") if (value := found.get(name))}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        if address := found.get("src") or (found.get("href") if tag == "link" else None):
            self.loaded.append(address)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Html]:
    return {file: _Html(file) for file in site.rglob("*.html") if file.name != "404.html"}


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, _Html]) -> None:
    broken = []
    for file, page in pages.items():
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                broken.append(f"{file.relative_to(site)}: {address}")
    assert len(pages) == len(PAGES)
    assert not broken


def test_a_browser_fetches_nothing_from_elsewhere(site: Path, pages: dict[Path, _Html]) -> None:
    assert not [address for page in pages.values() for address in page.loaded if urlsplit(address).scheme]
    sheets = " ".join(file.read_text() for file in site.rglob("*.css"))
    assert not [address for address in re.findall(r"url\(([^)]*)\)", sheets) if address.strip("'\"").startswith("http")]


def test_every_page_can_be_reached(site: Path, pages: dict[Path, _Html]) -> None:
    links = {urlsplit(address).path for address in pages[site / "index.html"].links}
    assert {named(page.with_suffix(".html")) for page in PAGES} - {"index.html"} <= links


def test_every_public_name_is_in_the_reference(pages: dict[Path, _Html]) -> None:
    ids = set().union(*(page.ids for page in pages.values()))
    missing = [
        f"{package.__name__}.{name}"
        for package in (nosbench_env, agents, comparison, wrappers)
        for name in package.__all__
        if f"{package.__name__}.{name}" not in ids
    ]
    assert not missing


def test_every_function_stands_in_its_table(site: Path, pages: dict[Path, _Html]) -> None:
    text = " ".join(pages[site / "programs.html"].text.split())
    for number, function in enumerate(FUNCTIONS.values()):
        inputs = ("unary", "binary", "ternary")[function.arity - 1]
        assert f"{number} {function.name} {inputs} {function.meaning}" in text


def test_every_agent_and_wrapper_stands_in_its_table() -> None:
    of_agents, of_environments = ((DOCS / name).read_text() for name in ("agents.md", "environments.md"))
    assert not [name for name in agents.AGENTS if f"| `{name}` |" not in of_agents]
    classes = [name for name in wrappers.__all__ if issubclass(getattr(wrappers, name), gymnasium.Wrapper)]
    assert not [name for name in classes if f"| [`{name}`]" not in of_environments]


def test_the_picture_of_the_layers_is_that_of_the_contract() -> None:
    """If this fails: python docs/images/draw.py."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [name.strip() for layer in layers for name in layer.split("|")]
    assert re.findall(r">(\w+)</text>", (DOCS / "images/layers.svg").read_text()) == ["imports", *names]
    page = (DOCS / "design.md").read_text()
    assert not [name for name in names if not re.search(rf"^\|.*`{name}`.*\|.*\|$", page, flags=re.M)]


# -- Commands


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by what one types, groups included."""

    def within(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield name, command
        for inner, found in getattr(command, "commands", {}).items():
            yield from within(found, f"{name} {inner}")

    return within(typer.main.get_command(app), "nosbench")


def test_every_command_and_option_is_in_the_reference(site: Path, pages: dict[Path, _Html]) -> None:
    text = pages[site / "cli.html"].text
    for name, command in commands():
        assert name in text
        for param in command.params:
            for option in (*param.opts, *param.secondary_opts):
                assert not option.startswith("--") or option in text, f"{name} {option}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    known = dict(commands())
    shell = "\n".join(block.code for block in blocks(page) if block.language == "sh").replace("\\\n", " ")
    lines = [line.strip() for line in shell.split("\n")] + re.findall(r"`(nosbench [^`]*)`", page.read_text())
    for line in lines:
        if line.startswith("nosbench "):
            words = shlex.split(line, comments=True)
            name = words.pop(0)
            while words and f"{name} {words[0]}" in known:
                name += f" {words.pop(0)}"
            options = {option for param in known[name].params for option in (*param.opts, *param.secondary_opts)}
            asked = {word for word in words if word.startswith("-") and word != "-"}
            assert asked <= options | {"--help", "--install-completion"}, line
            assert not getattr(known[name], "commands", None) or not words or asked, f"{line}: no such command"


# -- Code


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nosbench: Callable[..., Any]
) -> Iterator[Callable[[list[Block]], None]]:
    """Follows a page from top to bottom in an empty folder: files, Python, and where asked commands."""
    monkeypatch.syspath_prepend(tmp_path)
    before, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)  # for tensors as small as these

    def go(page: list[Block], *, shell: bool = False) -> None:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        for block in page:
            if block.file:
                (tmp_path / block.file).write_text(block.code)
            elif block.language == "python":
                exec(compile(block.code, "page", "exec"), namespace)
            elif block.language == "sh" and shell:
                for line in block.code.replace("\\\n", " ").splitlines():
                    command, *words = shlex.split(line, comments=True) or [""]
                    if command == "nosbench":
                        run = nosbench(*words)
                        assert run.code == 0, (line, run.err)
                    elif command == "elsewhere/bin/python":
                        without_us(words, tmp_path)

    yield go
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def without_us(words: list[str], folder: Path) -> None:
    """Runs a script of the folder as in an environment in which nosbench_env is not installed."""
    path = folder / "elsewhere"
    path.mkdir(exist_ok=True)
    (path / "nosbench_env.py").write_text("raise ImportError('not installed here')\n")
    environment = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}  # for tensors as small as these
    run = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


IN_PIECES = {"tutorial.md", "add_function.md"}  # need more than a namespace; see below
WITH_PYTHON = [page for page in PAGES if "python" in {block.language for block in blocks(page)}]


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page.name not in IN_PIECES], ids=named)
def test_the_python_of_a_page_runs(page: Path, play: Callable[..., None]) -> None:
    play(blocks(page))


def test_a_function_is_added_as_its_page_says(tmp_path: Path) -> None:
    """To a copy of the package, in a process of its own."""
    if shutil.which("git") is None:
        pytest.skip("needs git, which applies patches")
    found = blocks(DOCS / "add_function.md")
    shutil.copytree(ROOT / "nosbench_env", tmp_path / "nosbench_env", ignore=shutil.ignore_patterns("__pycache__"))
    patch = "".join(block.code for block in found if block.language == "diff")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=patch, text=True, check=True)
    code = "".join(block.code for block in found if block.language == "python")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "tanh(g/0.1)" in run.stdout


@pytest.mark.slow
def test_the_tutorial_is_as_it_says(play: Callable[..., None]) -> None:
    play(blocks(DOCS / "tutorial.md"), shell=True)
