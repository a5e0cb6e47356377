"""The packages in ``examples/``, built and installed into a fresh environment, and used there."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.examples.fresh import EXAMPLES, PACKAGES, Fresh

COMPONENTS = {
    "vtprune-borrowed/value_attention": "scorer",
    "vtprune-borrowed/mmr": "selector",
    "vtprune-borrowed/shared_budget": "allocator",
    "vtprune-deepseek/soft_merge": "reducer",
}
RECIPES = ("vtprune-borrowed/value_aware_heads", "vtprune-borrowed/relevant_and_new")
STUDY = """
name: others
models: [testbed/nano]
tasks: [{name: testbed, scenes: 2}]
recipes:
  - vtprune-borrowed/value_aware_heads
  - {recipe: vtprune-borrowed/relevant_and_new, axes: {selector.relevance: [0.3, 1.0]}}
  - label: shared out
    recipe:
      stages:
        - site: projector.output
          selector: max_min
          reducer: {name: vtprune-deepseek/soft_merge, neighbours: 4}
          budget: 0.25
axes: {budget: [0.25]}
baselines: {without: [uniform_grid, downsample]}
limit: 8
batch_size: 8
"""
FAMILY = """
import json, torch, vtprune, warnings
from vtprune_deepseek.tiny import make

warnings.simplefilter("error", vtprune.UnverifiedWarning)
tiny = make()
stages = [{
    "site": "vision.output", "selector": "max_min", "budget": 0.25,
    "reducer": {"name": "vtprune-deepseek/soft_merge", "temperature": 0.2},
}]
with vtprune.prune(tiny.model, {"stages": stages}) as run, torch.no_grad():
    tiny.model.generate(**tiny.make_inputs((1, 2)), max_new_tokens=2)
counts = [[layout.vision, len(run.report.kept(0, sample))] for sample, layout in enumerate(run.report.layouts)]
print(json.dumps({"family": run.report.family, "counts": counts}))
"""
LOAD = """
import json
from vtprune.study.results import Results

