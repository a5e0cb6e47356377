"""What vtprune ships passes the suite that it holds others to. Checks in a model: see the test of the record."""

from __future__ import annotations

import pytest

from vtprune.core.plugins import registry
from vtprune.testing import check_component
from vtprune.testing.run import CHECKED
from vtprune.testing.targets import chosen

BUILT_IN = [(kind, name) for kind in CHECKED for name in registry().names(kind) if "/" not in name]


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_a_built_in_is_conformant(kind: str, name: str) -> None:
    outcomes = check_component(registry().load(kind, name), only=chosen([], in_model=False))
    assert {outcome.status for outcome in outcomes} <= {"passed", "not applicable", "expected failure"}
    assert sum(outcome.status == "passed" for outcome in outcomes) > 15
