from __future__ import annotations

import copy

import pytest

from vtprune.core.errors import RecipeError
from vtprune.core.overrides import RECIPE_FIELDS, STAGE_FIELDS, apply_overrides, read_assignment
from vtprune.core.recipe import Recipe, Stage

ONE = {"name": "one", "stages": [{"site": "llm.layers[2]", "scorer": {"name": "attention"}, "budget": 0.5}]}
TWO = {"stages": [{"site": "projector.output", "budget": 0.5}, {"site": "llm.layers[2]", "budget": 0.25}]}


def changed(data: dict, **overrides: object) -> dict:
    return apply_overrides(data, overrides, "test")


@pytest.mark.parametrize(
    "path", ["stages.0.budget", "stages__0__budget", "stages.0__budget", "budget", "stages.-1.budget"]
)
def test_the_ways_to_write_a_path(path):
    assert changed(ONE, **{path: 0.125})["stages"][0]["budget"] == 0.125


def test_a_field_of_the_only_stage_may_be_named_alone():
    assert changed(ONE, scorer__query="text")["stages"][0]["scorer"] == {"name": "attention", "query": "text"}


def test_several_at_once():
    data = changed(TWO, **{"stages.0.budget": 0.1, "stages.1.scope": "image", "name": "new"})
    assert data["stages"][0]["budget"] == 0.1
    assert data["stages"][1]["scope"] == "image"
    assert data["name"] == "new"


def test_a_component_written_as_a_name_takes_parameters():
    data = {"stages": [{"site": "llm.layers[2]", "scorer": "attention"}]}
    assert changed(data, **{"scorer.query": "text"})["stages"][0]["scorer"] == {"name": "attention", "query": "text"}


def test_a_component_is_replaced_whole():
    assert changed(ONE, scorer={"name": "random", "seed": 1})["stages"][0]["scorer"] == {"name": "random", "seed": 1}


def test_tuples_and_nested_lists_are_reached():
    data = {"stages": ({"site": "llm.layers[2]", "scorer": {"name": "weighted_sum", "scorers": ["random", "random"]}},)}
    changed_data = changed(data, **{"stages.0.scorer.scorers.1": "uniform_grid"})
    assert changed_data["stages"][0]["scorer"]["scorers"] == ["random", "uniform_grid"]


def test_integer_keys_are_reached():
    table = {"name": "schedule", "shape": "table", "table": {8: 0.5, 16: 0.25}}
    data = {"stages": [{"site": "llm.layers[8,16]", "allocator": table}]}
    assert changed(data, **{"allocator.table.16": 0.1})["stages"][0]["allocator"]["table"] == {8: 0.5, 16: 0.1}


def test_the_original_is_left_alone():
    before = copy.deepcopy(ONE)
    changed(ONE, **{"scorer.query": "text", "budget": 0.1})
    assert before == ONE


def test_the_shorthand_needs_a_single_stage():
    with pytest.raises(RecipeError, match=r"the recipe has 2 stages; say which one, e\.g\. stages\.0\.budget"):
        changed(TWO, budget=0.1)
    with pytest.raises(RecipeError, match="the recipe has 0 stages"):
        changed({}, budget=0.1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("stage.0.budget", "unknown field 'stage'. Did you mean 'stages'"),
        ("buget", "unknown field 'buget'. Did you mean 'budget'"),
        ("scorr__query", "unknown field 'scorr'. Did you mean 'scorer'"),
        ("desciption", "unknown field 'desciption'. Did you mean 'description'"),
        ("stages.0.scorr.query", "stages.0 has no 'scorr'. Did you mean 'scorer'?"),
        ("stages.3.budget", "stages has 1 entries, so '3' is no index of it (0 to 0)"),
        ("stages.first.budget", "'first' is no index of it"),
        ("stages.0.budget.keep_ratio", "stages.0.budget is 0.5 and has no 'keep_ratio' inside"),
    ],
)
def test_paths_that_lead_nowhere(path, message):
    with pytest.raises(RecipeError) as caught:
        changed(ONE, **{path: 1})
    assert message in str(caught.value)
    assert repr(path) in str(caught.value)


def test_every_bad_path_is_reported():
    with pytest.raises(RecipeError) as caught:
        changed(ONE, **{"stages.7.budget": 1, "stage.0": 2, "budget": 0.5})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("budget=0.25", ("budget", 0.25)),
        (" stages.0.budget = {keep_tokens: 64}", ("stages.0.budget", {"keep_tokens": 64})),
        ("site=llm.layers[2:]", ("site", "llm.layers[2:]")),
        ("protect=[0, -1]", ("protect", [0, -1])),
        ("scorer=null", ("scorer", None)),
        ("description=a=b", ("description", "a=b")),
    ],
)
def test_read_assignment(text, expected):
    assert read_assignment(text) == expected


@pytest.mark.parametrize(("text", "message"), [("budget", "PATH=VALUE"), ("=3", "PATH=VALUE"), ("a=[1", "not YAML")])
def test_what_is_no_assignment(text, message):
    with pytest.raises(RecipeError, match=message):
        read_assignment(text)


def test_the_shorthand_knows_every_field_of_a_stage():
    assert set(STAGE_FIELDS) == set(Stage.model_fields)
    assert set(RECIPE_FIELDS) == set(Recipe.model_fields)


def test_a_recipe_takes_them():
    recipe = Recipe.load("fastv", budget=0.25, scorer__query="text")
    assert recipe.stages[0].budget.value == 0.25
    assert recipe.stages[0].scorer.query == "text"
    assert Recipe.load(recipe, budget=0.5, scorer__query="last") == Recipe.load("fastv")
    with pytest.raises(RecipeError, match="Did you mean 'budget'"):
        Recipe.load("fastv", **{"stages.0.bugdet": 0.25})
