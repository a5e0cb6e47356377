"""Writing what the checks found: the record that `vtprune.core.conformance` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vtprune import __version__
from vtprune.core.conformance import FORMAT, read_record, source_hash
from vtprune.core.registry import Registration
from vtprune.testing.run import Outcome


def entry_of(entry: Registration, outcomes: Sequence[Outcome], in_model: bool = True) -> dict[str, Any]:
    """What a record says of one component.

    A check counts once, however many instances it ran on: failed if it failed for any, else expected to fail, else
    passed, else not applicable. in_model: whether the checks in a model were among them.
    """
    by_check: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_check.setdefault(outcome.check.name, []).append(outcome)
    failed = sorted(name for name, found in by_check.items() if any(outcome.is_fault for outcome in found))
    expected = {
        name: outcome.detail
        for name, found in sorted(by_check.items())
        for outcome in found
        if outcome.status == "expected failure" and name not in failed
    }
    passed = [
        name
        for name, found in by_check.items()
        if any(outcome.status == "passed" for outcome in found) and name not in failed and name not in expected
    ]
    revisions = {getattr(outcome.component, "revision", None) for outcome in outcomes}
    return {
        "revision": revisions.pop() if len(revisions) == 1 else None,
        "source": source_hash(entry),
        "in_model": in_model,
        "passed": len(passed),
        "not_applicable": len(by_check) - len(passed) - len(failed) - len(expected),
        "failed": failed,
        "expected_failures": expected,
    }


def write_record(path: Path, found: Iterable[tuple[Registration, dict[str, Any]]], whole: bool = False) -> None:
    """Write entries to a record; entries of other names stay as they are, unless the record is to be ``whole``.

    Raises ValueError if the file holds something else than a record, or one of another vtprune version that would keep
    entries: it names one version only.
    """
    components: dict[str, Any] = {}
    new = {f"{entry.kind} {entry.name}": data for entry, data in found}
    if path.is_file() and not whole:
        old = read_record(path)
        if old["vtprune"] != __version__ and old["components"].keys() - new.keys():
            raise ValueError(
                f"{path} was written with vtprune {old['vtprune']}, this is {__version__}; check the whole distribution"
            )
        components = old["components"]
    record = {"format": FORMAT, "vtprune": __version__, "components": dict(sorted({**components, **new}.items()))}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
