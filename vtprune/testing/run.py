"""Running the conformance checks over a component: `check_component`."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vtprune.core.component import Component
from vtprune.core.errors import UnknownNameError, VtpruneError, bulleted, did_you_mean
from vtprune.core.plugins import registry
from vtprune.core.spec import BASES
from vtprune.testing.checking import Check, Violation, all_checks, checks_for

CHECKED = tuple(BASES)
PACKAGE = Path(__file__).resolve().parents[1]
Status = Literal["passed", "failed", "not applicable", "expected failure", "unexpected pass"]


class ConformanceError(VtpruneError, AssertionError):
    """A component failed conformance checks; ``outcomes`` holds those that count against it."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes = tuple(outcomes)
        super().__init__(bulleted("not conformant", map(str, self.outcomes)))


@dataclass(frozen=True)
class Outcome:
    """What one check said of one instance. detail: the violation, or why the check does not apply, or the declared
    reason of an expected failure. component: what was checked: an instance, or an adapter on trial."""

    check: Check
    component: Any
    status: Status
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it counts against the component: a failure that was not declared, or a declared one that passed."""
        return self.status in ("failed", "unexpected pass")

    def __str__(self) -> str:
        return f"{described(self.component)}: {self.check.name}: {self.status}: {self.detail}"


def described(component: Any) -> str:
    """A component in short: class and parameters that differ from the defaults; an adapter on trial as it says."""
    if not isinstance(component, Component):
        return str(component)
    changed = {
        name: getattr(component, name)
        for name, field in type(component).model_fields.items()
        if field.is_required()
        or getattr(component, name) != field.get_default(call_default_factory=True, validated_data={})
    }
    inside = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return f"{type(component).__name__}({inside})"


def instances_of(target: Any) -> tuple[Component, ...]:
    """The instances to check: of an instance itself, else the ``examples()`` of a class.

    target: an instance, a class, a registered name (of any kind of component) or ``"module:attribute"``. Raises
    UnknownNameError for a name that nothing has, VtpruneError for anything else that is no component.
    """
    if isinstance(target, str):
        target = _named(target)
    if isinstance(target, Component):
        return (target,)
    if isinstance(target, type) and issubclass(target, Component):
        found = tuple(target.examples())
        if not found or not all(isinstance(example, target) for example in found):
            raise VtpruneError(
                f"{target.__name__}.examples() must return instances of {target.__name__}, got {found!r}"
            )
        return found
    raise VtpruneError(
        f"{target!r} is no component; expected an instance or a subclass of Scorer, Allocator, Selector, Reducer or "
        f"Task, a registered name, or 'module:attribute' (an adapter is checked by check_adapter)"
    )


def _named(target: str) -> Any:
    module, colon, attribute = target.partition(":")
    if colon:
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UnknownNameError(f"{target!r} cannot be imported: {type(error).__name__}: {error}") from error
    kinds = [kind for kind in CHECKED if target in registry().names(kind)]
    if len(kinds) != 1:
        known = sorted({name for kind in CHECKED for name in registry().names(kind)})
        several = f" It is the name of a {' and of a '.join(kinds)}: give 'module:attribute' instead." if kinds else ""
        raise UnknownNameError(f"{target!r} names {len(kinds)} components.{several or did_you_mean(target, known)}")
    return registry().load(kinds[0], target)


def expected_of(component: Any, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Expected failures, the component's own and those given; raises VtpruneError for a check that does not exist."""
    own, names = dict(component.expected_failures), all_checks()
    concerned = {check.name for check in checks_for(component.kind)}
    for found, known, whom in ((own, concerned, f" of {component.kind}s"), (given or {}, names, "")):
        for name in found:
            if name not in known:
                raise VtpruneError(
                    f"expected failure of {type(component).__name__}: no check {name!r}{whom}."
                    f"{did_you_mean(name, known)}"
                )
    return own | dict(given or {})


def run_check(check: Check, component: Any, expected: Mapping[str, str]) -> Outcome:
    """One check on one instance; whatever the component raises is the check's failure."""
    if (reason := check.unless(component)) is not None:
        return Outcome(check, component, "not applicable", reason)
    try:
        check(component)
    except Violation as violation:
        detail = str(violation)
    except Exception as error:
        notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
        cause = notes or _of_suite(error, component)
        detail = f"raised {type(error).__name__}: {error}{place_of(error, type(component))}{cause}"
    else:
        if check.name in expected:
            reason = f"declared to fail ({expected[check.name]}), but it passes; remove the declaration"
            return Outcome(check, component, "unexpected pass", reason)
        return Outcome(check, component, "passed")
    if check.name in expected:
        return Outcome(check, component, "expected failure", expected[check.name])
    return Outcome(check, component, "failed", detail)


def _of_suite(error: Exception, component: Component) -> str:
    """The likely cause of an error that the suite's own code raised while it looked at a result."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    if not isinstance(error, AttributeError | TypeError) or not all(
        f.is_relative_to(PACKAGE / "testing") for f in files
    ):
        return ""
    return (
        f"\n  likely cause: a method returned something else than the contract says, such as None where `return` is "
        f"missing (docs/contracts/{component.kind}.md)"
    )


def place_of(error: Exception, of: type | None = None) -> str:
    """The innermost line where the component's author should look: outside of torch, pydantic and the like, and outside
    of vtprune if there is such a line. of: the component's class, which may itself lie in site-packages."""
    every = traceback.extract_tb(error.__traceback__)
    home = getattr(sys.modules.get(of.__module__), "__file__", None) if of else None
    frames = [frame for frame in every if frame.filename == home or "site-packages" not in frame.filename]
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(PACKAGE / "testing")]
    theirs = [
        f
        for f in own
        if f.filename == home or not (f.filename.startswith("<") or Path(f.filename).is_relative_to(PACKAGE))
    ]
    if not frames:
        return ""
    frame = (theirs or own or frames)[-1]
    return f"\n  at {frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"


def check_component(
    target: Any,
    *,
    expected_failures: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    raises: bool = True,
) -> tuple[Outcome, ...]:
    """Run every conformance check that concerns a component.

    target: an instance, a class (its ``examples()`` are checked), a registered name or ``"module:attribute"``.
    expected_failures: names of checks that fail, each with the reason, beside those that the class declares; strict: a
        declared failure that passes is a fault. only: run these checks alone.
    Returns every outcome, also of checks that do not apply. Raises ConformanceError with all faults (not if
    ``raises=False``), UnknownNameError for an unknown target or check.

    >>> from vtprune.testing import check_component
    >>> outcomes = check_component("top_k", only=["no_state_is_kept"])
    """
    names = all_checks()
    wanted = set(names if only is None else only)
    for name in sorted(wanted - set(names)):
        raise UnknownNameError(f"no check {name!r}.{did_you_mean(name, names)}")
    outcomes: list[Outcome] = []
    for component in instances_of(target):
        expected = expected_of(component, expected_failures)
        outcomes += [run_check(c, component, expected) for c in checks_for(component.kind) if c.name in wanted]
    if raises and (faults := [outcome for outcome in outcomes if outcome.is_fault]):
        raise ConformanceError(faults)
    return tuple(outcomes)
