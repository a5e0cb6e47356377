"""The pages of the contracts name checks that exist and concern the page's kind, and methods that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vtprune.plugin
from vtprune.core.component import COMPONENT_KINDS, Component
from vtprune.core.task import Task
from vtprune.testing.checking import all_checks, checks_for

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "contracts"
KINDS = (*COMPONENT_KINDS, "adapter", "task")
NAME = re.compile(r"`([a-z][a-z0-9_]+)(?:\([^`]*\))?`")
BASES = {**COMPONENT_KINDS, "task": Task}


def rows(page: Path, heading: str) -> Iterator[list[str]]:
    """Cells of the tables of a page whose header has ``heading`` in it."""
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif heading in cells:
            inside = True
        elif inside and not line.startswith("|---"):
            yield cells


def named_checks(page: Path) -> set[str]:
    return {name for cells in rows(page, "caught by") for name in NAME.findall(cells[-1])}


def test_there_is_a_page_for_every_contract() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == {*KINDS, "index"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_checks_of_a_page_concern_its_kind(kind: str) -> None:
    named = named_checks(FOLDER / f"{kind}.md")
    assert len(named) >= 9
    assert named <= {check.name for check in checks_for(kind)}


def test_the_checks_of_the_index_concern_every_component() -> None:
    text = (FOLDER / "index.md").read_text(encoding="utf-8")
    last = set(NAME.findall(text.partition("## Conformance")[2])) - {"check_component", "parametrize_with_checks"}
    named = named_checks(FOLDER / "index.md") | last
    assert len(last) >= 6
    assert named <= set(all_checks())
    for kind in COMPONENT_KINDS:
        lacking = named - {check.name for check in checks_for(kind)}
        assert lacking <= last | {"results_share_no_memory_with_inputs"}, kind


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_page_declares_is_what_the_class_has(kind: str) -> None:
    """Every declaration of the class that is its own is on the page, or on the index, and no other."""
    if kind == "adapter":
        return
    own = {name for name in vars(BASES[kind]) if not name.startswith("_")} | set(BASES[kind].__annotations__)
    own -= {"kind", "model_config", "model_fields", "model_computed_fields"}
    common = {name for name in vars(Component) if not name.startswith("_")} | set(Component.__annotations__)
    page = {name for cells in rows(FOLDER / f"{kind}.md", "declaration") for name in NAME.findall(cells[0])}
    text = (FOLDER / f"{kind}.md").read_text(encoding="utf-8")
    assert page <= own | common
    assert {name for name in own - page if f"`{name}(" not in text and not name.startswith("abc")} == set()


@pytest.mark.parametrize(
    ("page", "name", "heading"),
    [
        ("allocator", "AllocationRequest", "field"),
        ("selector", "Candidates", "field"),
        ("task", "Sample", "field of a sample"),
        ("adapter", "VisionCall", "field"),
    ],
)
def test_what_is_handed_over_is_described_field_by_field(page: str, name: str, heading: str) -> None:
    listed = [field for cells in rows(FOLDER / f"{page}.md", heading) for field in NAME.findall(cells[0])]
    fields = list(getattr(vtprune.plugin, name).__dataclass_fields__)
    assert [field for field in listed if field in fields] == fields
