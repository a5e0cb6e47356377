"""The warning at binding: when it comes, when it does not, what it says, and that no damage stops anybody."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

import vtprune
from tests.verify import stranger
from tests.verify.test_ledger import CELL, PASS, REFUSED, ledger
from vtprune.testing.models import tiny_llava
from vtprune.verify.folders import file_name, find
from vtprune.verify.index import UnverifiedWarning, index, minor, warn_unverified
from vtprune.verify.ledger import Block, Ledger, write

INSTALLED = version("transformers")
DROP = {"stages": [{"site": "llm.layers[2]", "scorer": "random", "budget": 0.5}]}
KV = {"stages": [{"site": "llm.layers[2].kv", "scorer": "attention", "budget": 0.5}]}


def said(family: str = "llava", kinds: tuple[str, ...] = ("llm",), attention: str = "sdpa") -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_unverified(family, kinds, attention, "SomeModel")
    assert all(each.category is UnverifiedWarning for each in caught)
    return [str(each.message) for each in caught]


def store(folder: Path, *cells: object, transformers: str = INSTALLED) -> None:
    write(ledger(*cells, transformers=transformers), folder / file_name(transformers))  # type: ignore[arg-type]


def test_a_pass_is_silent_and_what_lacks_one_is_said_once(shipped: Path) -> None:
    store(shipped, (CELL, PASS), (CELL._replace(subject="vision.output"), REFUSED))
    assert said() == []
    assert len(said(kinds=("llm", "kv"))) == 1
    assert said(kinds=("kv",)) == []
    (refused,) = said(kinds=("vision",))
    assert "SomeModel (family llava) at sites like vision.output under sdpa attention was not verified" in refused
    assert INSTALLED in refused


def test_it_says_how_to_verify(shipped: Path) -> None:
    store(shipped, (CELL, PASS))
    (eager,) = said(attention="eager")
    assert "(it was under sdpa)" in eager
    assert "`vtprune verify --family llava --attention eager`" in eager
    (unknown,) = said("qwen2_vl")
    assert "`vtprune verify --family qwen2_vl`" in unknown
    (stranger,) = said("acme/own")
    assert "`vtprune verify --family acme/own`" in stranger
    assert "--model module:function" in stranger
    (structure,) = said("recognised:NewForConditionalGeneration")
    assert "`vtprune verify --model module:function`" in structure


def test_a_version_without_a_ledger_is_one_warning_that_names_the_nearest(shipped: Path) -> None:
    for other in ("5.2.0", "5.30.0", "5.40.0", "6.0.0"):
        store(shipped, (CELL, PASS), transformers=other)
    (message,) = said(kinds=("llm", "kv"))
    near = ["5.30", "5.40"] if minor(INSTALLED) == "5.23" else ["5.30", "5.2"]
    assert f"nothing was verified with transformers {INSTALLED}" in message
    assert f"the nearest versions with results are {' and '.join(near)}" in message
    assert said("qwen2_vl") == []


def test_no_ledger_at_all(shipped: Path) -> None:
    (message,) = said()
    assert "no version has results. Run `vtprune verify`" in message


def test_another_patch_of_the_same_minor_version_counts(shipped: Path) -> None:
    store(shipped, (CELL, PASS), transformers=f"{minor(INSTALLED)}.99")
    assert said() == []


def test_own_results_count(shipped: Path, own: Path) -> None:
    store(own, (CELL, PASS))
    assert said() == []


@pytest.fixture
def packaged(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the ledgers of an installed package, acme; vtprune's own ledger knows llava."""
    package = tmp_path / f"acme_{tmp_path.name}"  # where a module lies is looked up once a process
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugin.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    registry = stranger.registered(f"{package.name}.plugin")
    monkeypatch.setattr("vtprune.verify.folders.registry", lambda: registry)
    store(shipped, (CELL, PASS))
    return package / "verified"


def test_results_that_a_package_ships_count_for_its_families_alone(packaged: Path) -> None:
    assert len(said(stranger.NAME)) == 1
    index.cache_clear()
    made = ledger(transformers=INSTALLED)
    for variant, family in ((stranger.NAME, stranger.NAME), ("qwen2_vl", "qwen2_vl")):
        made.blocks[variant, "sdpa"] = Block(family, "2.13.0", "0.1.0", {CELL.subject: {CELL.mode: PASS}})
    write(made, packaged / file_name(INSTALLED))
    assert said(stranger.NAME) == []
    assert said("llava") == []
    assert len(said(stranger.BARE)) == 1
    assert len(said("qwen2_vl")) == 1
    assert {cell.variant for cell, _ in find(INSTALLED).cells()} == {"llava", stranger.NAME}


def test_a_packages_damaged_ledger_is_named_where_it_is_missed(packaged: Path) -> None:
    packaged.mkdir()
    (packaged / file_name(INSTALLED)).write_text("{")
    assert said("llava") == []
    (message,) = said("acme/other")
    assert f"Not read: {packaged / file_name(INSTALLED)} is no ledger" in message


def test_damage_is_a_warning_and_no_error(shipped: Path, own: Path) -> None:
    (shipped / file_name(INSTALLED)).write_text('{"format": 1')
    (message,) = said()
    assert f"what was verified with transformers {INSTALLED} cannot be told" in message
    assert file_name(INSTALLED) in message
    index.cache_clear()
    store(own, (CELL, PASS))
    assert said() == []


def test_the_files_are_read_once(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(shipped, (CELL, PASS))
    reads: list[str] = []
    original = Ledger.parse.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Ledger, "parse", classmethod(lambda *a: reads.append(a[2]) or original(*a)))
    said()
    said(kinds=("kv", "vision"))
    assert len(reads) == 1


def test_prune_and_observe_look_it_up(shipped: Path) -> None:
    store(shipped, (CELL, PASS))
    model = tiny_llava().model
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vtprune.prune(model, DROP)
        vtprune.observe(model)
    with pytest.warns(
        vtprune.UnverifiedWarning, match=r"LlavaForConditionalGeneration \(family llava\).*\.kv"
    ) as caught:
        vtprune.prune(model, KV)
    assert caught[0].filename == __file__, "the warning points at the line that called vtprune.prune"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vtprune.prune(model, KV)


def test_looking_up_imports_nothing_heavy() -> None:
    code = (
        "import sys, vtprune.verify.index as i, vtprune.verify.document\n"
        "i.warn_unverified('llava', ['llm'], 'sdpa', 'Llava')\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
