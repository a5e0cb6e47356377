"""A study made with a plugin: its results load and are reported where the plugin is not, and say what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.plugins.site import PACKAGES, Done, Site

STUDY: dict[str, Any] = {
    "name": "with-a-plugin",
    "models": ["testbed/nano"],
    "tasks": [{"name": "acme-good/squares", "count": 4}],
    "recipes": ["acme-good/lean"],
    "baselines": {"without": ["random", "uniform_grid", "downsample"]},
    "compare_to": "full",
    "batch_size": 2,
    "keep_indices": 2,
}
MADE = "acme-good 1.0 ("
READ = """
import json, sys
from vtprune.study.results import Results
from vtprune.study.statistics import summarise
results = Results.load(sys.argv[1])
print(json.dumps({
    "makers": [[m.distribution, m.version, [str(part) for part in m.parts]] for m in results.made_with],
    "missing": results.missing,
    "status": sorted(set(results.cells["status"])),
    "samples": json.loads(results.samples.to_json(orient="records")),
    "hashes": results.cells["recipe_hash"].tolist(),
    "accuracy": summarise(results).accuracy["accuracy"].tolist(),
    "groups": results.groups,
}))
"""


@pytest.fixture(scope="module")
def study(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study; its file lies beside its folder ``out``."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    done = run(site, folder, "good")
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="module")
def newer(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Where ``good`` is version 1.1, its scorer has another revision, and its reducer is gone."""
    copy = tmp_path_factory.mktemp("sources")
    shutil.copytree(PACKAGES / "good", copy / "good")
    project, components = copy / "good/pyproject.toml", copy / "good/acme_good/components.py"
    project.write_text(project.read_text().replace('version = "1.0"', 'version = "1.1"'))
    components.write_text(components.read_text().replace("revision: ClassVar[int] = 2", "revision: ClassVar[int] = 7"))
    hook = copy / "good/acme_good/__init__.py"
    hook.write_text("".join(line for line in hook.read_text().splitlines(True) if '"blur"' not in line))
    return Site(tmp_path_factory.mktemp("newer-site"), copy)


def run(site: Site, folder: Path, *packages: str) -> Done:
    arguments = ("study", "run", "study.yaml", "--out", "out", "--quiet")
    return site.vtprune(*arguments, packages=packages, cwd=folder)


def read(site: Site, folder: Path, *packages: str, **switches: str) -> dict[str, Any]:
    done = site.python(READ, folder / "out", packages=packages, switches=switches)
    assert done.code == 0, done.err
    found: dict[str, Any] = done.data
    return found


def copied(study: Path, folder: Path) -> Path:
    shutil.copytree(study, folder, dirs_exist_ok=True)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a study's folder but the report, by name."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("report/")}


def test_results_are_the_same_without_the_plugin(site: Site, study: Path) -> None:
    with_it, without = read(site, study, "good"), read(site, study)
    assert with_it.pop("missing") == []
    (sentence,) = without.pop("missing")
    assert without == with_it
    assert with_it["status"] == ["done"]
    assert len(with_it["samples"]) == 4 * len(with_it["hashes"])
    assert with_it["groups"] == {"acme-good/squares": {"temperature": ["warm", "cold"]}}
    makers = {name: (version, parts) for name, version, parts in with_it["makers"]}
    assert makers["acme-good"] == (
        "1.0",
        [
            "allocator acme-good/in_turn revision 1",
            "reducer acme-good/blur revision 1",
            "scorer acme-good/lean revision 2",
            "selector acme-good/middle revision 1",
            "task acme-good/squares revision 3",
        ],
    )
    assert set(makers) == {"vtprune", "acme-good"}
    assert "scorer random revision 1" in makers["vtprune"][1]
    assert sentence.startswith(f"results were made with {MADE}allocator acme-good/in_turn revision 1, ")
    assert sentence.endswith("which is not installed here; `pip install acme-good==1.0` to go on")


