"""The record of conformance: read without imports, stale when the source changes; that of the built-ins is current."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vtprune
from vtprune.core.conformance import FILE, Status, record_path, source_hash, source_of, status
from vtprune.core.plugins import registry
from vtprune.core.registry import Registration
from vtprune.core.sources import spec_of

ENTRY = Registration("scorer", "acme/norm", "acme.deep.scorers:Norm", "", None, "acme", "1.0", "acme.plugin")
FOUND = {
    "revision": 1,
    "in_model": True,
    "passed": 40,
    "not_applicable": 3,
    "failed": [],
    "expected_failures": {},
}


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package whose modules cannot be imported, with a record of its scorer."""
    folder = tmp_path / "acme"
    (folder / "deep").mkdir(parents=True)
    for name in ("__init__.py", "plugin.py", "deep/__init__.py", "deep/scorers.py"):
        (folder / name).write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec_of.cache_clear()  # each test has a package of this name elsewhere
    write(folder)
    yield folder
    spec_of.cache_clear()


def write(folder: Path, **changes: Any) -> None:
    found = {**FOUND, "source": source_hash(ENTRY), **changes}
    record = {"format": 1, "vtprune": "0.1.0", "components": {"scorer acme/norm": found}}
    (folder / FILE).write_text(json.dumps(record))


def test_a_record_is_found_without_importing_anything(acme: Path) -> None:
    assert record_path(ENTRY) == acme / FILE
    assert status(ENTRY) == Status("passed", "40 checks passed, 3 not applicable, with vtprune 0.1.0")
    assert not any(name.split(".")[0] == "acme" for name in sys.modules)


def test_the_text_says_what_was_found(acme: Path) -> None:
    write(acme, failed=["bounds_hold"], in_model=False, not_applicable=0)
    text = "40 checks passed, 1 failed (bounds_hold), with vtprune 0.1.0, none of them in a model"
    assert status(ENTRY) == Status("failed", text)
    write(acme, expected_failures={"bounds_hold": "for old recipes"})
    assert status(ENTRY).state == "passed"
    assert "1 expected to fail (bounds_hold: for old recipes)" in status(ENTRY).text


def test_a_changed_source_makes_a_record_stale(acme: Path) -> None:
    source = acme / "deep" / "scorers.py"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert status(ENTRY).state == "passed", "line ends are not a change"
    source.write_text("x = 1\n")
    assert status(ENTRY) == Status("stale", "stale: its source has changed since it was checked with vtprune 0.1.0")
    source.unlink()
    assert status(ENTRY).state == "stale"


def test_what_has_no_record_was_not_checked(acme: Path) -> None:
    other = replace(ENTRY, name="acme/other")
    assert status(other) == Status("not checked", f"not checked: {FILE} of acme does not name it")
    assert status(replace(ENTRY, kind="recipe")).text == "recipes have no conformance checks"
    (acme / FILE).unlink()
    assert status(ENTRY) == Status("not checked", f"not checked: acme ships no {FILE}")
    for module in ("", "nowhere.at.all", "acme.nothing", "acme.plugin.inside"):
        assert status(replace(ENTRY, module=module)).state == "not checked"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read: Expecting property name"),
        ("[]", "cannot be read: it is no conformance record of format 1"),
        ('{"format": 2, "vtprune": "9", "components": {}}', "no conformance record of format 1"),
        (
            '{"format": 1, "vtprune": "9", "components": {"scorer acme/norm": {"passed": 1}}}',
            "lacks expected_failures, ",
        ),
        ('{"format": 1, "components": {}}', "cannot be read: it is no conformance record of format 1"),
    ],
)
def test_a_broken_record_breaks_nothing(acme: Path, text: str, message: str) -> None:
    (acme / FILE).write_text(text)
    found = status(ENTRY)
    assert found.state == "not checked"
    assert message in found.text


def test_sources_are_found_where_imports_find_them(acme: Path) -> None:
    assert source_of("acme.deep.scorers") == acme / "deep" / "scorers.py"
    assert source_of("acme") == acme / "__init__.py"
    assert source_of("vtprune.scorers.attention") == Path(vtprune.__file__).parent / "scorers" / "attention.py"
    assert source_of("math") is None
    assert source_of("json.nothing.deeper") is None


SCRIPT = """
import sys
from vtprune.core.plugins import registry
from vtprune.core.conformance import status
found = {entry.name: status(entry).state for entry in registry().entries()}
heavy = sorted({"torch", "transformers", "pydantic", "numpy"} & set(sys.modules))
targets = [n for n in sys.modules if n.startswith(("vtprune.scorers", "vtprune.adapters", "vtprune.testing"))]
print(len(found), heavy, targets)
"""


def test_reading_the_record_of_the_built_ins_imports_nothing_heavy() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    count, _, rest = ran.stdout.strip().partition(" ")
    assert int(count) > 50
    assert rest == "[] []"


# -- the record that vtprune ships -------------------------------------------------------------------------------------

BUILT_IN = [entry for entry in registry().entries() if entry.origin == "vtprune" and entry.kind != "recipe"]
SHIPPED = Path(vtprune.__file__).with_name(FILE)


def test_the_shipped_record_names_every_built_in_and_nothing_else() -> None:
    named = json.loads(SHIPPED.read_text())["components"]
    assert sorted(named) == sorted(f"{entry.kind} {entry.name}" for entry in BUILT_IN)


@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_every_built_in_passed_and_is_as_it_was_checked(entry: Registration) -> None:
    found = status(entry)
    assert found.state == "passed", f"{found.text}; write the record anew with `make docs`"
    assert f"with vtprune {vtprune.__version__}" in found.text
    assert "none of them in a model" not in found.text


@pytest.mark.slow
@pytest.mark.parametrize("entry", BUILT_IN, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_the_shipped_record_is_what_the_checks_find(entry: Registration) -> None:
    from vtprune.testing.recording import entry_of
    from vtprune.testing.targets import Target, chosen

    outcomes = Target("", entry.kind, entry).run(chosen([], in_model=True))
    assert [str(outcome) for outcome in outcomes if outcome.is_fault] == []
    stored = json.loads(SHIPPED.read_text())["components"][f"{entry.kind} {entry.name}"]
    assert entry_of(entry, outcomes) == stored
