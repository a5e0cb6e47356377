"""What the conformance checks of some theme find in a component that is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from vtprune.core.component import Component
from vtprune.testing import check_component
from vtprune.testing.checking import all_checks


def names_in(*themes: ModuleType, kind: str | None = None) -> set[str]:
    """The names of the checks that these modules define, of one kind or of all."""
    modules = {theme.__name__ for theme in themes}
    return {
        name
        for name, check in all_checks().items()
        if check.run.__module__ in modules and (kind is None or kind in check.kinds)
    }


def faults(component: type[Component], names: Iterable[str]) -> dict[str, str]:
    """The checks among these that the component fails, each with the message."""
    outcomes = check_component(component, only=names, raises=False)
    return {outcome.check.name: outcome.detail for outcome in outcomes if outcome.is_fault}


def assert_found(
    name: str, component: type[Component], names: Iterable[str], also: Iterable[str] = (), *, unusable: bool = False
) -> None:
    """The check ``name`` fails, with a message that says more than that it crashed, and no others but ``also``.

    unusable: the component is of no use to the other checks either.
    """
    found = faults(component, names)
    assert name in found, f"{name} did not find {component.__name__}; found: {sorted(found)}"
    assert "likely cause" in found[name] or "expected" in found[name], found[name]
    assert not found[name].startswith("raised"), found[name]
    if not unusable:
        assert set(found) == {name, *also}, found
