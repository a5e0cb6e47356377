"""What is known of a component's conformance, read without importing it.

`vtprune check TARGET --record FILE` writes what its checks found; a package ships the file as ``conformance.json``
beside the module that its entry point names. An entry holds a hash of the component's source file: once that changes,
the entry no longer says anything of it. Bases and helpers in other files are not covered by the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vtprune.core.registry import Registration
from vtprune.core.sources import spec_of

FILE = "conformance.json"
FORMAT = 1
State = Literal["passed", "failed", "stale", "not checked"]


@dataclass(frozen=True)
class Status:
    """What a record says of a registered name. text: the same in a few words, with the numbers."""

    state: State
    text: str


def status(entry: Registration) -> Status:
    """The conformance of a registered component or adapter, from the record that its package ships.

    Reads files only; neither the component nor torch is imported.
    """
    if entry.kind == "recipe":
        return Status("not checked", "recipes have no conformance checks")
    path = record_path(entry)
    if path is None or not path.is_file():
        return Status("not checked", f"not checked: {entry.origin} ships no {FILE}")
    try:
        record = _read(path, path.stat().st_mtime_ns)
    except (OSError, ValueError) as error:
        return Status("not checked", f"not checked: {path} cannot be read: {error}")
    found = record["components"].get(f"{entry.kind} {entry.name}")
    if found is None:
        return Status("not checked", f"not checked: {FILE} of {entry.origin} does not name it")
    if found["source"] != source_hash(entry):
        return Status("stale", f"stale: its source has changed since it was checked with vtprune {record['vtprune']}")
    return Status("failed" if found["failed"] else "passed", _words(found, record["vtprune"]))


def _words(found: Mapping[str, Any], release: str) -> str:
    parts = [f"{found['passed']} checks passed"]
    if found["failed"]:
        parts.append(f"{len(found['failed'])} failed ({', '.join(found['failed'])})")
    if found["expected_failures"]:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found["expected_failures"].items())
        parts.append(f"{len(found['expected_failures'])} expected to fail ({reasons})")
    if found["not_applicable"]:
        parts.append(f"{found['not_applicable']} not applicable")
    return f"{', '.join(parts)}, with vtprune {release}{'' if found['in_model'] else ', none of them in a model'}"


@lru_cache(maxsize=64)
def _read(path: Path, changed: int) -> dict[str, Any]:
    return read_record(path)


def read_record(path: Path) -> dict[str, Any]:
    """A record as data; raises ValueError if the file holds something else, OSError if it cannot be read."""
    record = json.loads(path.read_text(encoding="utf-8"))
    shape = (
        (record.get("format"), type(record.get("vtprune")), type(record.get("components")))
        if isinstance(record, dict)
        else ()
    )
    if shape != (FORMAT, str, dict):
        raise ValueError(f"it is no conformance record of format {FORMAT}")
    fields = {"revision", "source", "in_model", "passed", "not_applicable", "failed", "expected_failures"}
    for name, found in record["components"].items():
        if lacking := fields - found.keys() if isinstance(found, dict) else fields:
            raise ValueError(f"the entry {name!r} lacks {', '.join(sorted(lacking))}")
    return record


def record_path(entry: Registration) -> Path | None:
    """Where the record of a name's package lies, or would lie: beside the module that registered it."""
    source = source_of(entry.module)
    return None if source is None else source.with_name(FILE)


def source_hash(entry: Registration) -> str | None:
    """sha256 (hex) of the source file of a target, whatever its line ends; None where there is no such file."""
    source = source_of(entry.target.partition(":")[0])
    return None if source is None else file_hash(source)


def file_hash(path: Path) -> str:
    """sha256 (hex) of a text file, whatever its line ends."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def source_of(module: str) -> Path | None:
    """The file of a module, found without importing it or its packages; None where there is none."""
    spec = spec_of(module) if module else None
    path = Path(spec.origin) if spec is not None and spec.origin else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None
