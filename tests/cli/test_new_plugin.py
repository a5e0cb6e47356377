"""``vtprune new-plugin``: what it writes passes its own tests, the linters and the loader, as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vtprune
from vtprune.cli import app
from vtprune.core.errors import PluginError
from vtprune.scaffold import place as placing
from vtprune.scaffold.names import LONGEST, Names, canonical, resolve
from vtprune.scaffold.place import place
from vtprune.scaffold.render import PARTS, render, requirement

ROOT = Path(__file__).resolve().parent.parent.parent
VTPRUNE = [sys.executable, "-c", "from vtprune.cli import main; main()"]
ALL = tuple(PARTS)
LONG = "a" + "-long" * 7 + "-nam"


def new_plugin(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["new-plugin", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def run(command: Sequence[str | Path], folder: Path, path: Sequence[Path] = ()) -> str:
    """Output of a command that has to succeed, with ``path`` importable and every broken plugin an error."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])),
        "VTPRUNE_STRICT_PLUGINS": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def install(project: Path, target: Path) -> Path:
    """Build a package into a wheel and unpack that, without an index."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "--target", target, project], project)
    return target


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as the command writes it by default."""
    folder = tmp_path_factory.mktemp("default")
    code, _, err = new_plugin("acme-vtprune-Tools", "--into", folder)
    assert (code, err) == (0, "note: 'acme-vtprune-Tools' is called 'acme-vtprune-tools' by every index, and here\n")
    return folder / "acme-vtprune-tools"


@pytest.fixture(scope="module")
def site(project: Path) -> Path:
    """The package, built and installed."""
    return install(project, project.parent / "site")


