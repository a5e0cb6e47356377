"""Recipes with a plugin's components: nothing is lost on the way, and a missing plugin is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.site import Site

STAGE: dict[str, Any] = {
    "site": "projector.output",
    "scorer": {
        "name": "acme-good/lean",
        "inner": {
            "name": "weighted_sum",
            "scorers": [
                {"name": "acme-good/lean", "inner": {"name": "random", "seed": 5}, "lean": -0.25, "norms": [1.5]},
                {"name": "key_norm", "p": 3.0},
            ],
            "weights": [0.75, 0.25],
        },
        "lean": 1.25,
        "norms": [1.0, 4.0],
        "keep": "low",
    },
    "allocator": {"name": "acme-good/in_turn", "order": "last"},
    "selector": {"name": "acme-good/middle", "at": 0.75},
    "reducer": {"name": "acme-good/blur", "share": 0.375},
    "budget": 0.25,
}
"""Every parameter of the package differs from its default, also those of the components inside."""
ROUND_TRIP = """
import json, sys
import yaml
from vtprune import Recipe
from vtprune.core.spec import build, dump

first = Recipe.parse(json.loads(sys.argv[1]))
again = [Recipe.parse(yaml.safe_load(first.to_yaml())), Recipe.parse(json.loads(json.dumps(first.to_dict())))]
task = build("task", {"name": "acme-good/squares", "count": 3, "colours": ["green"], "side": 28})
print(json.dumps({
    "stage": first.to_dict()["stages"][0],
    "equal": [other == first and other.hash == first.hash for other in again],
    "types": [type(part).__name__ for stage in first.stages for part in (stage.scorer, stage.scorer.inner.scorers[0])],
    "hash": first.hash,
    "task": [dump(task), build("task", dump(task)) == task],
    "yaml": first.to_yaml(),
}))
"""
PLACES = [
    ("scorer", "lean"),
    ("scorer", "norms"),
    ("scorer", "keep"),
    ("scorer", "inner", "scorers", 0, "lean"),
    ("scorer", "inner", "scorers", 0, "norms"),
    ("scorer", "inner", "scorers", 0, "inner", "seed"),
    ("allocator", "order"),
    ("selector", "at"),
    ("reducer", "share"),
]
OTHER = {"lean": 9.0, "norms": [7.0], "keep": "high", "seed": 11, "order": "first", "at": 0.125, "share": 0.5}


def at(data: Any, place: tuple[str | int, ...]) -> Any:
    for step in place:
        data = data[step]
    return data


def round_trip(site: Site, stage: dict[str, Any]) -> dict[str, Any]:
    done = site.python(ROUND_TRIP, json.dumps({"stages": [stage]}), packages=["good"])
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_every_parameter_survives(site: Site) -> None:
    found = round_trip(site, STAGE)
    assert found["equal"] == [True, True]
    assert found["types"] == ["Lean", "Lean"]
    for part in ("allocator", "selector", "reducer"):
        assert found["stage"][part] == STAGE[part]
    for place in PLACES:
        assert at(found["stage"], place) == at(STAGE, place), place
    task, same = found["task"]
    assert same
    assert (task["name"], task["count"], task["colours"], task["side"]) == ("acme-good/squares", 3, ["green"], 28)


def test_every_parameter_is_in_the_hash(site: Site) -> None:
    """One process for all of them: each changed parameter gives another hash."""
    stages = [STAGE]
    for place in PLACES:
        changed = json.loads(json.dumps(STAGE))
        at(changed, place[:-1])[place[-1]] = OTHER[str(place[-1])]
        stages.append(changed)
    code = "import json, sys\nfrom vtprune import Recipe\n"
    code += "print(json.dumps([Recipe.parse({'stages': [stage]}).hash for stage in json.loads(sys.argv[1])]))"
    hashes = site.python(code, json.dumps(stages), packages=["good"]).data
    assert len(set(hashes)) == len(stages)


def test_the_same_hash_whatever_else_is_installed(site: Site) -> None:
    code = "from vtprune import Recipe; print(Recipe.load('acme-good/lean').hash)"
    alone = site.python(code, packages=["good"])
    crowded = site.python(code, packages=["llava", "half_way", "good", "broken_import"])
    assert alone.out == crowded.out != ""


@pytest.fixture(scope="module")
def written(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with the plugin's components, as a file."""
    path = tmp_path_factory.mktemp("recipes") / "mine.yaml"
    path.write_text(round_trip(site, STAGE)["yaml"])
    return path


def test_the_file_is_a_recipe_where_the_plugin_is(site: Site, written: Path) -> None:
    done = site.vtprune("validate", written, packages=["good"])
    assert done.code == 0
    assert "is valid" in done.out


def test_without_the_plugin_every_missing_name_is_named(site: Site, written: Path) -> None:
    done = site.vtprune("validate", written)
    assert done.code == 1
    lines = [line for line in done.err.splitlines() if line.startswith("  - ")]
    found = {line.split(":")[0].strip(" -"): line for line in lines}
    for place, name in (("scorer", "lean"), ("allocator", "in_turn"), ("selector", "middle"), ("reducer", "blur")):
        line = found[f"stages[0].{place}"]
        assert f"unknown {place} 'acme-good/{name}'" in line
        assert "the distribution 'acme-good', of which no plugin is installed here: `pip install acme-good`" in line
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"VTPRUNE_DISABLE_PLUGINS": "acme-good"}, "'acme' is disabled: VTPRUNE_DISABLE_PLUGINS names it"),
        ({"VTPRUNE_PLUGINS": ""}, "'acme' is disabled: VTPRUNE_PLUGINS does not name it"),
    ],
)
def test_a_plugin_that_is_switched_off_is_told_from_one_that_is_absent(
    site: Site, written: Path, switches: dict[str, str], said: str
) -> None:
    done = site.vtprune("validate", written, packages=["good"], switches=switches)
    assert done.code == 1
    assert f"acme-good 1.0, which is installed, but its plugin {said}" in done.err
    assert "pip install" not in done.err


@pytest.mark.parametrize(
    ("package", "name", "said"),
    [
        ("half_way", "acme-half-way/one", "'acme' failed: KeyError: 'three'. `vtprune plugins` shows more."),
        ("old_api", "acme-old-api/one", "'acme' is incompatible: it was written for plugin API -1 to 0"),
        ("too_new_vtprune", "acme-too-new-vtprune/one", "'acme' is incompatible: acme-too-new-vtprune 1.0 asks for"),
    ],
)
def test_the_reason_of_a_plugin_that_does_not_work(
    site: Site, tmp_path: Path, package: str, name: str, said: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stages: [{{site: projector.output, scorer: {name}, budget: 0.5}}]")
    done = site.vtprune("validate", recipe, packages=["good", package])
    assert done.code == 1
    assert f"unknown scorer '{name}'" in done.err
    assert f"which is installed, but its plugin {said}" in done.err
