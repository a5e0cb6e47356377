"""Parameters: their bounds hold, and each of them matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from pydantic import ValidationError

from vtprune.core.component import Component
from vtprune.testing.alternatives import bounds_of, differing_in, examples_of, is_number, values_of
from vtprune.testing.checking import check, fail
from vtprune.testing.checks.common import EVERY
from vtprune.testing.observation import cases, declared, observe, outcome, same
from vtprune.testing.run import described


def no_parameters(component: Component) -> str | None:
    """Why a check of parameters does not concern a component, or concerns another instance of its class."""
    if not type(component).model_fields:
        return "it has no parameters"
    try:
        first, *others = type(component).examples()
    except Exception:
        return None
    if component != first and component in others:
        return f"checked once for the class, with {described(first)}"
    return None


def no_bounds(component: Component) -> str | None:
    """Why the check of bounds does not concern a component."""
    if not any(bounds_of(field) for field in type(component).model_fields.values()):
        return "no parameter has a bound"
    return no_parameters(component)


@check(*EVERY, applies=no_bounds)
def check_bounds_hold(component: Component) -> None:
    """A number at its documented bound is accepted and works; one beyond it is refused."""
    for name, field in type(component).model_fields.items():
        number = is_number(field.annotation)
        if number is None:
            continue
        for sign, bound in bounds_of(field).items():
            at = number(bound)
            beyond = _beyond(number, at, up=sign in ("le", "lt"))
            if sign in ("gt", "lt"):
                beyond, at = at, _beyond(number, at, up=sign == "gt")
            _check_refused(component, name, beyond, f"{_WORDS[sign]} {bound}")
            _check_accepted(component, name, at, f"{_WORDS[sign]} {bound}")


_WORDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _beyond(number: type, bound: float, up: bool) -> Any:
    if number is int:
        return int(bound) + (1 if up else -1)
    step = max(abs(bound), 1.0) * 1e-3
    return float(bound) + (step if up else -step)


def _check_refused(component: Component, name: str, value: Any, documented: str) -> None:
    for base in examples_of(component):
        try:
            made = type(base)(**{**values_of(base), name: value})
        except ValidationError:
            continue
        fail(
            f"{name}={value!r} was accepted (as {getattr(made, name)!r}), although it must be {documented}",
            "a validator that runs before the bound and replaces the value, which hides a mistake in a recipe",
        )


def _check_accepted(component: Component, name: str, value: Any, documented: str) -> None:
    """Some instance of the class takes the value, and then works."""
    reasons = []
    for base in _widened(component, name):
        if getattr(base, name) is None:
            continue  # another parameter decides that this one is unused here
        try:
            made = type(base)(**{**values_of(base), name: value})
        except ValidationError as error:
            reasons.append(error.errors()[0]["msg"].removeprefix("Value error, "))
            continue
        try:
            list(observe(made))
        except Exception as error:
            fail(f"{name}={value!r} is accepted ({documented}), but then it fails: {type(error).__name__}: {error}")
        return
    if reasons:
        fail(
            f"{name}={value!r} is refused, although {documented} is documented: {reasons[0]}",
            "a validator that is stricter than the declared bound; declare what it really takes",
        )


def _widened(component: Component, name: str) -> Iterator[Component]:
    """The examples, then what differs from them in one parameter other than ``name``, which may act only there."""
    bases = examples_of(component)
    yield from bases
    for base in bases:
        for other in type(base).model_fields:
            if other != name:
                yield from differing_in(base, other, bases)


@check(*EVERY, applies=no_parameters)
def check_every_parameter_matters(component: Component) -> None:
    """Every parameter changes something that is recorded: an output, a need, a declared property."""
    bases = examples_of(component)
    for name in type(component).model_fields:
        tried: dict[str, None] = {}
        if any(_matters(base, name, bases, tried) for base in _widened(component, name)):
            continue
        if not tried and any(_differ(one, other) for one, other in _apart(bases, name)):
            continue
        if not tried:
            fail(
                f"no other value of {name} could be made up, so it cannot be seen whether it matters",
                f"give examples(): a tuple of instances, among them two that differ in {name} (and in what must change "
                f"with it)",
            )
        fail(
            f"{name} changed nothing on any input: neither an output nor what the component declares "
            f"(tried {', '.join([*tried][:6])})",
            "it is never read, or acts only together with others; then add to examples() an instance in which it acts",
        )


def _matters(base: Component, name: str, peers: Sequence[Component], tried: dict[str, None]) -> bool:
    """Whether another value of a parameter makes a difference to ``base``; the values are noted in ``tried``."""
    seen: list[Any] = []
    for other in differing_in(base, name, peers):
        tried[repr(getattr(other, name))] = None
        if not same(declared(base), declared(other)):
            return True
        for number, case in enumerate(cases(base)):
            if number == len(seen):
                seen.append(outcome(case, base))
            if not same(seen[number], outcome(case, other)):
                return True
    return False


def _apart(bases: Sequence[Component], name: str) -> Iterator[tuple[Component, Component]]:
    """Pairs of examples that differ in a parameter, which cannot change without others."""
    return ((one, other) for one, other in combinations(bases, 2) if getattr(one, name) != getattr(other, name))


def _differ(one: Component, other: Component) -> bool:
    if not same(outcome(declared, one), outcome(declared, other)):
        return True
    return any(not same(outcome(case, one), outcome(case, other)) for case in cases(one))
