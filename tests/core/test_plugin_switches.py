"""``VTPRUNE_PLUGINS``, ``VTPRUNE_DISABLE_PLUGINS`` and ``VTPRUNE_STRICT_PLUGINS``."""

from __future__ import annotations

import sys

import pytest

from tests.core.conftest import WritePlugin
from tests.core.test_plugins import GOOD, discover, third_parties
from vtprune.core.errors import PluginError
from vtprune.core.plugins.switches import Switches

ALLOW, DISABLE, STRICT = "VTPRUNE_PLUGINS", "VTPRUNE_DISABLE_PLUGINS", "VTPRUNE_STRICT_PLUGINS"


@pytest.mark.parametrize(
    ("environment", "active"),
    [
        ({}, {"acme", "other"}),
        ({ALLOW: ""}, set()),
        ({ALLOW: "acme"}, {"acme"}),
        ({ALLOW: " ACME , other"}, {"acme", "other"}),
        ({ALLOW: "acme other"}, {"acme", "other"}),
        ({DISABLE: ""}, {"acme", "other"}),
        ({DISABLE: "Acme"}, {"other"}),
        ({DISABLE: "acme,other"}, set()),
        ({DISABLE: "all"}, set()),
        ({ALLOW: "acme,other", DISABLE: "other"}, {"acme"}),
        ({ALLOW: "acme", DISABLE: "all"}, set()),
    ],
)
def test_who_is_loaded(write_plugin: WritePlugin, environment: dict[str, str], active: set[str]) -> None:
    found = discover(write_plugin("acme_a", GOOD), write_plugin("other_a", GOOD, dist="other"), **environment)
    states = {plugin.distribution: plugin.state for plugin in third_parties(found)}
    assert states == {name: "active" if name in active else "disabled" for name in ("acme", "other")}
    assert {entry.origin for entry in found.registry.entries()} == active | {"vtprune"}
    assert {name for name in ("acme_a", "other_a") if name in sys.modules} == {f"{name}_a" for name in active}
    assert found.problems == ()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({ALLOW: ""}, "VTPRUNE_PLUGINS does not name it"),
        ({DISABLE: "acme"}, "VTPRUNE_DISABLE_PLUGINS names it"),
        ({DISABLE: "all"}, "VTPRUNE_DISABLE_PLUGINS=all"),
    ],
)
def test_a_plugin_that_is_off_says_why(write_plugin: WritePlugin, environment: dict[str, str], reason: str) -> None:
    (plugin,) = third_parties(discover(write_plugin("acme_a", "import no_such_module"), **environment, **{STRICT: "1"}))
    assert (plugin.state, plugin.reason, plugin.is_fault) == ("disabled", reason, False)


def test_the_built_ins_cannot_be_switched_off() -> None:
    for environment in ({ALLOW: ""}, {DISABLE: "all"}):
        assert "attention" in discover(**environment).registry.names("scorer")


@pytest.mark.parametrize("variable", [ALLOW, DISABLE])
def test_a_switch_that_names_nothing_is_a_problem(write_plugin: WritePlugin, variable: str) -> None:
    point = write_plugin("acme_a", GOOD)
    (problem,) = discover(point, **{variable: "acmee"}).problems
    assert problem.startswith(f"{variable} names 'acmee', but no plugin of that distribution is installed.")
    assert "Did you mean 'acme'?" in problem
    with pytest.raises(PluginError, match="names 'acmee'"):
        discover(point, **{variable: "acmee", STRICT: "1"})


@pytest.mark.parametrize(("value", "strict"), [("", False), ("0", False), ("1", True), ("yes", True)])
def test_strict(value: str, strict: bool) -> None:
    assert Switches.read({STRICT: value}).strict is strict
    assert Switches.read({}).strict is False


@pytest.mark.parametrize("misspelt", ["VTPRUNE_DISABLE_PLUGIN", "VTPRUNE_PLUGIN", "VTPRUNE_STRICT_PLUGIN"])
def test_a_variable_that_nothing_reads_is_a_problem(write_plugin: WritePlugin, misspelt: str) -> None:
    point = write_plugin("acme_a", GOOD)
    (problem,) = discover(point, **{misspelt: "acme"}).problems
    assert problem.startswith(f"{misspelt} is set, but read by nobody. Did you mean '{misspelt}S'")
    with pytest.raises(PluginError, match=misspelt):
        discover(point, **{misspelt: "acme", STRICT: "1"})
    assert discover(point, VTPRUNE_VERIFIED="x").problems == ()
