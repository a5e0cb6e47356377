"""What every reducer owes: the conformance checks."""

from __future__ import annotations

from vtprune.builtins import REDUCERS
from vtprune.core.component import Reducer
from vtprune.testing import Check, parametrize_with_checks


@parametrize_with_checks(*REDUCERS, in_model=False)
def test_conformance(component: Reducer, check: Check) -> None:
    check(component)
