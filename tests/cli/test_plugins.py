"""``vtprune plugins``: states, reasons, remarks, tracebacks, exit codes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import Install
from tests.core.conftest import WritePlugin
from vtprune import __version__
from vtprune.cli import app
from vtprune.core import plugins

GOOD = """
from vtprune.plugin import hookimpl
@hookimpl
def vtprune_register(registrar):
    registrar.add("scorer", "entropy", "json:dumps", summary="a scorer")
    registrar.add("scorer", "other", "json:loads", summary="a scorer")
    registrar.add("recipe", "mine", "json:mine.yaml", summary="a recipe")
"""
BROKEN = "def helper():\n    raise RuntimeError('out of cheese')\nhelper()\n"
ADAPTER = """
from vtprune.plugin import hookimpl
@hookimpl
def vtprune_register(registrar):
    registrar.add("adapter", "mine", "{0}_adapter:ADAPTER", summary="an adapter")
"""
WORDS = {"good": GOOD, "broken": BROKEN}


def run(*arguments: str, width: int = 160) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plugins", *arguments], env={"COLUMNS": str(width)})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def row(out: str, name: str) -> list[str]:
    """The words of a distribution's line in the table."""
    (line,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
    return line.split()


def test_the_built_ins_are_a_plugin_like_the_others(install: Install) -> None:
    install()
    code, out, err = run()
    assert (code, err) == (0, "")
    assert row(out, "vtprune")[:4] == ["vtprune", __version__, "active", "11"]
    assert "11 scorers, 3 allocators" in out
    assert len(out.splitlines()) == 2


def test_one_of_each_state(install: Install, write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VTPRUNE_DISABLE_PLUGINS", "Acme_Off, nobody")
    install(
        write_plugin("cli_good", GOOD, dist="acme-good"),
        write_plugin("cli_broken", BROKEN, dist="acme-broken"),
        write_plugin("cli_off", BROKEN, dist="acme-off"),
        write_plugin("cli_old", f"VTPRUNE_API = 0\n{GOOD}", dist="acme-old"),
    )
    code, out, err = run()
    assert code == 0
    assert row(out, "acme-good")[1:] == ["1.2", "active", "2", "scorers,", "1", "recipe"]
    assert "failed RuntimeError: out of cheese" in " ".join(row(out, "acme-broken"))
    assert "incompatible it was written for plugin API 0" in " ".join(row(out, "acme-old"))
    assert "disabled VTPRUNE_DISABLE_PLUGINS names it" in " ".join(row(out, "acme-off"))
    assert "- VTPRUNE_DISABLE_PLUGINS names 'nobody', but no plugin of that distribution is installed" in out
    assert "--traceback" in err


def test_json_has_everything(install: Install, write_plugin: WritePlugin) -> None:
    install(write_plugin("cli_good", GOOD, dist="acme-good"), write_plugin("cli_broken", BROKEN, dist="acme-broken"))
    code, out, _ = run("--json")
    assert code == 0
    built_in, broken, good = json.loads(out)["plugins"]
    assert built_in["distribution"] == "vtprune"
    assert good["names"] == {"scorer": ["acme-good/entropy", "acme-good/other"], "recipe": ["acme-good/mine"]}
    assert good["seconds"] > 0
    assert (good["state"], good["module"], good["entry_point"]) == ("active", "cli_good", "plugin")
    assert broken["state"] == "failed"
    assert broken["reason"] == "RuntimeError: out of cheese"


def test_two_entry_points_of_one_distribution_are_told_apart(install: Install, write_plugin: WritePlugin) -> None:
    install(
        write_plugin("cli_good", GOOD, dist="acme", name="one"),
        write_plugin("cli_broken", BROKEN, dist="acme", name="two"),
    )
    _, out, _ = run()
    assert row(out, "acme:one")[2] == "active"
    assert row(out, "acme:two")[2] == "failed"


class TestTraceback:
    def test_it_is_that_of_the_plugin(self, install: Install, write_plugin: WritePlugin) -> None:
        install(write_plugin("cli_broken", BROKEN, dist="acme-broken"))
        code, out, _ = run("--traceback", "Acme.Broken")
        assert code == 0
        assert out.startswith("Traceback (most recent call last):")
        assert 'cli_broken.py", line 3, in <module>' in out
        assert out.endswith("RuntimeError: out of cheese\n")

    def test_of_one_that_works(self, install: Install, write_plugin: WritePlugin) -> None:
        install(write_plugin("cli_good", GOOD, dist="acme-good"))
        code, out, err = run("--traceback", "acme-good")
        assert (code, out) == (1, "")
        assert "plugin 'plugin' of acme-good 1.2 is active; it has no traceback" in err

    def test_of_one_that_is_not_there(self, install: Install, write_plugin: WritePlugin) -> None:
        install(write_plugin("cli_good", GOOD, dist="acme-good"))
        code, out, err = run("--traceback", "acme-god")
        assert (code, out) == (2, "")
        assert "no installed plugin is of the distribution 'acme-god'. Did you mean 'acme-good'" in err


class TestStrict:
    @pytest.mark.parametrize("kind", WORDS)
    def test_the_table_is_shown_all_the_same(
        self, install: Install, write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        install(write_plugin("cli_plugin", WORDS[kind], dist="acme"))
        monkeypatch.setenv("VTPRUNE_STRICT_PLUGINS", "1")
        code, out, err = run()
        assert row(out, "acme")[2] == ("active" if kind == "good" else "failed")
        assert code == (0 if kind == "good" else 1)
        assert ("VTPRUNE_STRICT_PLUGINS is set" in err) == (kind == "broken")

    def test_a_switch_that_names_nothing(self, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
        install()
        monkeypatch.setenv("VTPRUNE_STRICT_PLUGINS", "1")
        monkeypatch.setenv("VTPRUNE_PLUGINS", "nobody")
        code, out, _ = run()
        assert code == 1
        assert "VTPRUNE_PLUGINS names 'nobody'" in out


class TestRemarks:
    def test_a_heavy_import(self, install: Install, write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
            monkeypatch.delitem(sys.modules, name)
        write_plugin("sklearn", "")
        install(write_plugin("cli_heavy", f"import sklearn\n{GOOD}", dist="acme"))
        sys.modules.pop("cli_heavy", None)
        sys.modules.pop("sklearn", None)
        _, out, _ = run(width=400)
        assert "- acme 1.2: cli_heavy imports sklearn to register its names" in out
        assert "move the import into the component's module" in out

    @pytest.mark.parametrize(("seconds", "slow"), [(0.09, False), (0.11, True)])
    def test_a_slow_one(
        self, install: Install, write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch, seconds: float, slow: bool
    ) -> None:
        found = install(write_plugin("cli_slow", GOOD, dist="acme"))
        timed = tuple(replace(plugin, seconds=seconds) for plugin in found.plugins)
        monkeypatch.setattr(plugins, "discover", lambda environment=None: replace(found, plugins=timed))
        _, out, _ = run(width=400)
        remarks = [line for line in out.splitlines() if line.startswith("- ")]
        assert [remark.partition(" s to")[0] for remark in remarks] == ["- acme 1.2: cli_slow takes 0.11"] * slow

    def test_one_that_registers_nothing(self, install: Install, write_plugin: WritePlugin) -> None:
        install(write_plugin("cli_none", GOOD.partition("    registrar.add")[0] + "    pass\n", dist="acme"))
        _, out, _ = run(width=400)
        assert row(out, "acme")[-1] == "nothing"
        assert "- acme 1.2: cli_none registers nothing" in out

    @pytest.mark.parametrize(
        ("stated", "shadowed"),
        [
            ("architectures=('LlavaForConditionalGeneration',)", True),
            ("architectures=('LlavaForConditionalGeneration',), tower_types=('pixtral',)", True),
            ("architectures=('LlavaForConditionalGeneration',), tower_types=('another',)", False),
            ("architectures=('Unheard', 'OfForConditionalGeneration')", False),
        ],
    )
    def test_an_adapter_behind_a_built_in_one(
        self, install: Install, write_plugin: WritePlugin, stated: str, shadowed: bool
    ) -> None:
        write_plugin("cli_acme_adapter", f"from vtprune.plugin import Adapter\nADAPTER = Adapter(name='x', {stated})\n")
        install(write_plugin("cli_acme", ADAPTER.format("cli_acme"), dist="acme"))
        _, out, _ = run(width=400)
        assert ("adapter acme/mine claims LlavaForConditionalGeneration" in out) is shadowed
        if shadowed:
            built_in = "pixtral" if "pixtral" in stated else "llava"
            assert f"the built-in '{built_in}' stays in force" in out
            assert f"`replace: {{{built_in}: acme/mine}}`" in out
        assert "cli_acme_adapter" not in sys.modules

    def test_two_third_parties_for_one_class(self, install: Install, write_plugin: WritePlugin) -> None:
        for name in ("cli_acme", "cli_rival"):
            source = "from vtprune.plugin import Adapter\nADAPTER = Adapter(name='x', architectures=('Unheard',))\n"
            write_plugin(f"{name}_adapter", source)
        install(
            write_plugin("cli_acme", ADAPTER.format("cli_acme"), dist="acme"),
            write_plugin("cli_rival", ADAPTER.format("cli_rival"), dist="rival"),
        )
        _, out, _ = run(width=400)
        assert "- Unheard: claimed by adapter acme/mine of acme 1.2 and by rival/mine of rival 1.2" in out

    def test_an_adapter_whose_classes_are_worked_out(self, install: Install, write_plugin: WritePlugin) -> None:
        source = "from vtprune.plugin import Adapter\nADAPTER = Adapter(name='x', architectures=names())\n"
        write_plugin("cli_acme_adapter", source)
        install(write_plugin("cli_acme", ADAPTER.format("cli_acme"), dist="acme"))
        _, out, _ = run(width=400)
        assert "- adapter acme/mine: which model classes it claims cannot be told without importing it" in out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_word_is_lost_in_a_narrow_terminal(install: Install, write_plugin: WritePlugin, width: int) -> None:
    reason = "raise RuntimeError('a rather long reason ' + 'x' * 100)"
    install(write_plugin("cli_broken", reason, dist="acme-broken"))
    _, out, _ = run(width=width)
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    assert out.count("x") >= 100
