"""What a component does outside of its result: it declares the same throughout, keeps no state, leaves the rest be."""

from __future__ import annotations

from typing import Any

from vtprune.core.component import Component
from vtprune.testing.alternatives import rebuilt
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.common import EVERY, as_data
from vtprune.testing.observation import cases, declared, observe, outcome, same
from vtprune.testing.restoration import process, settings


@check(*EVERY)
def check_declarations_do_not_change(component: Component) -> None:
    """Needs, granularity and all that a component declares follow from its parameters alone."""
    before = declared(component)
    _compare(before, declared(component), "at the second call")
    twin = rebuilt(component, {})
    assert twin is not None
    _compare(before, declared(twin), "of a component with the same parameters")
    list(observe(component))
    _compare(before, declared(component), "after it was used")


def _compare(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    for name, value in before.items():
        if not same(value, after[name]):
            fail(
                f"{name} is {value!r}, but {after[name]!r} {when}",
                "it depends on something that is no parameter; binding asks once, before anything runs",
            )


@check(*EVERY)
def check_no_state_is_kept(component: Component) -> None:
    """The same input gives the same result, whatever came in between, and the component stays what it was."""
    data = as_data(component)
    first = list(observe(component))
    again = list(observe(component))
    for number, (one, other) in enumerate(zip(first, again, strict=True)):
        if not same(one, other):
            fail(
                f"input {number} of {len(first)} gave another result when it came again after the others",
                "a counter, a cache or a random number without a seed of its own; draw from "
                "`torch.Generator().manual_seed(...)` with `signals.sample_seeds()`",
            )
    twin = rebuilt(component, {})
    assert twin is not None
    if not same(list(observe(twin)), first):
        fail("a new component with the same parameters gives other results", "state that is no parameter")
    if as_data(component) != data or component != twin:
        fail("using the component changed its parameters", "a list or dict among them was written to")


@check(*EVERY)
def check_global_settings_are_left_alone(component: Component) -> None:
    """Settings of the process are left as they are: torch's, environment variables, hooks, tables of transformers."""
    before = settings() | process()
    for case in cases(component):
        outcome(case, component)
    after = settings() | process()
    for name, value in before.items():
        if value != after[name]:
            fail(
                f"it changed {name}, which belongs to the whole process",
                "a setting made for this component's sake; pass it as an argument, or do without",
            )
