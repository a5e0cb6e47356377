"""No check complains about a component that is only unlike the others."""

from __future__ import annotations

import pytest

from tests.testing import unusual
from tests.testing.finding import faults
from vtprune.core.component import Component
from vtprune.testing import check_component
from vtprune.testing.checking import all_checks

FAST = [name for name, check in all_checks().items() if not check.slow]
SLOW = ["binds_somewhere", "keeping_everything_changes_nothing", "cache_holds_what_was_allocated"]


@pytest.mark.parametrize("component", unusual.UNUSUAL)
def test_what_keeps_its_promises_passes(component: type[Component]) -> None:
    assert faults(component, FAST) == {}


@pytest.mark.parametrize("component", unusual.IN_MODEL)
def test_it_passes_in_a_model(component: type[Component]) -> None:
    assert faults(component, SLOW) == {}
    outcomes = check_component(component, only=SLOW)
    assert {outcome.status for outcome in outcomes} == {"passed"}


def test_components_that_hold_tensors_are_compared_by_their_parameters() -> None:
    probe, twin = unusual.Probe(), unusual.Probe()
    assert len(probe.weights) == len(twin.weights) == 16
    assert probe == twin
    assert hash(probe) == hash(twin)
    assert probe != unusual.Probe(temperature=2.0)
    assert probe != unusual.Marked()
    assert probe != "probe"
