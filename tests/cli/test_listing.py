from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from vtprune.cli import app, listing
from vtprune.core.plugins import PluginFailure, registry
from vtprune.core.registry import Registration

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
    assert set(listed[0]) == {"kind", "name", "target", "summary", "paper", "origin", "version"}


def test_unknown_kind_is_a_usage_error() -> None:
    code, out, err = run("list", "prompts")
    assert code == 2
    assert not out
    assert "scorers" in err


def test_a_third_party_and_its_paper_are_named() -> None:
    entry = Registration("scorer", "acme/entropy", "acme:Entropy", "entropy", "arXiv 1", "acme", "2.0")
    assert listing._line(entry) == "entropy (arXiv 1, from acme 2.0)"


def test_a_broken_plugin_is_a_note_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = PluginFailure("acme", "main", ImportError("no module named acme"))
    monkeypatch.setattr(listing, "failures", lambda: [failure])
    code, out, err = run("list", "--json")
    assert code == 0
    assert json.loads(out)
    assert "plugin 'main' of acme: ImportError: no module named acme" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "--json"],
        ["run", "--help"],
        ["describe", "plphp"],
        ["validate", "-h"],
    ],
    ids=" ".join,
)
def test_light_commands_import_neither_torch_nor_transformers(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vtprune.cli import main\n"
        f"sys.argv = ['vtprune', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.stdout


def test_version() -> None:
    import vtprune

    assert run("--version")[:2] == (0, f"vtprune {vtprune.__version__}\n")


def test_without_a_command_the_help_is_shown() -> None:
    code, out, err = run()
    assert code in (0, 2)
    assert "describe" in out + err
