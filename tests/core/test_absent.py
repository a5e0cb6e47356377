"""What an unknown ``distribution/name`` is told."""

from __future__ import annotations

import pytest

from tests.core.conftest import WritePlugin
from tests.core.test_plugins import GOOD, HALF_WAY, discover
from vtprune.core.errors import UnknownNameError
from vtprune.core.plugins import Discovery


def said(found: Discovery, name: str, kind: str = "scorer") -> str:
    with pytest.raises(UnknownNameError) as caught:
        found.registry.entry(kind, name)
    text = str(caught.value)
    assert text.startswith(f"unknown {kind} {name!r}.")
    assert "Known: " in text
    return text


def test_a_distribution_that_is_not_installed() -> None:
    text = said(discover(), "acme-absent/entropy")
    assert (
        "a name of the distribution 'acme-absent', of which no plugin is installed here: `pip install acme-abs" in text
    )


def test_a_distribution_without_a_plugin() -> None:
    from importlib.metadata import version

    text = said(discover(), "numpy/entropy")
    assert f"a name of the distribution numpy {version('numpy')}, which is installed but has no plugin." in text
    assert "pip install" not in text


@pytest.mark.parametrize(
    ("source", "environment", "reason"),
    [
        (GOOD, {"VTPRUNE_DISABLE_PLUGINS": "acme"}, "is disabled: VTPRUNE_DISABLE_PLUGINS names it."),
        (GOOD, {"VTPRUNE_PLUGINS": ""}, "is disabled: VTPRUNE_PLUGINS does not name it."),
        (HALF_WAY, {}, "failed: RuntimeError: licence server is down. `vtprune plugins` shows more."),
        (f"VTPRUNE_API = 0\n{GOOD}", {}, "is incompatible: it was written for plugin API 0"),
    ],
)
def test_a_plugin_that_is_not_active(
    write_plugin: WritePlugin, source: str, environment: dict[str, str], reason: str
) -> None:
    text = said(discover(write_plugin("acme_it", source), **environment), "acme/entropy")
    assert f"It looks like a name of acme 1.2, which is installed, but its plugin 'plugin' {reason}" in text
    assert "pip install" not in text


def test_an_active_plugin_without_the_name(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD))
    text = said(found, "acme/entrpy")
    assert "acme 1.2 is installed and active, but it registers no such scorer." in text
    assert "Did you mean 'acme/entropy'?" in text
    assert "registers no such selector; as a scorer it is." in said(found, "acme/entropy", "selector")


def test_one_of_two_plugins_of_a_distribution_is_broken(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD), write_plugin("acme_bad", HALF_WAY, name="second"))
    text = said(found, "acme/other")
    assert "registers no such scorer. And plugin 'second' of acme 1.2 failed: RuntimeError: licence" in text


def test_another_spelling_of_the_distribution(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD, dist="acme-plug"))
    assert "Write 'acme-plug/entropy'" in said(found, "Acme_Plug/entropy")


def test_a_bare_name_that_distributions_have(write_plugin: WritePlugin) -> None:
    found = discover(write_plugin("acme_good", GOOD), write_plugin("other_good", GOOD, dist="other"))
    assert "'acme/entropy' and 'other/entropy' would be a scorer: write it in full." in said(found, "entropy")
    assert said(found, "no_such").startswith("unknown scorer 'no_such'. Known:")


@pytest.mark.parametrize("name", ["/entropy", "acme/more/entropy", "./entropy", "acme dist/entropy", "é/entropy"])
def test_what_cannot_be_a_distribution_is_not_taken_for_one(name: str) -> None:
    assert "distribution" not in said(discover(), name)


def test_vtprune_itself_is_no_third_party() -> None:
    assert "Write 'attention': vtprune's own names stand alone." in said(discover(), "vtprune/attention")
    assert "pip install" not in said(discover(), "vtprune/no_such")
