"""The public test kit: the conformance suite, hypothesis strategies, tiny models and a slow reference.

Nothing is imported before it is used; pytest is needed by `parametrize_with_checks` alone, hypothesis by
`vtprune.testing.strategies` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtprune.core.lazy import lazy

if TYPE_CHECKING:
    from vtprune.testing.adapter_suite.parametrize import parametrize_with_adapter_checks
    from vtprune.testing.adapter_suite.run import check_adapter
    from vtprune.testing.adapter_suite.subject import AdapterSubject, SubjectError
    from vtprune.testing.checking import Check, Violation, check, checks_for, fail
    from vtprune.testing.parametrize import parametrize_with_checks
    from vtprune.testing.run import ConformanceError, Outcome, check_component

_LAZY = {
    "AdapterSubject": "vtprune.testing.adapter_suite.subject",
    "Check": "vtprune.testing.checking",
    "ConformanceError": "vtprune.testing.run",
    "Outcome": "vtprune.testing.run",
    "Violation": "vtprune.testing.checking",
    "SubjectError": "vtprune.testing.adapter_suite.subject",
    "check": "vtprune.testing.checking",
    "check_adapter": "vtprune.testing.adapter_suite.run",
    "check_component": "vtprune.testing.run",
    "checks_for": "vtprune.testing.checking",
    "fail": "vtprune.testing.checking",
    "parametrize_with_adapter_checks": "vtprune.testing.adapter_suite.parametrize",
    "parametrize_with_checks": "vtprune.testing.parametrize",
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

__getattr__, __dir__ = lazy(__name__, _LAZY)
