"""Imports run one way: the table of layers, and that the package keeps to it.

What counts is what the import statements of a file name, wherever they stand. What is looked up by name while a program
runs (components through the registry, the lazy names of `vtprune` and `vtprune.plugin`) is not an import here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vtprune"
PLUGINS = ("scorers", "selectors", "allocators", "reducers", "adapters", "tasks")
"""Subpackages that hold components and adapters; they use the core and their own package."""

PARTS: Mapping[str, tuple[str, ...]] = {
    "testing (ground)": (
        "testing.models",
        "testing.reference",
        "testing.recurrence",
        "testing.hidden_patches",
    ),
    "verify (record)": (
        "verify.cells",
        "verify.folders",
        "verify.index",
        "verify.ledger",
        "verify.modes",
        "verify.outcome",
        "verify.subjects",
    ),
    "study (names)": ("study.names",),
}
"""Some packages have two storeys. Below verification stand the tiny models and the references that it compares with,
above it the checks of a component and of an adapter, which use it. Below the API stands the record of what was
verified, which `prune` reads, above it the verification, which calls `prune`. The names of a study's choices stand
below the command line, which offers them without loading studies."""

EAGER: Mapping[str, tuple[str, ...]] = {
    "core": (),
    **dict.fromkeys(PLUGINS, ("core",)),
    "recipes": (),
    "studies": ("core",),
    "builtins": ("core",),
    "plugin": ("core",),
    "errors": ("core",),
    "overlay": ("core",),
    "scaffold": ("core",),
    "loading": ("core",),
    "testbed": ("core",),
    "inspection": ("core",),
    "vtprune": ("core",),
    "verify (record)": ("core",),
    "api": ("core", "verify (record)"),
    "calibrate": ("core", "api", "allocators"),
    "testing (ground)": ("core",),
    "verify": ("core", "vtprune", "loading", "testing (ground)", "verify (record)"),
    "testing": ("core", "vtprune", "api", "testing (ground)", "verify (record)", "verify"),
    "study (names)": (),
    "study": ("study (names)", "core", "api", "loading", "overlay", "studies"),
    "cli": ("core", "loading", "study (names)"),
    "__main__": ("cli",),
}
"""Which layers the files of a layer may import when they are imported. A layer is a module or package of vtprune, or a
part of one; `vtprune` itself is the package's own ``__init__``, through which users reach the API."""

LATER: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("loading", "a model of the testbed by its name"): ("testbed",),
    ("study", "a model of the testbed by its name"): ("testbed",),
    ("verify (record)", "running a cell; the tiny models of a mode"): ("verify", "testing (ground)"),
    ("vtprune", "the types of the names that it looks up lazily"): ("api", "calibrate", "verify (record)"),
    ("plugin", "the types of the names that it looks up lazily"): ("adapters",),
    ("cli", "each command loads what it runs, so that the others answer at once"): (
        "vtprune",
        "inspection",
        "overlay",
        "plugin",
        "scaffold",
        "studies",
        "study",
        "testbed",
        "testing",
        "verify",
        "verify (record)",
    ),
}
"""What a layer may import besides, inside a function or for type checkers only; with the reason."""


@dataclass(frozen=True)
class Import:
    """One import of a module of vtprune. later: it stands inside a function, or is for type checkers only."""

    where: str
    source: str
    target: str
    later: bool


def python_files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"{folder} holds no Python file"
    return found


def layer(module: str) -> str:
    """The layer of a module, by its dotted name."""
    inner = module.removeprefix("vtprune").lstrip(".")
    for name, parts in PARTS.items():
        if any(f"{inner}.".startswith(f"{part}.") for part in parts):
            return name
    return inner.split(".")[0] or "vtprune"


def imports(text: str, where: str, module: str, modules: frozenset[str]) -> Iterator[Import]:
    """The imports of a source text. modules: those of the package, to tell a module from a name inside one."""

    def walk(node: ast.AST, later: bool) -> Iterator[Import]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            later = True
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for child in node.body:
                yield from walk(child, True)
            for child in node.orelse:
                yield from walk(child, later)
            return
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{where}:{node.lineno} is a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in inside]
        for name in names:
            if name.split(".")[0] == "vtprune":
                yield Import(f"{where}:{node.lineno}", module, name, later)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, later)

    yield from walk(ast.parse(text), False)


