"""Third-party plugins, good and broken: each is written to disk and found through an entry point of its own."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from vtprune.core.errors import PluginError, UnknownNameError
from vtprune.core.plugins import GROUP, Registrar, discover, failures, registry
from vtprune.core.registry import Registry

GOOD = """
from vtprune import hookimpl

@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer", paper="arXiv 0000.00000")
    registrar.add("recipe", "mine", "acme:mine.yaml", summary="a recipe")
"""
MISSPELT = """
from vtprune import hookimpl

@hookimpl
def vtprune_registr(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
"""
WRONG_ARGUMENT = """
from vtprune import hookimpl

@hookimpl
def vtprune_register(registry):
    pass
"""
HALF_WAY = """
from vtprune import hookimpl

@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
    raise RuntimeError("licence server is down")
"""
TWICE = """
from vtprune import hookimpl

@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "first", "json:loads", summary="a scorer")
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
    registrar.add("scorer", "entropy", "json:loads", summary="another scorer")
"""
BROKEN = {
    "broken_import": ("import no_such_module", "ModuleNotFoundError"),
    "syntax": ("def (", "SyntaxError"),
    "no_hook": ("value = 1", "implements no vtprune_register hook"),
    "undecorated": ("def vtprune_register(registrar): pass", "implements no vtprune_register hook"),
    "misspelt": (MISSPELT, "vtprune_registr"),
    "wrong_argument": (WRONG_ARGUMENT, "registry"),
    "half_way": (HALF_WAY, "licence server is down"),
    "twice": (TWICE, "registered twice"),
    "bad_kind": (GOOD.replace('"scorer"', '"scorers"'), "unknown kind 'scorers'"),
    "bad_name": (GOOD.replace('"entropy"', '"a b"'), "'a b' is not a usable name"),
    "slash": (GOOD.replace('"entropy"', '"vtprune/entropy"'), "is not a usable name"),
    "bad_target": (GOOD.replace("json:dumps", "json.dumps"), "must look like 'module:attribute'"),
}


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes a module and returns an entry point of the distribution ``dist`` that names it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("VTPRUNE_STRICT_PLUGINS", raising=False)
    written = []

    def write(module: str, source: str, dist: str | None = "acme", name: str = "plugin") -> EntryPoint:
        (tmp_path / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        written.append(module)
        point = EntryPoint(name, module, GROUP)
        # importlib.metadata attaches the distribution in the same way; there is no public constructor for it
        vars(point)["dist"] = SimpleNamespace(name=dist, version="1.2") if dist else None
        return point

    yield write
    for module in written:
        sys.modules.pop(module, None)


def names(book: Registry) -> set[str]:
    return {entry.name for entry in book.entries() if entry.origin != "vtprune"}


def test_a_good_plugin_is_listed_under_its_distribution(plugin):
    book, failed = discover([plugin("acme_good", GOOD)])
    assert failed == []
    entry = book.entry("scorer", "acme/entropy")
    assert (entry.origin, entry.version, entry.paper) == ("acme", "1.2", "arXiv 0000.00000")
    assert "entropy" not in book.names("scorer")
    assert book.names("recipe").count("acme/mine") == 1
    assert "attention" in book.names("scorer")


def test_two_distributions_may_use_one_name(plugin):
    book, failed = discover([plugin("acme_good", GOOD), plugin("other_good", GOOD, dist="other")])
    assert failed == []
    assert {"acme/entropy", "other/entropy"} <= names(book)


def test_nobody_can_take_a_bare_name(plugin):
    book, _ = discover([plugin("acme_good", GOOD.replace('"entropy"', '"attention"'))])
    assert book.entry("scorer", "attention").origin == "vtprune"
    assert book.entry("scorer", "acme/attention").origin == "acme"


def test_without_metadata_the_top_module_stands_for_the_distribution(plugin):
    book, _ = discover([plugin("acme_good", GOOD, dist=None)])
    assert book.entry("scorer", "acme_good/entropy").version == "unknown"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_leaves_the_rest_working(plugin, case):
    source, cause = BROKEN[case]
    before, _ = discover([])
    book, failed = discover([plugin(f"bad_{case}", source, dist="bad"), plugin("acme_good", GOOD)])

    assert names(book) == {"acme/entropy", "acme/mine"}
    assert [e for e in book.entries() if e.origin == "vtprune"] == list(before.entries())
    (failure,) = failed
    assert (failure.distribution, failure.entry_point) == ("bad", "plugin")
    assert cause in str(failure)
    assert str(failure).startswith("plugin 'plugin' of bad: ")


@pytest.mark.parametrize("case", BROKEN)
def test_strict_mode_raises(plugin, monkeypatch, case):
    source, cause = BROKEN[case]
    monkeypatch.setenv("VTPRUNE_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="plugin 'plugin' of bad") as caught:
        discover([plugin("acme_good", GOOD), plugin(f"bad_{case}", source, dist="bad")])
    assert cause in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("value", ["", "0"])
def test_strict_mode_can_be_off(plugin, monkeypatch, value):
    monkeypatch.setenv("VTPRUNE_STRICT_PLUGINS", value)
    assert len(discover([plugin("bad_import", "import no_such_module")])[1]) == 1


def test_two_entry_points_of_one_distribution_that_clash(plugin):
    other = GOOD.replace("json:dumps", "json:loads")
    points = [plugin("acme_b", other, name="b"), plugin("acme_a", GOOD, name="a")]
    book, failed = discover(points)
    assert book.entry("scorer", "acme/entropy").target == "json:dumps"
    assert [failure.entry_point for failure in failed] == ["b"]
    assert "acme 1.2 (json:dumps) and by acme 1.2 (json:loads)" in str(failed[0])


def test_the_order_of_discovery_does_not_matter(plugin):
    points = [plugin("acme_good", GOOD), plugin("other_good", GOOD, dist="other"), plugin("acme_b", GOOD, name="b")]
    forwards, backwards = discover(points), discover(points[::-1])
    assert list(forwards[0].entries()) == list(backwards[0].entries())
    assert [str(failure) for failure in forwards[1]] == [str(failure) for failure in backwards[1]]


def test_loading_a_bad_target_fails_only_when_used(plugin):
    book, failed = discover([plugin("acme_good", GOOD.replace("json:dumps", "json:no_such_thing"))])
    assert failed == []
    with pytest.raises(PluginError, match=r"scorer 'acme/entropy' of acme 1\.2 cannot be loaded"):
        book.load("scorer", "acme/entropy")


def test_the_nearest_name_of_a_plugin_is_suggested(plugin):
    book, _ = discover([plugin("acme_good", GOOD)])
    with pytest.raises(UnknownNameError, match="Did you mean 'acme/entropy'"):
        book.entry("scorer", "acme/entrpy")


@pytest.mark.parametrize("name", ["entropy", "entropy-2", "per_head.entropy", "E2"])
def test_usable_names(name):
    book = Registry()
    Registrar(book, "acme", "1").add("scorer", name, "json:dumps", summary="")
    assert book.names("scorer") == [f"acme/{name}"]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "2x", "a..b", ".a", "a:b"])
def test_unusable_names(name):
    with pytest.raises(PluginError, match="is not a usable name"):
        Registrar(Registry(), "acme", "1").add("scorer", name, "json:dumps", summary="")


def test_discovery_happens_once():
    assert registry() is registry()
    assert failures() == failures()
    assert failures() is not failures()
