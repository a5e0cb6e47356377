"""The loader: plugins one by one, all or nothing, whatever is wrong with one of them."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from tests.core.conftest import WritePlugin
from vtprune.core.errors import PluginError, UnknownNameError
from vtprune.core.plugins import API, GROUP, Discovery, Plugin, Registrar, failures, plugins, registry
from vtprune.core.plugins import discover as discover_in
from vtprune.core.plugins.plugin import canonical
from vtprune.core.registry import Registry

GOOD = """
from vtprune.plugin import hookimpl

@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer", paper="arXiv 0000.00000")
    registrar.add("recipe", "mine", "acme:mine.yaml", summary="a recipe")
"""
MISSPELT = """
from vtprune.plugin import hookimpl

@hookimpl
def vtprune_registr(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
"""
WRONG_ARGUMENT = """
from vtprune.plugin import hookimpl

@hookimpl
def vtprune_register(registry):
    pass
"""
HALF_WAY = """
from vtprune.plugin import hookimpl

@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
    raise RuntimeError("licence server is down")
"""
TWICE = """
from vtprune.plugin import hookimpl

@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "first", "json:loads", summary="a scorer")
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
    registrar.add("scorer", "entropy", "json:loads", summary="another scorer")
"""
LEAVES = "import sys\nsys.exit('no GPU here')"
BROKEN = {
    "broken_import": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "syntax": ("def (", "SyntaxError"),
    "leaves": (LEAVES, "SystemExit: no GPU here"),
    "no_hook": ("value = 1", "implements no vtprune_register hook"),
    "undecorated": ("def vtprune_register(registrar): pass", "implements no vtprune_register hook"),
    "misspelt": (MISSPELT, "the hook is `vtprune_register(registrar)`, under that name and argument"),
    "wrong_argument": (WRONG_ARGUMENT, "the hook is `vtprune_register(registrar)`, under that name and argument"),
    "half_way": (HALF_WAY, "RuntimeError: licence server is down"),
    "twice": (TWICE, "registered twice"),
    "bad_kind": (
        GOOD.replace('"scorer"', '"scorers"'),
        "unknown kind 'scorers' of 'entropy'. Did you mean 'scorer' or",
    ),
    "bad_name": (GOOD.replace('"entropy"', '"a b"'), "'a b' is not a usable name"),
    "slash": (GOOD.replace('"entropy"', '"vtprune/entropy"'), "is not a usable name"),
    "prefixed": (
        GOOD.replace('"entropy"', '"bad/entropy"'),
        "write 'entropy' for 'bad/entropy'; the distribution is",
    ),
    "bad_target": (GOOD.replace("json:dumps", "json.dumps"), "must look like 'module:attribute'"),
    "no_summary": (GOOD.replace('"a scorer"', '" "'), "needs a summary of one line"),
    "bad_api": (f"VTPRUNE_API = 'one'\n{GOOD}", "VTPRUNE_API is 'one'"),
    "api_upside_down": (f"VTPRUNE_API = (2, 1)\n{GOOD}", "VTPRUNE_API is (2, 1)"),
}


def discover(*points: EntryPoint, **environment: str) -> Discovery:
    return discover_in(points, environment)


def third_parties(found: Discovery) -> list[Plugin]:
    return [plugin for plugin in found.plugins if plugin.distribution != GROUP]


def names(book: Registry) -> set[str]:
    return {entry.name for entry in book.entries() if entry.origin != GROUP}


def test_a_good_plugin_is_listed_under_its_distribution(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD))
    entry = found.registry.entry("scorer", "acme/entropy")
    assert (entry.origin, entry.version, entry.paper) == ("acme", "1.2", "arXiv 0000.00000")
    assert entry.module == "acme_good"
    assert "entropy" not in found.registry.names("scorer")
    assert found.registry.names("recipe").count("acme/mine") == 1
    assert "attention" in found.registry.names("scorer")
    (plugin,) = third_parties(found)
    assert (plugin.distribution, plugin.version, plugin.entry_point, plugin.module) == (
        "acme",
        "1.2",
        "plugin",
        "acme_good",
    )
    assert (plugin.state, plugin.reason, plugin.traceback, plugin.error) == ("active", "", "", None)
    assert [entry.name for entry in plugin.registrations] == ["acme/entropy", "acme/mine"]
    assert plugin.seconds > 0
    assert not plugin.is_fault


def test_the_built_ins_are_a_plugin_like_the_others() -> None:
    (builtins,) = discover().plugins
    assert (builtins.distribution, builtins.state) == (GROUP, "active")
    assert {entry.name for entry in builtins.registrations} >= {"attention", "top_k", "plphp", "llava", "testbed"}


def test_two_distributions_may_use_one_name(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD), write_plugin("other_good", GOOD, dist="other"))
    assert [plugin.state for plugin in third_parties(found)] == ["active", "active"]
    assert {"acme/entropy", "other/entropy"} <= names(found.registry)


def test_nobody_can_take_a_bare_name(write_plugin: WritePlugin) -> None:
    book = discover(write_plugin("acme_good", GOOD.replace('"entropy"', '"attention"'))).registry
    assert book.entry("scorer", "attention").origin == GROUP
    assert book.entry("scorer", "acme/attention").origin == "acme"


def test_a_distribution_that_is_called_vtprune_gets_no_bare_names(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD, dist="vtprune"))
    assert "entropy" not in found.registry.names("scorer")
    assert "vtprune/entropy" in found.registry.names("scorer")


@pytest.mark.parametrize("spelling", ["Acme_Plug.in", "acme-plug-in", "ACME--plug_in"])
def test_names_start_with_the_canonical_distribution(write_plugin: WritePlugin, spelling: str) -> None:
    assert canonical(spelling) == "acme-plug-in"
    found = discover(write_plugin("acme_good", GOOD, dist=spelling))
    assert names(found.registry) == {"acme-plug-in/entropy", "acme-plug-in/mine"}


def test_without_metadata_the_top_module_stands_for_the_distribution(write_plugin: WritePlugin) -> None:
    book = discover(write_plugin("acme_good", GOOD, dist=None)).registry
    assert book.entry("scorer", "acme-good/entropy").version == "unknown"


def test_an_entry_point_may_name_an_object_with_the_hook(write_plugin: WritePlugin) -> None:
    source = """
