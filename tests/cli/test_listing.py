from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tests.cli.conftest import Install
from tests.cli.test_plugins import BROKEN, GOOD
from tests.core.conftest import WritePlugin
from vtprune.cli import app, listing
from vtprune.core import conformance
from vtprune.core.conformance import Status
from vtprune.core.plugins import registry
from vtprune.core.registry import KINDS, Registration

WIDE = {"COLUMNS": "200"}


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env=WIDE)
    return result.exit_code, result.stdout, result.stderr


def test_lists_every_name_with_its_summary() -> None:
    code, out, _ = run("list")
    assert code == 0
    for entry in registry().entries():
        assert any(
            line.split()[:2] == [entry.kind, entry.name] and entry.summary in line for line in out.splitlines()
        ), entry


@pytest.mark.parametrize("kind", ["scorers", "allocators", "selectors", "reducers", "adapters", "recipes"])
def test_one_kind_as_json_is_the_registry(kind: str) -> None:
    code, out, _ = run("list", kind, "--json")
    assert code == 0
    listed = json.loads(out)
    assert [entry["name"] for entry in listed] == registry().names(kind.removesuffix("s"))
    assert {entry["kind"] for entry in listed} == {kind.removesuffix("s")}
    assert set(listed[0]) == {
        "kind",
        "name",
        "target",
        "summary",
        "paper",
        "origin",
        "version",
        "module",
        "conformance",
    }


def test_unknown_kind_is_a_usage_error() -> None:
    code, out, err = run("list", "scorrers")
    assert code == 2
    assert not out
    assert "'scorrers' is no kind of what is registered. Did you mean 'scorers'" in err


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_may_be_written_in_the_singular(kind: str) -> None:
    assert run("list", kind, "--json") == run("list", f"{kind}s", "--json")


def test_messages_on_wrong_values_do_not_tell_of_pydantic() -> None:
    code, _, err = run("run", "--recipe", "fastv", "--dtype", "int8")
    assert code == 2
    assert "Invalid value for '--dtype': 'int8' is not one of 'auto'" in err


def test_several_kinds() -> None:
    _, out, _ = run("list", "recipes", "scorers", "--json")
    assert {entry["kind"] for entry in json.loads(out)} == {"scorer", "recipe"}


class TestThirdParties:
    @pytest.fixture(autouse=True)
    def _installed(self, install: Install, write_plugin: WritePlugin) -> None:
        install(
            write_plugin("cli_good", GOOD, dist="Acme_Good"),
            write_plugin("cli_broken", BROKEN, dist="acme-broken"),
        )

    def test_their_names_say_where_they_come_from(self) -> None:
        code, out, _ = run("list")
        assert code == 0
        (line,) = [line for line in out.splitlines() if " acme-good/entropy " in line]
        assert line.split()[0] == "scorer"
        assert "a scorer (from acme-good 1.2)" in line

    def test_those_of_one_distribution(self) -> None:
        _, out, _ = run("list", "--origin", "Acme.Good", "--json")
        assert {entry["name"] for entry in json.loads(out)} == {
            "acme-good/entropy",
            "acme-good/other",
            "acme-good/mine",
        }

    def test_a_broken_one_is_a_note_on_stderr(self) -> None:
        code, out, err = run("list", "--json")
        assert code == 0
        assert json.loads(out)
        (line,) = err.splitlines()
        assert "plugin 'plugin' of acme-broken 1.2 failed: RuntimeError: out of cheese; its names" in line
        assert "`vtprune plugins`" in line

    def test_those_of_another_distribution_are_not_troubled_by_it(self) -> None:
        assert run("list", "--origin", "acme-good")[2] == ""
        code, out, err = run("list", "--origin", "acme-broken", "--json")
        assert (code, json.loads(out)) == (0, [])
        assert "out of cheese" in err

    def test_an_unknown_distribution(self) -> None:
        code, out, err = run("list", "--origin", "acme-god")
        assert (code, out) == (2, "")
        assert "no installed plugin is of the distribution 'acme-god'. Did you mean 'acme-good'" in err


def test_a_paper_is_named() -> None:
    entry = Registration("scorer", "acme/entropy", "acme:Entropy", "entropy", "arXiv 1", "acme", "2.0")
    assert listing._line(entry) == "entropy (arXiv 1, from acme 2.0)"


def test_a_switch_that_names_nothing_is_a_note(
    install: Install, write_plugin: WritePlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTPRUNE_PLUGINS", "acme,nobody")
    install(write_plugin("cli_good", GOOD, dist="acme"))
    _, _, err = run("list")
    assert err.startswith("note: VTPRUNE_PLUGINS names 'nobody'")


def test_conformance_is_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"attention": "passed", "random": "failed", "negate": "stale"}

    def status(entry: Registration) -> Status:
        return Status(states.get(entry.name, "not checked"), "text")

    monkeypatch.setattr(conformance, "status", status)
    _, out, _ = run("list", "scorers")
    ends = {line.split()[1]: line.rstrip() for line in out.splitlines()}
    assert ends["name"].endswith("conformance")
    assert ends["attention"].endswith(" ok")
    assert ends["random"].endswith(" failed")
    assert ends["negate"].endswith(" stale")
    assert ends["product"].endswith(" not checked")
    _, out, _ = run("list", "scorers", "--json")
    assert {entry["name"]: entry["conformance"] for entry in json.loads(out)}["attention"] == "passed"
    _, out, _ = run("list", "recipes")
    assert "conformance" not in out


def test_version() -> None:
    import vtprune

    assert run("--version")[:2] == (0, f"vtprune {vtprune.__version__}\n")


def test_without_a_command_the_help_is_shown() -> None:
    code, out, err = run()
    assert code in (0, 2)
    assert "describe" in out + err


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "vtprune", "list", "reducers", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(run("list", "reducers", "--json")[1])
