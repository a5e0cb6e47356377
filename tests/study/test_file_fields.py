"""The table of a study file's fields says what the models say."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from vtprune.study.cell import ModelRef
from vtprune.study.file import Baselines, Factorial, RecipeEntry, StudyFile

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"
REQUIRED = "required"
SAID: dict[tuple[type, str], str] = {(RecipeEntry, "label"): "the recipe's name"}
"""Defaults that depend on other fields."""
PARTS = {
    "### Fields of a study file": StudyFile,
    "#### A model": ModelRef,
    "#### A recipe": RecipeEntry,
    "#### Baselines left out": Baselines,
    "#### A factorial": Factorial,
}


def rows(title: str) -> dict[str, list[str]]:
    """Field to type, default and meaning of the first table below a heading."""
    page = PAGE.read_text(encoding="utf-8")
    below = re.split(r"^#+ ", page.partition(f"{title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in below.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines]
    return {name.strip().strip("`"): rest for name, *rest in cells}


def defaults(part: type) -> dict[str, Any]:
    if dataclasses.is_dataclass(part):
        missing = dataclasses.MISSING
        return {one.name: REQUIRED if one.default is missing else one.default for one in dataclasses.fields(part)}
    assert issubclass(part, BaseModel)
    required = [name for name, field in part.model_fields.items() if field.is_required()]
    empty = part.model_construct().model_dump(mode="json", exclude=set(required), warnings=False)
    return {name: REQUIRED if name in required else empty[name] for name in part.model_fields}


@pytest.mark.parametrize(("title", "part"), PARTS.items(), ids=[part.__name__ for part in PARTS.values()])
def test_every_field_is_in_the_table_with_its_default(title: str, part: type) -> None:
    table, wanted = rows(title), defaults(part)
    assert list(table) == list(wanted)
    for name, (kind, default, meaning) in table.items():
        assert kind, name
        assert meaning, name
        if (part, name) in SAID:
            assert default == SAID[part, name]
        elif wanted[name] == REQUIRED:
            assert default == REQUIRED, name
        else:
            assert yaml.safe_load(default.strip("`")) == wanted[name], name


def test_a_recipes_label_is_its_name() -> None:
    assert RecipeEntry.model_validate("fastv").label == "fastv"