results = Results.load("others")
print(json.dumps({
    "samples": len(results.samples),
    "scored": int(results.samples["score"].notna().sum()),
    "labels": sorted(set(results.cells["label"])),
    "made_with": [maker.distribution for maker in results.made_with],
    "missing": results.missing,
}))
"""


def last_line(printed: str) -> Any:
    return json.loads([line for line in printed.splitlines() if line.startswith("{")][-1])


def test_wheels_hold_the_packages_and_nothing_else(built: list[Path]) -> None:
    assert [wheel.name.split("-")[0] for wheel in built] == ["vtprune", "vtprune_borrowed", "vtprune_deepseek"]
    for wheel in built[1:]:
        package = wheel.name.split("-")[0]
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            info = next(name for name in names if name.endswith("METADATA"))
            assert "Requires-Dist: vtprune<0.2,>=0.1" in archive.read(info).decode()
        assert {name.split("/")[0] for name in names} == {package, f"{package}-0.1.0.dist-info"}
        assert f"{package}/plugin.py" in names
        source = EXAMPLES / package.replace("_", "-") / "src"
        recipes = {str(path.relative_to(source).as_posix()) for path in source.rglob("*.yaml")}
        assert recipes == {name for name in names if name.endswith(".yaml")}
        ledgers = {str(path.relative_to(source).as_posix()) for path in source.rglob("verified/*.json")}
        assert ledgers == {name for name in names if "/verified/" in name}
        assert bool(ledgers) == (package == "vtprune_deepseek")


def test_what_runs_is_what_was_installed(fresh: Fresh) -> None:
    for module in ("vtprune", "vtprune_borrowed", "vtprune_deepseek"):
        file = fresh.run("python", "-c", f"import {module}; print({module}.__file__)").strip()
        assert Path(file).is_relative_to(fresh.folder / "env")


def test_both_are_active_and_listed(fresh: Fresh) -> None:
    found = fresh.run("vtprune", "plugins")
    for package in PACKAGES:
        assert any(package in line and "active" in line for line in found.splitlines()), found
    listed = fresh.run("vtprune", "list")
    for name in (*COMPONENTS, *RECIPES, "vtprune-deepseek/deepseek_vl"):
        assert name in listed
    assert "vtprune-deepseek/deepseek_vl" in fresh.run("vtprune", "adapters", "list")


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_is_described(fresh: Fresh, name: str) -> None:
    """Also that it conforms, by the record in its wheel: after a change, `vtprune check DISTRIBUTION --record FILE`."""
    described = fresh.run("vtprune", "describe", name)
    for part in (name, COMPONENTS[name], f"{name.split('/')[0]} 0.1.0", " checks passed"):
        assert part in described, described


@pytest.mark.parametrize("module", ["vtprune_borrowed.plugin", "vtprune_deepseek.plugin"])
def test_registering_is_light(fresh: Fresh, module: str) -> None:
    code = f"import {module}, sys; print(sorted({{'torch', 'transformers', 'pydantic'}} & set(sys.modules)))"
    assert fresh.run("python", "-c", code).strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_component_conforms(fresh: Fresh, package: str) -> None:
    printed = fresh.run("vtprune", "check", package)
    for name in COMPONENTS:
        assert (name in printed) == name.startswith(f"{package}/"), printed


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_its_own_tests_pass(fresh: Fresh, package: str) -> None:
    tests = shutil.copytree(EXAMPLES / package, fresh.work / "tests" / package, ignore=lambda *_: ["src"])
    printed = fresh.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests))
    assert " passed" in printed


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "kept"), list(zip(RECIPES, (144 * 8 * 2, 144), strict=True)))
def test_a_recipe_runs_from_the_command_line(fresh: Fresh, recipe: str, kept: int) -> None:
    """A quarter of 576 tokens: in each of 8 layers and 2 KV heads, and once."""
    printed = fresh.run("vtprune", "run", "--recipe", recipe, "--max-new-tokens", "3", "--json")
    report = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])["report"]
    assert report["recipe"]["name"] == recipe.split("/")[1]
    (stage,) = report["stages"]
    assert stage["requested"] == stage["realised"] == kept


@pytest.mark.slow
def test_a_family_that_vtprune_does_not_know(fresh: Fresh) -> None:
    """It is not warned of either: the package ships what was verified."""
    found = last_line(fresh.run("python", "-W", "ignore", "-c", FAMILY))
    assert found == {"family": "vtprune-deepseek/deepseek_vl", "counts": [[16, 4], [32, 8]]}


@pytest.mark.slow
def test_a_family_is_verified_by_its_name(fresh: Fresh) -> None:
    cells = ("--family", "vtprune-deepseek/deepseek_vl", "--site", "projector.output", "--mode", "single")
    printed = fresh.run("vtprune", "verify", *cells, "--out", str(fresh.work / "verified.json"))
    assert ": 2 pass" in printed
    stored = json.loads((fresh.work / "verified.json").read_text())["variants"]["vtprune-deepseek/deepseek_vl"]
    assert {block["family"] for block in stored.values()} == {"vtprune-deepseek/deepseek_vl"}


@pytest.fixture(scope="module")
def study(fresh: Fresh) -> Path:
    """The folder of a finished study that uses components of both packages."""
    for needed in ("pandas", "pyarrow", "matplotlib", "scipy", "statsmodels", "jinja2", "sklearn"):
        pytest.importorskip(needed, reason="studies need the extra vtprune[study]")
    (fresh.work / "others.yaml").write_text(STUDY, encoding="utf-8")
    fresh.run("vtprune", "study", "run", "others.yaml", "--out", "others", "--quiet")
    return fresh.work / "others"


@pytest.mark.slow
def test_a_study(fresh: Fresh, study: Path) -> None:
    found = last_line(fresh.run("python", "-c", LOAD))
    labels = {"full", "random", "value_aware_heads", "relevant_and_new", "shared out"}
    assert labels <= set(found["labels"])
    assert found["samples"] == found["scored"] == 8 * 6
    assert found["made_with"] == ["vtprune", *PACKAGES]
    assert found["missing"] == []


@pytest.mark.slow
def test_results_outlive_the_package_that_made_them(built: list[Path], study: Path, tmp_path: Path) -> None:
    """Uninstalled, one package leaves the results readable, the other package working, and is named."""
    fresh = Fresh.make(tmp_path / "fresh", built)
    before = fresh.run("vtprune", "list")
    assert "Successfully uninstalled vtprune-borrowed" in fresh.pip("uninstall", "--yes", "vtprune-borrowed")
    shutil.copytree(study, fresh.work / "others")
    (fresh.work / "others.yaml").write_text(STUDY, encoding="utf-8")

    found = last_line(fresh.run("python", "-c", LOAD))
    assert found["samples"] == found["scored"] == 8 * 6
    assert found["made_with"] == ["vtprune", *PACKAGES]
    assert len(found["missing"]) == 1
    assert "vtprune-borrowed" in found["missing"][0]

    report = fresh.run("vtprune", "study", "report", "others")
    assert "vtprune-borrowed" in report
    assert (fresh.work / "others" / "report" / "index.html").is_file()

    listed = fresh.run("vtprune", "list")
    assert "vtprune-borrowed" in before
    assert "vtprune-borrowed" not in listed
    assert "vtprune-deepseek/soft_merge" in listed
    refused = fresh.run("vtprune", "run", "--recipe", "vtprune-borrowed/relevant_and_new", code=2)
    assert "`pip install vtprune-borrowed`" in refused
    refused = fresh.run("vtprune", "study", "plan", "others.yaml", code=1)
    assert "`pip install vtprune-borrowed`" in refused