from vtprune.plugin import hookimpl

class Plugin:
    @hookimpl
    def vtprune_register(self, registrar):
        registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")

plugin = Plugin()
"""
    found = discover(write_plugin("acme_object", source, attribute=":plugin"))
    assert names(found.registry) == {"acme/entropy"}
    assert found.registry.entry("scorer", "acme/entropy").module == "acme_object"


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_leaves_the_rest_working(write_plugin: WritePlugin, case: str) -> None:
    source, cause = BROKEN[case]
    before = discover().registry
    found = discover(write_plugin(f"bad_{case}", source, dist="bad"), write_plugin("acme_good", GOOD))

    assert names(found.registry) == {"acme/entropy", "acme/mine"}
    assert [e for e in found.registry.entries() if e.origin == GROUP] == list(before.entries())
    good, bad = third_parties(found)
    assert (good.distribution, good.state) == ("acme", "active")
    assert (bad.distribution, bad.entry_point, bad.state, bad.is_fault) == ("bad", "plugin", "failed", True)
    assert cause in bad.reason
    assert str(bad) == f"plugin 'plugin' of bad 1.2 failed: {bad.reason}"
    assert bad.registrations == ()
    assert bad.error is not None
    assert type(bad.error).__name__ in bad.traceback
    assert bad.traceback.startswith("Traceback")


@pytest.mark.parametrize("case", BROKEN)
def test_strict_mode_raises(write_plugin: WritePlugin, case: str) -> None:
    source, cause = BROKEN[case]
    points = write_plugin("acme_good", GOOD), write_plugin(f"bad_{case}", source, dist="bad")
    with pytest.raises(PluginError, match=r"plugin 'plugin' of bad 1\.2 failed") as caught:
        discover(*points, VTPRUNE_STRICT_PLUGINS="1")
    assert cause in str(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("value", ["", "0"])
def test_strict_mode_can_be_off(write_plugin: WritePlugin, value: str) -> None:
    found = discover(write_plugin("bad_import", "import no_such_module"), VTPRUNE_STRICT_PLUGINS=value)
    assert [plugin.state for plugin in third_parties(found)] == ["failed"]


@pytest.mark.parametrize("declared", [API, (API, API), (API - 1, API + 3)])
def test_a_plugin_for_this_api_is_loaded(write_plugin: WritePlugin, declared: object) -> None:
    found = discover(write_plugin("acme_good", f"VTPRUNE_API = {declared!r}\n{GOOD}"))
    assert names(found.registry) == {"acme/entropy", "acme/mine"}


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        (API - 1, f"plugin API {API - 1}, this vtprune has {API}; upgrade the plugin"),
        ((API + 1, API + 2), f"plugin API {API + 1} to {API + 2}, this vtprune has {API}; upgrade vtprune"),
    ],
)
def test_a_plugin_for_another_api_is_not_asked(write_plugin: WritePlugin, declared: object, said: str) -> None:
    source = f"VTPRUNE_API = {declared!r}\n{HALF_WAY}"
    found = discover(write_plugin("acme_other", source), write_plugin("rest", GOOD, dist="rest"))
    other, rest = third_parties(found)
    assert (other.state, other.traceback, rest.state) == ("incompatible", "", "active")
    assert said in other.reason
    assert names(found.registry) == {"rest/entropy", "rest/mine"}
    with pytest.raises(PluginError, match="is incompatible"):
        discover(write_plugin("acme_other", source), VTPRUNE_STRICT_PLUGINS="1")


@pytest.mark.parametrize(
    ("requires", "state", "kept"),
    [
        (None, "active", ""),
        (["numpy>=1000"], "active", ""),
        (["vtprune"], "active", ""),
        (["vtprune>=0.0.1", "vtprune<1000"], "active", ">=0.0.1,<1000"),
        (["vtprune-helpers>=1000"], "active", ""),
        (["vtprune>=1000; extra == 'new'"], "active", ""),
        (["VTprune[study] >= 1000"], "incompatible", ">=1000"),
        (["vtprune<0.0.1"], "incompatible", "<0.0.1"),
        (["vtprune is what I need"], "active", ""),
    ],
)
def test_a_distribution_that_excludes_this_vtprune_is_not_imported(
    write_plugin: WritePlugin, requires: list[str] | None, state: str, kept: str
) -> None:
    (plugin,) = third_parties(discover(write_plugin("acme_asks", GOOD, requires=requires)))
    assert (plugin.state, plugin.requires) == (state, kept)
    assert ("acme_asks" in sys.modules) == (state == "active")
    if state == "incompatible":
        assert f"asks for vtprune{kept}, here is " in plugin.reason
        assert plugin.seconds == 0


def test_heavy_packages_are_laid_at_the_door_of_the_first(
    write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "jax"]:
        monkeypatch.delitem(sys.modules, name)
    heavy = f"import jax\n{GOOD}"
    (write_plugin("jax", ""), write_plugin("unused", ""))
    found = discover(write_plugin("a_heavy", heavy, dist="a"), write_plugin("b_heavy", heavy, dist="b"))
    assert [plugin.heavy for plugin in third_parties(found)] == [("jax",), ()]


def test_two_entry_points_of_one_distribution_that_clash(write_plugin: WritePlugin) -> None:
    other = GOOD.replace("json:dumps", "json:loads")
    found = discover(write_plugin("acme_b", other, name="b"), write_plugin("acme_a", GOOD, name="a"))
    assert found.registry.entry("scorer", "acme/entropy").target == "json:dumps"
    assert [(plugin.entry_point, plugin.state) for plugin in third_parties(found)] == [("a", "active"), ("b", "failed")]
    assert "acme 1.2 (json:dumps) and by acme 1.2 (json:loads)" in found.plugins[-1].reason


def test_the_order_of_discovery_does_not_matter(write_plugin: WritePlugin) -> None:
    points = [
        write_plugin("other_good", GOOD, dist="other"),
        write_plugin("acme_good", GOOD),
        write_plugin("acme_b", GOOD, name="b"),
        write_plugin("bad", "import no_such_module", dist="Bad"),
    ]
    forwards, backwards = discover(*points), discover(*points[::-1])
    assert list(forwards.registry.entries()) == list(backwards.registry.entries())
    assert [str(plugin) for plugin in forwards.plugins] == [str(plugin) for plugin in backwards.plugins]
    order = [(plugin.distribution, plugin.entry_point) for plugin in forwards.plugins]
    assert order == [
        ("vtprune", "builtins"),
        ("acme", "b"),
        ("acme", "plugin"),
        ("bad", "plugin"),
        ("other", "plugin"),
    ]


def test_loading_a_bad_target_fails_only_when_used(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD.replace("json:dumps", "json:no_such_thing")))
    assert [plugin.state for plugin in third_parties(found)] == ["active"]
    with pytest.raises(PluginError, match=r"scorer 'acme/entropy' of acme 1\.2 cannot be loaded"):
        found.registry.load("scorer", "acme/entropy")


def test_the_nearest_name_of_a_plugin_is_suggested(write_plugin: WritePlugin) -> None:
    book = discover(write_plugin("acme_good", GOOD)).registry
    with pytest.raises(UnknownNameError, match="Did you mean 'acme/entropy'"):
        book.entry("scorer", "acme/entrpy")


@pytest.mark.parametrize("name", ["entropy", "entropy-2", "per_head.entropy", "E2"])
def test_usable_names(name: str) -> None:
    book = Registry()
    Registrar(book, "acme/", "acme", "1", "acme").add("scorer", name, "json:dumps", summary="a scorer")
    assert book.names("scorer") == [f"acme/{name}"]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "2x", "a..b", ".a", "a:b", 3])
def test_unusable_names(name: str) -> None:
    with pytest.raises(PluginError, match="is not a usable name"):
        Registrar(Registry(), "acme/", "acme", "1", "acme").add("scorer", name, "json:dumps", summary="a scorer")


@pytest.mark.parametrize("target", ["json.dumps", "json:", ":dumps", "json:dumps:loads", 3])
def test_unusable_targets(target: str) -> None:
    with pytest.raises(PluginError, match="must look like 'module:attribute'"):
        Registrar(Registry(), "acme/", "acme", "1", "acme").add("scorer", "entropy", target, summary="a scorer")


def test_discovery_happens_once() -> None:
    assert registry() is registry()
    assert plugins() is plugins()
    assert failures() == tuple(plugin for plugin in plugins() if plugin.is_fault)


def test_an_entry_point_that_names_the_hook_itself_is_told(write_plugin: WritePlugin) -> None:
    point = write_plugin("acme_function", GOOD)
    (plugin,) = third_parties(discover(EntryPoint("plugin", f"{point.value}:vtprune_register", GROUP)))
    assert plugin.state == "failed"
    assert "names 'vtprune_register'" in plugin.reason
    assert "name the module that holds the hook, without ':vtprune_register'" in plugin.reason


def test_a_misspelt_target_is_told_the_nearest_name(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_target", GOOD.replace("json:dumps", "json:dmps")))
    with pytest.raises(PluginError, match=r"no attribute 'dmps'\. Did you mean 'dumps'\?"):
        found.registry.load("scorer", "acme/entropy")
