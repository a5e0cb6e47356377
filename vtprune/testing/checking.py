"""Conformance checks: small, named, each for one promise of a contract.

A check is a function of one component, put on the list by `check`. It says what is wrong by `fail`, with the likely
cause. Which checks concern a component follows from its kind and from what it declares, never from its class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from vtprune.core.registry import KINDS

PREFIX = "check_"
_CHECKS: dict[str, Check] = {}


class Violation(AssertionError):
    """A component broke a promise; the message says what was seen and the likely cause."""


@dataclass(frozen=True)
class Check:
    """One promise. Call it with a component: it returns, or raises Violation.

    name: of the function, without ``check_``. kinds: of component (or ``adapter``) it concerns. summary: what must
    hold. applies: why it does not concern a component of these kinds, or None if it does. slow: it runs a model.
    """

    name: str
    kinds: tuple[str, ...]
    summary: str
    run: Callable[[Any], None]
    applies: Callable[[Any], str | None] | None = None
    slow: bool = False

    def __call__(self, subject: Any) -> None:
        from vtprune.testing.restoration import contained

        __tracebackhide__ = True  # pytest then shows the check, not how it is run
        with contained():  # what a broken one leaves behind would be found once, and then disturb others
            self.run(subject)

    def unless(self, subject: Any) -> str | None:
        """Why the check does not concern ``subject``, or None."""
        if self.applies is None:
            return None
        try:
            return self.applies(subject)
        except Exception:  # of the component: running the check shows it
            return None

    def __str__(self) -> str:
        return self.name


F = TypeVar("F", bound=Callable[[Any], None])


def check(*kinds: str, applies: Callable[[Any], str | None] | None = None, slow: bool = False) -> Callable[[F], F]:
    """Put a function ``check_...(component)`` on the list of checks of these kinds.

    applies: returns None where the check concerns a component, else the reason why not, from what the component
    declares. slow: it runs a model.
    """
    assert kinds
    assert set(kinds) <= set(KINDS), kinds

    def register(function: F) -> F:
        name = function.__name__.removeprefix(PREFIX)
        assert name != function.__name__, f"{function.__name__} must be called {PREFIX}..."
        assert name not in _CHECKS, f"there are two checks {name}"
        summary = (function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        assert summary, f"{function.__name__} must say what holds"
        _CHECKS[name] = Check(name, kinds, " ".join(summary.split()), function, applies, slow)
        return function

    return register


def fail(seen: str, cause: str | None = None) -> None:
    """Raise Violation: what was seen (and expected), and the likely cause."""
    __tracebackhide__ = True
    raise Violation(seen if cause is None else f"{seen}\n  likely cause: {cause}")


def all_checks() -> dict[str, Check]:
    """Every check by name, in the order in which they are run."""
    import vtprune.testing.checks  # noqa: F401 - its modules put their checks on the list

    return dict(_CHECKS)


def checks_for(kind: str) -> list[Check]:
    """The checks that concern a kind; some may not apply to a component for what it declares (`Check.unless`)."""
    return [found for found in all_checks().values() if kind in found.kinds]
