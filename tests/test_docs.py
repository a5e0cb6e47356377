"""Every example in README.md and docs/ that can be run is run: Python blocks, recipes, command lines, make targets.

Blocks of a page run in order in one folder. A block whose opening line says ``file=PATH`` is written to that path
instead; a ``pyproject.toml`` among those is put on the path like an installed distribution, so that the plugin of the
tutorial is a real one. What stands in a block ``sh setup`` is run before all that. Files that the command lines mention
(``photo.jpg``, ``mine.yaml``) are provided.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

from vtprune import Recipe
from vtprune.cli import app
from vtprune.core.plugins import GROUP, registry
from vtprune.core.registry import KINDS
from vtprune.study.file import StudyFile
from vtprune.testbed import photo

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
LANGUAGES = {"python", "yaml", "sh", "toml", "text"}
VTPRUNE = [sys.executable, "-c", "from vtprune.cli import main; main()"]
BACKTICKED_NAME = re.compile(r"`([a-z][a-z0-9_]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the other words of its opening line, and its text."""

    page: Path
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def file(self) -> str | None:
        """Where the block is to be written, if it is a file of an example."""
        return next((word.removeprefix("file=") for word in self.words if word.startswith("file=")), None)


def blocks(page: Path) -> list[Block]:
    found = []
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        language, *words = match["info"].split()
        found.append(Block(page, language, tuple(words), match["body"]))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [
    pytest.param(block.page, line.partition("    #")[0].strip(), id=f"{block.page.stem}: {line[:60]}")
    for block in BLOCKS
    if block.language == "sh" and "setup" not in block.words
    for line in block.text.splitlines()
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with the files that the examples mention."""
    photo("coffee").save(tmp_path / "photo.jpg")
    readme = next(block for block in blocks(ROOT / "README.md") if block.language == "yaml")
    (tmp_path / "mine.yaml").write_text(readme.text, encoding="utf-8")
    return tmp_path


def prepare(page: Path, folder: Path) -> None:
    """Run the page's setup, write the files of its example, and make a distribution of those with a pyproject.toml."""
    for block in blocks(page):
        if "setup" in block.words:
            for line in block.text.splitlines():
                run([*VTPRUNE, *shlex.split(line)[1:]], folder)
    for block in blocks(page):
        if block.file is None:
            continue
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    for project in projects(folder):
        data = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        info = project.parent / f"{data['name'].replace('-', '_')}-{data['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {data['name']}\nVersion: {data['version']}\n", encoding="utf-8"
        )
        points = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in data["entry-points"].items()
        )
        (info / "entry_points.txt").write_text(points, encoding="utf-8")


def projects(folder: Path) -> list[Path]:
    """The pyproject.toml files in a folder and one level below."""
    return [*folder.glob("pyproject.toml"), *folder.glob("*/pyproject.toml")]


def run(command: list[str], folder: Path) -> str:
    """Output of a command that has to succeed, run in ``folder`` with its modules and plugins importable."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), *(str(path.parent) for path in projects(folder)), str(ROOT)]),
        "VTPRUNE_STRICT_PLUGINS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def is_plugin(page: Path) -> bool:
    """Whether the page's example is a distribution of its own; plugins are discovered once per process."""
    return any(block.file == "pyproject.toml" or "setup" in block.words for block in blocks(page))


def has_python(page: Path) -> bool:
    return any(block.language == "python" and block.file is None for block in blocks(page))


@pytest.mark.parametrize("page", [page for page in PAGES if has_python(page)], ids=lambda page: page.stem)
def test_python_examples_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(page, folder)
    examples = [block.text for block in blocks(page) if block.language == "python" and block.file is None]
    script = folder / "examples_of_the_page.py"
    script.write_text("\n\n".join(examples), encoding="utf-8")
    if is_plugin(page):
        run([sys.executable, str(script)], folder)
    else:
        monkeypatch.chdir(folder)
        runpy.run_path(str(script))


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.language == "yaml" and "plugin" not in block.words],
    ids=lambda block: block.page.stem,
)
def test_yaml_examples_are_valid(block: Block, folder: Path) -> None:
    data = yaml.safe_load(block.text)
    if "tasks" in data:
        study = StudyFile.parse(data, block.page.name, folder)
        assert StudyFile.parse(study.to_dict()) == study
        return
    recipe = Recipe.parse(data, block.page.name)
    assert Recipe.parse(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if "plugin" in block.words], ids=lambda block: block.page.stem
)
def test_yaml_examples_of_plugins_are_valid_recipes(block: Block, folder: Path) -> None:
    prepare(block.page, folder)
    (folder / "recipe.yaml").write_text(block.text, encoding="utf-8")
    if "tasks" in yaml.safe_load(block.text):
        assert run([*VTPRUNE, "study", "plan", "recipe.yaml"], folder)
    else:
        assert "is valid" in run([*VTPRUNE, "validate", "recipe.yaml"], folder)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_lines(page: Path, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of ``vtprune`` are parsed and, if they name no model to download and no study that has been run, run (a
    study with two samples); ``make`` targets exist."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), f"no target {words[1]} in the Makefile"
        return
    assert words[0] == "vtprune", f"{line!r} is neither vtprune nor make"
    parse(words[1:])
    if foreign(words) or words[1:3] == ["study", "report"]:
        return
    if words[1:3] == ["study", "run"]:
        words += ["--limit", "2"]
    prepare(page, folder)
    if is_plugin(page):
        run([*VTPRUNE, *words[1:]], folder)
    else:
        monkeypatch.chdir(folder)
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, result.output


def foreign(words: list[str]) -> bool:
    """Whether a command line names a model that vtprune does not ship."""
    return any(one == "--model" and not name.startswith("testbed/") for one, name in pairwise(words))


def parse(arguments: list[str]) -> None:
    """Parse a command line without running it; raises click's UsageError if that fails."""
    group: Any = typer.main.get_command(app)
    context = click.Context(group)
    command = group.get_command(context, arguments[0])
    assert command is not None, f"no command {arguments[0]!r}"
    command.make_context(arguments[0], arguments[1:], parent=context)


def test_a_wrong_command_line_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["run", "--recipes", "fastv"])


def test_python_examples_do_without_the_core() -> None:
    """docs/stability.md does not vouch for `vtprune.core`."""
    assert not [block.page.name for block in BLOCKS if block.language == "python" and "vtprune.core" in block.text]


def test_every_block_says_its_language() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(text):
        target, _, anchor = match["target"].partition("#")
        if target.startswith("http"):
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


def test_every_page_is_linked() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    linked = {Path(match["target"].partition("#")[0]).name for match in LINK.finditer(text)}
    assert {page.name for page in (ROOT / "docs").rglob("*.md")} <= linked


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "adapter"])
def test_the_readme_lists_every_builtin(kind: str) -> None:
    listed = set(BACKTICKED_NAME.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {entry.name for entry in registry().entries(kind) if entry.origin == GROUP} <= listed


def test_the_page_of_families_is_up_to_date() -> None:
    run([sys.executable, str(ROOT / "tools" / "family_table.py"), "--check"], ROOT)


def test_the_component_page_is_up_to_date() -> None:
    run([sys.executable, str(ROOT / "tools" / "component_tables.py"), "--check"], ROOT)


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").glob("*.png"))
    assert pictures
    assert all(path.stat().st_size < 200_000 for path in pictures)