def test_a_plugin_that_does_not_work_is_told_from_one_that_is_absent(site: Site, study: Path) -> None:
    (sentence,) = read(site, study, "good", VTPRUNE_DISABLE_PLUGINS="acme-good")["missing"]
    assert "here it cannot be used: plugin 'acme' of acme-good 1.0 is disabled: VTPRUNE_DISABLE_PLUGINS" in sentence


def test_another_version_is_told(newer: Site, study: Path) -> None:
    (sentence,) = read(newer, study, "good")["missing"]
    assert sentence.startswith(f"results were made with {MADE}")
    assert "installed here is acme-good 1.1" in sentence
    assert "the scorer acme-good/lean is revision 7 here" in sentence
    assert "the reducer acme-good/blur is not there any more" in sentence


def test_the_report_is_written_without_the_plugin(site: Site, study: Path, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    before = content(folder / "out")
    done = site.vtprune("study", "report", folder / "out")
    assert done.code == 0, done.err
    assert content(folder / "out") == before
    notes = [line for line in done.err.splitlines() if line.startswith("note: ")]
    assert any(MADE in line and "which is not installed here" in line for line in notes)
    page, table = ((folder / "out/report" / name).read_text() for name in ("index.html", "table.md"))
    assert "<dt>Made with</dt><dd>acme-good 1.0 (allocator acme-good/in_turn revision 1" in page
    assert "which is not installed here" in page
    assert "no overlays, the task&#39;s images cannot be had" in page
    assert "Made with acme-good 1.0 (" in table
    assert "which is not installed here" in table
    made = (study / "out/report/index.html").read_text()  # where the plugin was
    assert "<dt>Made with</dt><dd>acme-good 1.0 (" in made
    assert "not installed here" not in made
    assert "no overlays" not in made


def test_resuming_without_the_plugin_is_refused_before_anything_runs(site: Site, study: Path, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    before = content(folder / "out")
    done = run(site, folder)
    assert done.code == 1
    assert "unknown task 'acme-good/squares'" in done.err
    assert "unknown recipe 'acme-good/lean'" in done.err
    assert done.err.count("no plugin is installed here: `pip install acme-good`") == 2
    assert "Traceback" not in done.err
    assert content(folder / "out") == before


def test_what_was_half_done_goes_on_when_the_plugin_is_back(site: Site, study: Path, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    plan = json.loads((folder / "out/plan.json").read_text())
    (cell,) = [cell["id"] for cell in plan["cells"] if cell["variant"]["label"] == "lean"]
    rows = folder / "out/cells" / f"{cell}.jsonl"
    whole = rows.read_bytes()
    rows.write_bytes(whole.splitlines(keepends=True)[0])  # one chunk of two
    assert run(site, folder, "good").code == 0
    assert rows.read_bytes() == whole


def test_another_version_runs_again_and_keeps_what_was_there(newer: Site, study: Path, tmp_path: Path) -> None:
    folder = copied(study, tmp_path)
    recipe = {"stages": [{"site": "projector.output", "scorer": {"name": "acme-good/lean", "inner": "random"}}]}
    recipe["stages"][0]["budget"] = 0.25
    file = yaml.safe_dump({**STUDY, "recipes": [{"recipe": recipe, "label": "lean"}]})
    (folder / "study.yaml").write_text(file)
    before = content(folder / "out")
    done = run(newer, folder, "good")
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "installed here is acme-good 1.1" in line]
    assert line.endswith("They stay in out; what depends on it is run again")
    after = content(folder / "out")
    cells = {name for name in before if name.startswith("cells/")}
    assert {name: after[name] for name in cells} == {name: before[name] for name in cells}
    plan = json.loads((folder / "out/plan.json").read_text())
    versions = [[cell["identity"]["task"]["version"] for cell in plan[key]] for key in ("cells", "earlier")]
    assert versions == [["1.1", "1.1"], ["1.0", "1.0"]]
