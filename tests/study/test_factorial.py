from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.study.fake import register_fake, study
from vtprune.core.errors import RecipeError
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe
from vtprune.study.factorial import factorial
from vtprune.study.file import StudyError

SCORERS = ["attention", {"name": "attention", "query": "text"}, "similarity", None]
SELECTORS = ["top_k", "max_min", {"name": "log_det"}]


@pytest.fixture(scope="module", autouse=True)
def _fake():
    with pytest.MonkeyPatch.context() as patch:
        register_fake(patch)
        yield


def make(**factors: Any) -> Any:
    return factorial(study(factorial={"site": "llm.layers[2]", **factors}))


def test_without_a_factorial_there_is_nothing() -> None:
    assert factorial(study(recipes=["fastv"])) == ([], [])


def test_the_design_is_every_combination_that_validates_and_the_rest_is_refused() -> None:
    found, refused = make(scorers=SCORERS, selectors=SELECTORS)
    valid, invalid = [], []
    for scorer, selector in product(SCORERS, SELECTORS):
        stage = {"site": "llm.layers[2]", "scorer": scorer, "selector": selector, "budget": 0.5}
        try:
            valid.append(Recipe.parse({"stages": [stage]}).hash)
        except RecipeError:
            invalid.append((scorer, selector))
    assert sorted(Recipe.parse(v.recipe).hash for v in found if v.axes["budget"] == 0.5) == sorted(valid)
    assert len(found) == 2 * len(valid)
    assert len(refused) == len(invalid) == 5
    assert all(refusal.expected and refusal.reason for refusal in refused)


def test_axes_name_the_levels() -> None:
    found, refused = make(scorers=SCORERS, selectors=SELECTORS, allocators=["uniform"])
    assert {v.label for v in found} == {"factorial"}
    assert {v.axes["scorer"] for v in found} == {"attention", "attention(query=text)", "similarity", "none"}
    assert {v.axes["selector"] for v in found} == {"top_k", "max_min", "log_det"}
    assert {(v.axes["allocator"], v.axes["budget"]) for v in found} == {("uniform", 0.5), ("uniform", 0.25)}
    assert len({v.name for v in found}) == len(found)
    assert "attention(query=text) x max_min x uniform" in {refusal.what for refusal in refused}


def test_all_means_everything_registered_or_a_reason() -> None:
    found, refused = make(scorers="all", selectors="all", allocators="all")
    for kind in ("scorer", "selector", "allocator"):
        used = {v.axes[kind] for v in found}
        out = {refusal.what.removeprefix(f"{kind} ") for refusal in refused if refusal.what.startswith(f"{kind} ")}
        assert used | out == {*registry().names(kind), *(["none"] if kind == "scorer" else [])}
        assert not used & out
    reasons = {refusal.what: refusal.reason for refusal in refused}
    assert "needs the parameter 'scorer'" in reasons["scorer negate"]
    assert "name it to have it" in reasons["scorer oracle"]
    assert "ignores scores" in reasons["attention x max_min x uniform"]


def test_a_named_oracle_is_there() -> None:
    found, _ = make(scorers=["oracle"])
    assert {v.axes["scorer"] for v in found} == {"oracle"}


def test_random_scores_differ_from_those_of_the_baseline() -> None:
    plan = {"site": "projector.output", "scorers": ["random", {"name": "random", "seed": 1}]}
    found, _ = factorial(study(seeds=[0, 4], factorial=plan))
    seeds = {v.axes["scorer"]: v.recipe["stages"][0]["scorer"]["seed"] for v in found if v.recipe}
    assert seeds == {"random": 5, "random(seed=1)": 1}


def test_names_that_do_not_exist_are_errors_all_at_once() -> None:
    with pytest.raises(StudyError) as caught:
        make(scorers=["atention"], selectors=["top_q"], allocators=[None])
    first, second, third = caught.value.problems
    assert "factorial.scorers: unknown scorer 'atention'. Did you mean 'attention'" in first
    assert "factorial.selectors: unknown selector 'top_q'" in second
    assert "factorial.allocators: a stage always has its allocator" in third


def test_a_named_component_without_its_parameters_is_an_error() -> None:
    with pytest.raises(StudyError, match="scorer 'negate' needs the parameter 'scorer'"):
        make(scorers=["negate"])


def test_a_factorial_needs_a_budget() -> None:
    with pytest.raises(StudyError, match="there is no budget"):
        factorial(study(axes={}, factorial={"site": "llm.layers[2]", "scorers": "all"}))


def test_budgets_of_single_recipes_are_not_those_of_the_factorial() -> None:
    entry = {"recipe": "fastv", "axes": {"budget": [0.9]}}
    found, _ = factorial(study(recipes=[entry], factorial={"site": "llm.layers[2]", "scorers": ["attention"]}))
    assert [v.axes["budget"] for v in found] == [0.5, 0.25]
