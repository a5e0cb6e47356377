"""The checks of an adapter under pytest: one test each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vtprune.testing.adapter_suite.run import trials_of
from vtprune.testing.checking import checks_for
from vtprune.testing.run import expected_of


def parametrize_with_adapter_checks(
    adapter: Any, subject: Any = None, *, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Parametrise a test over the checks of an adapter.

    adapter, subject, expected_failures: what `check_adapter` takes; expected failures become strict xfails. Checks that
    do not apply, for what the adapter declares, are left out.

    >>> from vtprune.testing import parametrize_with_adapter_checks
    >>> @parametrize_with_adapter_checks("llava")
    ... def test_conformance(trial, check):
    ...     check(trial)
    """
    cases = []
    for trial in trials_of(adapter, subject):
        expected = expected_of(trial, expected_failures)
        for check in checks_for("adapter"):
            if check.unless(trial) is not None:
                continue
            marks = []
            if check.name in expected:
                marks = [pytest.mark.xfail(reason=expected[check.name], strict=True)]
            cases.append(pytest.param(trial, check, marks=marks, id=f"{trial}-{check.name}"))
    return pytest.mark.parametrize(("trial", "check"), cases)
