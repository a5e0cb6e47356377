"""A recipe's ``replace``: the only way in which one name takes the place of another."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from vtprune.core.errors import RecipeError
from vtprune.core.recipe import Recipe
from vtprune.core.spec import build

NESTED = {"name": "weighted_sum", "scorers": ["attention", {"name": "random", "seed": 3}], "weights": [1, 2]}


def recipe(replace: Any, scorer: Any = NESTED, **stage: Any) -> Recipe:
    stages = [{"site": "llm.layers[2]", "scorer": scorer, "budget": 0.5, **stage}]
    return Recipe.parse({"stages": stages, **({} if replace is None else {"replace": replace})})


def test_a_name_is_replaced_wherever_it_stands() -> None:
    found = recipe({"attention": "key_norm", "top_k": "greedy_suppression"}, selector={"name": "top_k"})
    (stage,) = found.to_dict()["stages"]
    assert [inner["name"] for inner in stage["scorer"]["scorers"]] == ["key_norm", "random"]
    assert stage["scorer"]["scorers"][1]["seed"] == 3
    assert stage["selector"]["name"] == "greedy_suppression"


def test_a_default_is_replaced_too() -> None:
    assert recipe({"drop": "merge"}).to_dict()["stages"][0]["reducer"]["name"] == "merge"


def test_outside_the_recipe_nothing_is_replaced() -> None:
    recipe({"attention": "key_norm"})
    assert type(build("scorer", "attention")).__name__ == "Attention"
    with pytest.raises(RecipeError):
        recipe({"attention": "key_norm"}, scorer={"name": "nope"})
    assert type(build("scorer", "attention")).__name__ == "Attention"


def test_it_is_recorded_and_round_trips() -> None:
    found = recipe({"attention": "key_norm"})
    again = Recipe.parse(yaml.safe_load(found.to_yaml()))
    assert again == found
    assert again.replace == {"attention": "key_norm"}
    assert again.hash == found.hash


def test_the_hash_is_that_of_what_acts() -> None:
    written = {**NESTED, "scorers": ["key_norm", {"name": "random", "seed": 3}]}
    assert recipe({"attention": "key_norm"}).hash == recipe(None, scorer=written).hash
    assert recipe({"llava": "qwen2_vl"}).hash != recipe(None).hash


def test_a_name_that_is_not_installed_can_be_replaced() -> None:
    found = recipe({"acme/entropy": "attention"}, scorer="acme/entropy")
    assert found.to_dict()["stages"][0]["scorer"]["name"] == "attention"


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        ({"atention": "key_norm"}, r"no component of the stages is called 'atention'. Did you mean 'attention'"),
        ({"attention": "key_nrm"}, r"'key_nrm', which nothing has registered. Did you mean 'key_norm'"),
        ({"lava": "qwen2_vl"}, r"'qwen2_vl' is an adapter, but 'lava' is none. Did you mean 'llava'"),
        ({"attention": "attention"}, r"'attention' is to be itself"),
        ({"attention": 3}, r"replace.attention: .*valid string"),
        (["attention"], r"replace: .*dict"),
    ],
)
def test_a_replacement_that_does_nothing_is_refused(replace: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(replace)


def test_a_parameter_that_the_other_one_lacks_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown parameter 'query' of scorer 'key_norm'"):
        recipe({"attention": "key_norm"}, scorer={"name": "attention", "query": "last"})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("attention", "merge", "the place of scorer 'attention' cannot be taken by reducer 'merge'"),
        ("llava", "attention", "the place of adapter 'llava' cannot be taken by scorer 'attention'"),
    ],
)
def test_another_kind_takes_no_place(old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe({old: new}, scorer="attention")
