"""Every component keeps vtprune's contracts."""

from __future__ import annotations

from typing import Any

from vtprune.testing import parametrize_with_checks


@parametrize_with_checks("vtprune-borrowed/value_attention", "vtprune-borrowed/mmr", "vtprune-borrowed/shared_budget")
def test_conformance(component: Any, check: Any) -> None:
    check(component)
