"""What makes light commands light: what they do not import. The seconds are measured by benchmarks/cli.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "numpy", "PIL", "pandas", "einops", "matplotlib", "scipy"}
COMMANDS = [
    ["--help"],
    ["--version"],
    ["list"],
    ["list", "scorers", "--json"],
    ["plugins"],
    ["describe", "attention"],
    ["describe", "testbed"],
    ["describe", "llava"],
    ["describe", "plphp"],
    ["validate", "--help"],
    ["run", "--help"],
    ["check", "--help"],
    ["verify", "--help"],
    ["study", "run", "--help"],
    ["study", "--help"],
    ["study", "list"],
    ["study", "show", "quickstart"],
    ["adapters", "list"],
]
# typer imports pydantic by itself to convert arguments, so who asks for pydantic matters, not whether it is there.
WATCH = """
import json, sys

class Watch:
    asked = []
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            frame = sys._getframe(1)
            while frame.f_globals.get("__name__", "").startswith("importlib"):
                frame = frame.f_back
            self.asked.append(frame.f_globals["__name__"])

sys.meta_path.insert(0, Watch())
from vtprune.cli import main
sys.argv = ["vtprune", *json.loads(sys.argv[1])]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code
print(json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules}), Watch.asked]), file=sys.stderr)
"""


def watched(arguments: list[str], cwd: Path) -> tuple[int, set[str], list[str], str]:
    """Exit code, packages imported at the end, modules that imported pydantic, and standard output."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(arguments)], capture_output=True, text=True, check=True, cwd=cwd
    )
    code, packages, asked = json.loads(done.stderr.splitlines()[-1])
    return code or 0, set(packages), asked, done.stdout


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code, packages, asked, out = watched(arguments, tmp_path)
    assert code == 0
    assert out
    assert not packages & HEAVY
    assert all(name.partition(".")[0] == "typer" for name in asked), asked


def test_live_imports_what_the_light_form_does_not(tmp_path: Path) -> None:
    code, packages, asked, _ = watched(["describe", "attention", "--live"], tmp_path)
    assert code == 0
    assert {"torch", "einops"} <= packages, "the watch sees what is imported"
    assert asked


def test_the_version_needs_neither_plugins_nor_tables(tmp_path: Path) -> None:
    _, packages, _, _ = watched(["--version"], tmp_path)
    assert "rich" not in packages
    assert "pydantic" not in packages


def test_importing_vtprune_imports_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import vtprune; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert not packages & {*HEAVY, "pluggy", "pydantic", "rich", "yaml", "email"}