def sources() -> dict[str, Path]:
    """The files of the package by the name of their module. (Templates of the scaffold are not modules.)"""
    paths = {path: path.relative_to(ROOT).with_suffix("").parts for path in python_files(PACKAGE)}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in paths.items()}


@cache
def all_imports() -> tuple[Import, ...]:
    files = sources()
    modules = frozenset(files)
    return tuple(
        one
        for module, path in files.items()
        for one in imports(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), module, modules)
    )


def allowed_later(source: str) -> set[str]:
    return {target for (owner, _), targets in LATER.items() if owner == source for target in targets}


def wrong(found: Iterable[Import]) -> list[str]:
    """What breaks the table, in words."""
    faults = []
    for one in found:
        source, target = layer(one.source), layer(one.target)
        if source == target or target in EAGER[source]:
            continue
        if not (one.later and target in allowed_later(source)):
            how = "even inside a function" if one.later else "when it is imported"
            faults.append(f"{one.where}: {source} may not import {target} ({one.target}) {how}")
    return faults


def test_imports_run_one_way() -> None:
    faults = wrong(all_imports())
    assert not faults, "\n".join(faults)


def test_the_table_has_every_layer_and_no_circle() -> None:
    there = {layer(module) for module in sources()}
    assert set(EAGER) == there, f"missing: {there - set(EAGER)}, not there: {set(EAGER) - there}"
    list(TopologicalSorter(EAGER).static_order())  # raises CycleError


@pytest.mark.parametrize("source", EAGER)
def test_nothing_is_allowed_that_is_not_done(source: str) -> None:
    done = [(one.later, layer(one.target)) for one in all_imports() if layer(one.source) == source]
    eager = {target for later, target in done if not later}
    later = {target for later, target in done if later}
    assert set(EAGER[source]) <= eager, f"{source} does not import {set(EAGER[source]) - eager}"
    assert allowed_later(source) <= later, f"{source} does not import {allowed_later(source) - later} later"


PLANTED = [
    ("vtprune.core.plan", "from vtprune.scorers.random import Random", False),
    ("vtprune.core.plan", "def f():\n    import vtprune.study", False),
    ("vtprune.scorers.new", "from vtprune.api import prune", False),
    ("vtprune.scorers.new", "from vtprune.selectors.top_k import TopK", False),
    ("vtprune.study.new", "from vtprune.verify.check import passes", False),
    ("vtprune.study.new", "from vtprune import testing", False),
    ("vtprune.verify.new", "from vtprune.testing.checks.common import near", False),
    ("vtprune.verify.new", "def f():\n    from vtprune.study.cell import Cell", False),
    ("vtprune.testing.models.new", "from vtprune.verify.prompts import prompt", False),
    ("vtprune.testing.checks.new", "from vtprune.cli import app", False),
    ("vtprune.cli.new", "from vtprune.study.plan import plan", False),
    ("vtprune.cli.new", "class A:\n    from vtprune.verify.run import run", False),
    ("vtprune.testbed.new", "from vtprune.loading import pick_device", False),
    ("vtprune.loading", "from vtprune.testbed import load", False),
    ("vtprune.inspection", "from vtprune.testbed import load", False),
    ("vtprune.cli.new", "async def f():\n    from vtprune.study.plan import plan", True),
    ("vtprune.cli.new", "if TYPE_CHECKING:\n    from vtprune.study.plan import Plan", True),
    ("vtprune.cli.new", "if TYPE_CHECKING:\n    pass\nelse:\n    from vtprune.study.plan import Plan", False),
    ("vtprune.loading", "def f():\n    from vtprune.testbed import load", True),
    ("vtprune.testing.checks.new", "from vtprune.verify.check import passes", True),
    ("vtprune.testing.models.new", "from vtprune.testing.models.tiny import Tiny", True),
]


@pytest.mark.parametrize(("module", "text", "fine"), PLANTED)
def test_a_planted_import_is_seen(module: str, text: str, fine: bool) -> None:
    found = list(imports(text, "planted.py", module, frozenset(sources())))
    assert len(found) == 1
    assert (not wrong(found)) == fine
