"""The package as installed: what it contains, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import vtprune
from vtprune.core.plugins import GROUP, registry
from vtprune.core.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vtprune"
LONGEST = 400


def python_files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"{folder} holds no Python file"
    return found


@pytest.mark.parametrize(
    "module",
    ["vtprune", "vtprune.errors", "vtprune.cli", "vtprune.core.plugins", "vtprune.builtins", "vtprune.testbed"],
)
def test_importing_is_light(module: str) -> None:
    code = f"import {module}, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_listing_is_light() -> None:
    code = (
        "import sys, vtprune.core.plugins as p; names = [e.name for e in p.registry().entries()]; "
        "print(len(names) > 20, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_version_is_that_of_the_distribution() -> None:
    assert vtprune.__version__ == version("vtprune")


def test_metadata() -> None:
    found = metadata("vtprune")
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"


@pytest.mark.parametrize("name", vtprune.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(vtprune, name) is not None
    assert name in dir(vtprune)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        vtprune.prunes


@pytest.mark.parametrize(
    ("kind", "name"),
    [(entry.kind, entry.name) for entry in registry().entries() if entry.origin == GROUP],
    ids=lambda value: str(value),
)
def test_every_builtin_can_be_imported(kind: str, name: str) -> None:
    if kind == "recipe":
        assert vtprune.Recipe.load(name).name == name
    else:
        assert registry().load(kind, name) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_builtins_of_every_kind(kind: str) -> None:
    assert [entry for entry in registry().entries(kind) if entry.origin == GROUP]


def test_every_recipe_file_is_registered() -> None:
    files = {path.stem for path in (PACKAGE / "recipes").glob("*.yaml")}
    assert files == {entry.name for entry in registry().entries("recipe") if entry.origin == GROUP}


@pytest.mark.parametrize("folder", ["vtprune", "tests", "tools"])
def test_files_are_short(folder: str) -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(ROOT / folder)}
    long = [f"{path.relative_to(ROOT)}: {lines} lines" for path, lines in lengths.items() if lines > LONGEST]
    assert not long, "\n".join(long)


def shipped() -> set[str]:
    """Files that an installed vtprune cannot do without, besides its modules."""
    wanted = {"vtprune/py.typed", "vtprune/testbed/words.txt", "vtprune/testbed/images/README.md"}
    for folder, pattern in (
        ("recipes", "*.yaml"),
        ("testbed/images", "*.jpg"),
        ("testbed/weights", "*/*"),
        ("scaffold/template", "*"),
    ):
        found = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / folder).glob(pattern)}
        assert found, f"vtprune/{folder} holds no {pattern}"
        wanted |= found
    return wanted


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in python_files(PACKAGE)}
    assert not (shipped() | modules) - names
    outside = {name for name in names if not name.startswith("vtprune/") and ".dist-info/" not in name}
    assert not outside
    assert any(name.endswith("/licenses/LICENSE") for name in names)
