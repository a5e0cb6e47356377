"""The check of the demonstration's table notices what it is there for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("check_demo", ROOT / "tools" / "check_demo.py")
assert spec is not None
assert spec.loader is not None
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)
EXPECTED = json.loads((ROOT / "tools" / "check_demo.json").read_text(encoding="utf-8"))


def as_expected() -> dict[str, Any]:
    return {"accuracy": dict(EXPECTED["accuracy"]), "significant": [list(entry) for entry in EXPECTED["must_differ"]]}


def test_the_expected_table_says_something() -> None:
    assert EXPECTED["accuracy"]["full"] > 0.8
    assert len(EXPECTED["accuracy"]) > 15
    assert any(reference.startswith("random") and how == "better" for _, reference, how in EXPECTED["must_differ"])
    assert check.problems(as_expected(), EXPECTED) == []


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_accuracy_out_of_tolerance(shift: int) -> None:
    found = as_expected()
    found["accuracy"]["full"] += shift * 1.01 * EXPECTED["tolerance"]
    assert [line.partition(":")[0] for line in check.problems(found, EXPECTED)] == ["full"]


def test_a_variant_that_is_missing_or_new() -> None:
    found = as_expected()
    found["accuracy"]["another"] = found["accuracy"].pop("full")
    assert [line.partition(":")[0] for line in check.problems(found, EXPECTED)] == ["full", "another"]


def test_a_difference_that_is_gone() -> None:
    found = as_expected()
    gone = found["significant"].pop()
    assert check.problems(found, EXPECTED) == [f"{gone[0]} is not significantly {gone[2]} than {gone[1]} any more"]