def test_its_own_tests_pass_as_generated(project: Path, site: Path) -> None:
    output = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], project, [site])
    assert " passed" in output
    assert not {"skipped", "failed", "xpassed", "warning"} & set(output.replace(",", " ").split())
    verbose = run([sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"], project, [site])
    for component in ("HeadEntropy()", "Peaks()"):
        assert sum(f"[{component}-" in line for line in verbose.splitlines()) >= 10, component
    assert "::test_recipe\n" in verbose


def test_the_tests_notice_a_broken_component(project: Path, site: Path, tmp_path: Path) -> None:
    """Or they would pass whatever the author writes."""
    broken = shutil.copytree(project, tmp_path / "project")
    module = broken / "acme_vtprune_tools" / "selector.py"
    source = module.read_text()
    module.write_text(source.replace("candidates.counts.to", "(candidates.counts - 1).to"))
    assert module.read_text() != source
    command = [sys.executable, "-m", "pytest", "-q", "-k", "Peaks and count", "-p", "no:cacheprovider"]
    assert " passed" in run(command, project, [site])
    with pytest.raises(AssertionError, match=r"FAILED tests/test_conformance\.py.*Peaks.*counts_are_exact"):
        run(command, broken, [site])


def test_the_commands_know_it(project: Path, site: Path, tmp_path: Path) -> None:
    entries = json.loads(run([*VTPRUNE, "list", "--json"], tmp_path, [site]))
    ours = {(entry["kind"], entry["name"]) for entry in entries if entry["origin"] == "acme-vtprune-tools"}
    assert ours == {
        ("scorer", "acme-vtprune-tools/head_entropy"),
        ("selector", "acme-vtprune-tools/peaks"),
        ("recipe", "acme-vtprune-tools/acme-vtprune-tools"),
    }
    assert "threshold" in run([*VTPRUNE, "describe", "acme-vtprune-tools/peaks"], tmp_path, [site])
    checked = json.loads(run([*VTPRUNE, "check", "acme-vtprune-tools", "--fast", "--json"], tmp_path, [site]))
    assert [found["name"] for found in checked] == ["acme-vtprune-tools/head_entropy", "acme-vtprune-tools/peaks"]
    assert all(len(found["outcomes"]) >= 20 and not found["fault"] for found in checked)
    assert {o["status"] for found in checked for o in found["outcomes"]} == {"passed", "not applicable"}
    (plugin,) = [
        found
        for found in json.loads(run([*VTPRUNE, "plugins", "--json"], tmp_path, [site]))["plugins"]
        if found["distribution"] == "acme-vtprune-tools"
    ]
    assert (plugin["state"], plugin["heavy"]) == ("active", [])
    assert set(plugin["requires"].split(",")) == set(requirement(vtprune.__version__).split(","))


def test_its_recipe_runs_on_the_embedded_model(site: Path, tmp_path: Path) -> None:
    recipe = "acme-vtprune-tools/acme-vtprune-tools"
    output = run([*VTPRUNE, "run", "--recipe", recipe, "--max-new-tokens", "2", "--json"], tmp_path, [site])
    (stage,) = json.loads(output)["report"]["stages"]
    (event,) = stage["events"]
    assert (event["requested"], event["realised"]) == (144, 144)


def test_the_next_steps_are_commands_that_exist(tmp_path: Path) -> None:
    code, out, _ = new_plugin("acme-tools", "--into", tmp_path)
    assert code == 0
    steps = out.partition("Next:\n")[2].splitlines()
    assert steps[0].strip() == f"cd {tmp_path / 'acme-tools'}"
    known = {command.name for command in app.registered_commands}
    used = [line.split()[1] for line in steps if line.strip().startswith("vtprune ")]
    assert used == ["check", "describe", "run"]
    assert set(used) <= known


@pytest.mark.parametrize("name", ["acme", LONG])
@pytest.mark.parametrize("kinds", [ALL, ("scorer", "selector"), *[(kind,) for kind in ALL]], ids="+".join)
def test_linters_have_nothing_to_say(name: str, kinds: tuple[str, ...], tmp_path: Path) -> None:
    ruff = shutil.which("ruff", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if ruff is None:
        pytest.skip("ruff is not installed")
    place(render(resolve(name), kinds, vtprune.__version__, 1), tmp_path / name)
    run([ruff, "check", "--no-cache", "."], tmp_path / name)
    run([ruff, "format", "--no-cache", "--check", "--diff", "."], tmp_path / name)


@pytest.mark.slow
def test_types_are_right(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    place(render(Names("acme", "acme_things"), ALL, vtprune.__version__, 1), tmp_path)
    run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", ".mypy", "acme_things", "tests"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [ALL, ("allocator",), ("reducer",)], ids="+".join)
def test_other_kinds_pass_their_tests(kinds: tuple[str, ...], tmp_path: Path) -> None:
    place(render(Names("acme", "acme_things"), kinds, vtprune.__version__, 1), tmp_path / "acme")
    site = install(tmp_path / "acme", tmp_path / "site")
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], tmp_path / "acme", [site])


def test_the_package_asks_for_compatible_versions_and_says_its_api() -> None:
    files = render(Names("acme", "acme"), ("scorer",), "0.1.4", 7)
    assert tomllib.loads(files["pyproject.toml"])["project"]["dependencies"] == ["vtprune>=0.1,<0.2"]
    assert "VTPRUNE_API = 7\n" in files["acme/plugin.py"]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.1.0", ">=0.1,<0.2"), ("1.3.2", ">=1.3,<2"), ("0.2.0.dev1", ">=0.2.0.dev1,<0.3"), ("0.9", ">=0.9,<0.10")],
)
def test_requirement(version: str, expected: str) -> None:
    assert requirement(version) == expected


@pytest.mark.parametrize(
    ("name", "module", "short"),
    [
        ("vtprune-entropy", "vtprune_entropy", "entropy"),
        ("Acme.Tools_2", "acme_tools_2", "acme-tools-2"),
        ("vtprune-3d", "vtprune_3d", "vtprune_3d"),
    ],
)
def test_names(name: str, module: str, short: str) -> None:
    found = resolve(name)
    assert (found.distribution, found.module, found.short) == (canonical(name), module, short)


@pytest.mark.parametrize(
    ("name", "package", "message"),
    [
        ("a b", None, "PEP 508.*'a-b'"),
        ("-acme", None, "PEP 508.*'acme'"),
        ("", None, "PEP 508"),
        ("acme/../x", None, "PEP 508"),
        ("VTprune", None, "vtprune itself"),
        ("torch", None, r"distribution 'torch' is already installed"),
        ("3d", None, "'3d' cannot be imported.*--package"),
        ("acme", "acme-tools", "'acme-tools' cannot be imported.*another one"),
        ("json", None, "standard library"),
        ("class", None, "word of Python"),
        ("tests", None, "the new package"),
        ("acme", "torch", "module 'torch' is already installed"),
        ("a" * (LONGEST + 1), None, f"{LONGEST} at most"),
    ],
)
def test_names_that_cannot_be(name: str, package: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=message):
        resolve(name, package)
    options = ["--package", package] if package else []
    code, out, err = new_plugin("--into", tmp_path, *options, "--", name)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_distribution_may_be_written_again_over_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed editable, its module is found in the very folder."""
    assert new_plugin("acme-again", "--into", tmp_path)[0] == 0
    monkeypatch.syspath_prepend(tmp_path / "acme-again")
    code, _, err = new_plugin("acme-again", "--into", tmp_path)
    assert code == 1
    assert "'acme_again' is already installed" in err
    assert new_plugin("acme-again", "--into", tmp_path, "--force")[0] == 0


def test_a_folder_is_not_overwritten_without_force(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "README.md").write_text("mine")
    (tmp_path / "acme" / "notes.txt").write_text("mine too")
    code, out, err = new_plugin("acme", "--into", tmp_path)
    assert (code, out) == (1, "")
    assert "is not empty" in err
    assert "--force" in err
    assert contents(tmp_path) == {"acme/README.md": "mine", "acme/notes.txt": "mine too"}
    code, _, err = new_plugin("acme", "--into", tmp_path, "--force")
    assert (code, err) == (0, f"note: replaced {tmp_path / 'acme' / 'README.md'}\n")
    found = contents(tmp_path)
    assert found["acme/README.md"].startswith("# acme\n")
    assert found["acme/notes.txt"] == "mine too"


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    assert new_plugin("acme", "--into", tmp_path)[0] == 0


@pytest.mark.parametrize("blocker", ["file", "link", "no parent"])
def test_places_where_no_folder_can_be(blocker: str, tmp_path: Path) -> None:
    into = tmp_path
    if blocker == "file":
        (tmp_path / "acme").write_text("a file")
    elif blocker == "link":
        (tmp_path / "acme").symlink_to(tmp_path / "nowhere")
    else:
        into = tmp_path / "none"
    before = contents(tmp_path)
    code, _, err = new_plugin("acme", "--into", into, "--force")
    assert code == 1
    assert ("is no folder" if blocker != "no parent" else "make it first") in err
    assert contents(tmp_path) == before


def contents(folder: Path) -> Mapping[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


FILES = {"a.txt": "new a", "deep/er/b.txt": "new b", "z.txt": "new z"}


def test_a_failure_leaves_no_new_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="name"):
        place({**FILES, "x" * 300: "a name that no file system takes"}, tmp_path / "acme")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fails_at", range(5))
def test_a_failure_leaves_an_old_folder_as_it_was(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five files are moved: two of the old out of the way, three of the new into the folder."""
    folder = tmp_path / "acme"
    folder.mkdir()
    (folder / "a.txt").write_text("old a")
    (folder / "z.txt").write_text("old z")
    (folder / "other.txt").write_text("other")
    before = contents(tmp_path)
    moves = 0
    replace = os.replace

    def failing(source: Path, target: Path) -> None:
        nonlocal moves
        moves += 1
        if moves > fails_at:
            raise OSError("the disk is full")
        replace(source, target)

    monkeypatch.setattr(placing.os, "replace", failing)
    with pytest.raises(OSError, match="disk is full"):
        place(FILES, folder, force=True)
    assert contents(tmp_path) == before
    assert not (folder / "deep").exists()
    monkeypatch.setattr(placing.os, "replace", replace)
    assert place(FILES, folder, force=True) == [folder / "a.txt", folder / "z.txt"]
    assert contents(folder) == {**FILES, "other.txt": "other"}


def test_a_folder_in_the_place_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "acme" / "a.txt").mkdir(parents=True)
    with pytest.raises(PluginError, match="is a folder where the package has a file"):
        place(FILES, tmp_path / "acme", force=True)
    assert [path.name for path in (tmp_path / "acme").iterdir()] == ["a.txt"]
