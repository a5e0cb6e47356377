"""Who made results, and how far they are the ones installed here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.study.fake import Fake, register_fake, study
from vtprune.adapters.llava import ADAPTER
from vtprune.core.plugins import Plugin, registry
from vtprune.core.registry import Registration
from vtprune.study import identity, makers
from vtprune.study.cell import Variant
from vtprune.study.makers import Maker, Part, missing

SCORER = {"kind": "scorer", "name": "acme/lean", "origin": "acme", "version": "1.0", "revision": 2}
RANDOM = {"kind": "scorer", "name": "random", "origin": "vtprune", "version": "0.1.0", "revision": 1}
LOOSE = {"kind": "scorer", "name": "mine:Mine", "origin": None, "version": None, "revision": 1}
TASK = {"task": {}, "fingerprint": "", "name": "b/squares", "origin": "b", "version": "3", "revision": 5}
ADAPTER_PART = {"name": "acme/house", "origin": "acme", "version": "1.0", "revision": None}
ACME = Maker("acme", "1.0", (Part("scorer", "acme/lean", 2),))


def cell(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"variant": {"recipe": "0" * 64, "components": list(parts)}, **more}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Plugin]:
    """What is installed here, to be filled."""
    found: list[Plugin] = []
    monkeypatch.setattr(makers, "plugins", lambda: tuple(found))
    everything = registry()
    monkeypatch.setattr(everything, "_entries", dict(everything._entries))
    monkeypatch.setattr(everything, "_loaded", dict(everything._loaded))
    return found


class Lean:
    revision = 2


def register(target: str = f"{__name__}:Lean") -> None:
    registry().add(Registration("scorer", "acme/lean", target, "a scorer", None, "acme", "1.0"))


def plugin(version: str = "1.0", **fields: Any) -> Plugin:
    return Plugin("acme", version, "main", "acme", **fields)


def test_makers_are_vtprune_then_the_others_by_name() -> None:
    identities = [cell(SCORER, RANDOM, LOOSE, task=TASK), cell(SCORER, adapter=ADAPTER_PART), {"label": "of a test"}]
    assert makers.makers(identities) == (
        Maker("vtprune", "0.1.0", (Part("scorer", "random", 1),)),
        Maker("acme", "1.0", (Part("adapter", "acme/house", None), Part("scorer", "acme/lean", 2))),
        Maker("b", "3", (Part("task", "b/squares", 5),)),
    )
    assert [maker.is_third_party for maker in makers.makers(identities)] == [False, True, True]


def test_two_versions_are_two_makers() -> None:
    newer = {**SCORER, "version": "1.1", "revision": 3}
    found = makers.makers([cell(SCORER), cell(newer)])
    assert [(maker.version, maker.parts[0].revision) for maker in found] == [("1.0", 2), ("1.1", 3)]


def test_in_words() -> None:
    parts = tuple(Part("scorer", f"acme/{letter}", 1) for letter in "abcdef")
    assert str(ACME) == "acme 1.0 (scorer acme/lean revision 2)"
    assert str(Maker("acme", "1", (Part("adapter", "acme/house", None),))) == "acme 1 (adapter acme/house)"
    assert str(replace(ACME, parts=parts)).endswith("scorer acme/d revision 1 and 2 more)")


def test_nothing_is_missing_where_all_is_as_it_was(installed: list[Plugin]) -> None:
    installed.append(plugin())
    register()
    assert missing([ACME]) == ()


def test_not_installed(installed: list[Plugin]) -> None:
    (text,) = missing([ACME])
    assert text == f"results were made with {ACME}, which is not installed here; `pip install acme==1.0` to go on"


def test_installed_and_of_no_use(installed: list[Plugin]) -> None:
    installed.append(plugin(state="failed", reason="ImportError: no module named acme"))
    (text,) = missing([ACME])
    assert "here it cannot be used: plugin 'main' of acme 1.0 failed: ImportError: no module" in text


def test_another_version(installed: list[Plugin]) -> None:
    installed.append(plugin("2.0"))
    register()
    assert missing([ACME]) == (f"results were made with {ACME}; installed here is acme 2.0",)


def test_another_revision(installed: list[Plugin], monkeypatch: pytest.MonkeyPatch) -> None:
    installed.append(plugin())
    register()
    monkeypatch.setattr(Lean, "revision", 3)
    assert missing([ACME]) == (f"results were made with {ACME}; the scorer acme/lean is revision 3 here",)


@pytest.mark.parametrize(("target", "said"), [(None, "is not there any more"), ("json:no", "cannot be loaded")])
def test_a_component_that_is_gone(installed: list[Plugin], target: str | None, said: str) -> None:
    installed.append(plugin())
    if target is not None:
        register(target)
    (text,) = missing([ACME])
    assert f"the scorer acme/lean {said}" in text


def test_an_adapter_of_a_third_party_is_part_of_a_cell(installed: list[Plugin]) -> None:
    registry().add(Registration("adapter", "acme/house", f"{__name__}:ADAPTER", "an adapter", None, "acme", "1.0"))
    assert identity.adapter_identity(replace(ADAPTER, name="acme/house")) == {"adapter": ADAPTER_PART}
    assert identity.adapter_identity(ADAPTER) == {}


def test_what_a_plan_records_is_what_makers_read(monkeypatch: pytest.MonkeyPatch) -> None:
    register_fake(monkeypatch)
    (task,) = study(limit=1).tasks
    assert isinstance(task, Fake)
    stage = {"site": "projector.output", "scorer": "random", "budget": 0.5}
    variant = Variant("x", "recipe", {"stages": [stage]})
    parts = {"task": identity.task_identity(task, {"name": "fake"}), "variant": identity.variant_identity(variant)}
    (here, own) = makers.makers([parts])
    assert {here.version, own.version} == {"0.0", "0.1.0"}  # the fake task says that it is of vtprune 0.0
    named = {str(part) for part in (*here.parts, *own.parts)}
    assert {"task fake revision 1", "scorer random revision 1", "selector top_k revision 1"} <= named
