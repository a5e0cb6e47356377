"""Running the checks of adapters: `check_adapter`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from vtprune.core.adapter import Adapter
from vtprune.core.errors import UnknownNameError, VtpruneError, did_you_mean
from vtprune.core.plugins import registry
from vtprune.testing.adapter_suite.subject import subjects_of
from vtprune.testing.adapter_suite.trial import Trial
from vtprune.testing.checking import all_checks, checks_for
from vtprune.testing.run import ConformanceError, Outcome, expected_of, run_check


def adapter_named(target: Any) -> Adapter:
    """An adapter: itself, a registered name, or ``"module:attribute"``. Raises UnknownNameError for a name that nothing
    has, VtpruneError for what is no adapter."""
    found = target
    if isinstance(target, str):
        module, colon, attribute = target.partition(":")
        if colon:
            try:
                found = getattr(importlib.import_module(module), attribute)
            except (ImportError, AttributeError) as error:
                raise UnknownNameError(f"{target!r} cannot be imported: {type(error).__name__}: {error}") from error
        else:
            names = registry().names("adapter")
            if target not in names:
                raise UnknownNameError(f"no adapter {target!r}.{did_you_mean(target, names)}")
            found = registry().load("adapter", target)
    if not isinstance(found, Adapter):
        raise VtpruneError(
            f"{target!r} is {type(found).__name__}, no adapter; components are checked by check_component"
        )
    return found


def trials_of(target: Any, subject: Any = None) -> tuple[Trial, ...]:
    """What is tried: the adapter on each of its tiny models. One that refuses its family is tried on none."""
    adapter = adapter_named(target)
    if adapter.unsupported is not None:
        return (Trial(adapter, None),)
    return tuple(Trial(adapter, each) for each in subjects_of(adapter, subject))


def check_adapter(
    adapter: Any,
    subject: Any = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    raises: bool = True,
) -> tuple[Outcome, ...]:
    """Run every conformance check of adapters on a tiny model.

    adapter: an `Adapter`, a registered name or ``"module:attribute"``. It need not be registered.
    subject: a tiny model and a maker of inputs (`AdapterSubject`; `vtprune.testing.models.Tiny` is one), a function
        that makes one, or ``"module:function"``. None: what the adapter's field ``tiny`` names, or the tiny models of a
        built-in family, all of them.
    expected_failures: names of checks that fail, each with the reason; one of them that passes is a fault.
    only: run these checks alone.
    Returns every outcome, also of checks that do not apply; takes a few seconds. Raises ConformanceError with all
    faults (not if ``raises=False``), SubjectError for a subject that cannot serve, UnknownNameError for an unknown
    adapter or check.

    >>> from vtprune.testing import check_adapter
    >>> outcomes = check_adapter("llava", only=["adapter_accounts_for_one_image"])
    """
    names = all_checks()
    wanted = set(names if only is None else only)
    for name in sorted(wanted - set(names)):
        raise UnknownNameError(f"no check {name!r}.{did_you_mean(name, names)}")
    outcomes: list[Outcome] = []
    for trial in trials_of(adapter, subject):
        expected = expected_of(trial, expected_failures)
        outcomes += [run_check(each, trial, expected) for each in checks_for("adapter") if each.name in wanted]
    if raises and (faults := [outcome for outcome in outcomes if outcome.is_fault]):
        raise ConformanceError(faults)
    return tuple(outcomes)
