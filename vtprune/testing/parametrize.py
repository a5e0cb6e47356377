"""The conformance suite under pytest: one test per component and check."""

from __future__ import annotations

from typing import Any

import pytest

from vtprune.testing.checking import checks_for
from vtprune.testing.run import described, expected_of, instances_of


def parametrize_with_checks(
    *targets: Any, expected_failures: dict[str, str] | None = None, in_model: bool = True
) -> pytest.MarkDecorator:
    """Parametrise a test over components and the checks that concern them.

    targets: what `check_component` takes. expected_failures: as there; they become strict xfails. Checks that do not
    apply, for what a component declares, are left out. in_model: False leaves out those that run a model too, which
    take most of the time.

    >>> from vtprune.testing import parametrize_with_checks
    >>> @parametrize_with_checks("top_k", "attention")
    ... def test_conformance(component, check):
    ...     check(component)
    """
    cases = []
    for target in targets:
        for component in instances_of(target):
            expected = expected_of(component, expected_failures)
            for check in checks_for(component.kind):
                if check.unless(component) is not None or (check.slow and not in_model):
                    continue
                marks = []
                if check.name in expected:
                    marks = [pytest.mark.xfail(reason=expected[check.name], strict=True)]
                cases.append(pytest.param(component, check, marks=marks, id=f"{described(component)}-{check.name}"))
    return pytest.mark.parametrize(("component", "check"), cases)
