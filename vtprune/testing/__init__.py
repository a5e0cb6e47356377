"""The public test kit: the conformance suite, hypothesis strategies, tiny models and a slow reference.

Nothing is imported before it is used; pytest is needed by `parametrize_with_checks` alone, hypothesis by
`vtprune.testing.strategies` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtprune.testing.adapter_suite.parametrize import parametrize_with_adapter_checks
    from vtprune.testing.adapter_suite.run import check_adapter
    from vtprune.testing.adapter_suite.subject import AdapterSubject, SubjectError
    from vtprune.testing.checking import Check, Violation, check, checks_for, fail
    from vtprune.testing.parametrize import parametrize_with_checks
    from vtprune.testing.run import ConformanceError, Outcome, check_component

_LAZY = {
    "AdapterSubject": "adapter_suite.subject",
    "Check": "checking",
    "ConformanceError": "run",
    "Outcome": "run",
    "Violation": "checking",
    "SubjectError": "adapter_suite.subject",
    "check": "checking",
    "check_adapter": "adapter_suite.run",
    "check_component": "run",
    "checks_for": "checking",
    "fail": "checking",
    "parametrize_with_adapter_checks": "adapter_suite.parametrize",
    "parametrize_with_checks": "parametrize",
}
__all__ = [
    "AdapterSubject",
    "Check",
    "ConformanceError",
    "Outcome",
    "SubjectError",
    "Violation",
    "check",
    "check_adapter",
    "check_component",
    "checks_for",
    "fail",
    "parametrize_with_adapter_checks",
    "parametrize_with_checks",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
