from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.study.fake import register_fake, study
from vtprune.core.recipe import Recipe
from vtprune.study.cell import Variant
from vtprune.study.file import StudyError
from vtprune.study.grid import budgets, text, variants

NONE = {"without": ["full", "random", "uniform_grid", "downsample"]}
CUT = {"site": "llm.layers[2]", "scorer": "attention", "selector": {"name": "threshold", "value": 0.1}}


@pytest.fixture(scope="module", autouse=True)
def _fake():
    with pytest.MonkeyPatch.context() as patch:
        register_fake(patch)
        yield


def of(label: str, found: list[Variant]) -> list[Variant]:
    return [variant for variant in found if variant.label == label]


def stages(variant: Variant) -> Any:
    assert variant.recipe is not None
    return variant.recipe["stages"]


def test_baselines_come_once_per_budget_and_random_once_per_seed() -> None:
    found = variants(study(seeds=[3, 5], recipes=["fastv"]))
    assert Counter((v.label, v.role) for v in found) == {
        ("full", "full"): 1,
        ("random", "baseline"): 4,
        ("uniform_grid", "baseline"): 2,
        ("downsample", "baseline"): 2,
        ("fastv", "recipe"): 2,
    }
    random = of("random", found)
    assert [(v.axes, stages(v)[0]["scorer"]["seed"], stages(v)[0]["budget"]) for v in random] == [
        ({"budget": 0.5, "seed": 3}, 3, {"keep_ratio": 0.5}),
        ({"budget": 0.5, "seed": 5}, 5, {"keep_ratio": 0.5}),
        ({"budget": 0.25, "seed": 3}, 3, {"keep_ratio": 0.25}),
        ({"budget": 0.25, "seed": 5}, 5, {"keep_ratio": 0.25}),
    ]
    assert [(v.recipe, v.downsample) for v in of("downsample", found)] == [(None, 0.5), (None, 0.25)]
    assert [(v.recipe, v.downsample) for v in of("full", found)] == [(None, None)]


def test_a_recipe_without_a_seed_is_planned_once_whatever_the_seeds() -> None:
    found = of("fastv", variants(study(seeds=[0, 1, 2], recipes=["fastv"])))
    assert [v.name for v in found] == ["fastv budget=0.5", "fastv budget=0.25"]


def test_baselines_are_left_out_only_by_name() -> None:
    found = variants(study(recipes=["fastv"], baselines={"without": ["uniform_grid", "downsample"]}))
    assert {v.label for v in found} == {"full", "random", "fastv"}


def test_budget_reaches_every_stage_that_has_one() -> None:
    first = {"site": "projector.output", "scorer": "random", "budget": 0.9}
    last = {"site": "llm.layers[3]", "scorer": "attention", "budget": {"keep_tokens": 9}}
    entry = {"recipe": {"stages": [first, CUT, last]}, "label": "three"}
    (found,) = of("three", variants(study(recipes=[entry], axes={"budget": [0.5]})))
    assert [stage["budget"] for stage in stages(found)] == [{"keep_ratio": 0.5}, None, {"keep_ratio": 0.5}]


def test_axes_of_a_recipe_replace_the_studys() -> None:
    entry = {"recipe": "fastv", "axes": {"stages.0.site": ["llm.layers[2]", "llm.layers[3]"]}}
    found = of("fastv", variants(study(recipes=[entry])))
    assert [stages(v)[0]["site"] for v in found] == ["llm.layers[2]", "llm.layers[3]"]
    assert {stages(v)[0]["budget"]["keep_ratio"] for v in found} == {0.5}
    assert found[0].name == "fastv site=llm.layers[2] budget=0.5"


def test_levels_of_a_recipes_own_budget_get_baselines_too() -> None:
    entry = {"recipe": "plphp", "axes": {"budget": [0.25, 0.7]}}
    assert budgets(study(recipes=[entry])) == [0.5, 0.25, 0.7]


def test_a_recipe_of_one_stage_has_its_own_budget_as_an_axis_and_baselines_at_it() -> None:
    fixed = {"recipe": "fastv", "label": "fixed", "set": {"stages.0.budget": 0.3}, "axes": {}, "controls": ["random"]}
    tokens = {"recipe": "fastv", "label": "tokens", "set": {"stages.0.budget": {"keep_tokens": 64}}, "axes": {}}
    unit = {"recipe": "fastv", "label": "unit", "axes": {"stages.0.budget.keep_ratio": [0.5, 0.1]}}
    mine = study(recipes=["fastv", fixed, tokens, unit], seeds=[4])
    assert budgets(mine) == [0.5, 0.25, 0.3, {"keep_tokens": 64}, 0.1]
    found = variants(mine)
    assert [v.name for v in found if "fixed" in v.label] == ["fixed budget=0.3", "fixed (random) budget=0.3 seed=4"]
    assert [v.axes["budget"] for v in of("tokens", found)] == ["keep_tokens=64"]
    assert [v.axes["budget"] for v in of("unit", found)] == [0.5, 0.1]
    assert [v.axes["budget"] for v in of("random", found)] == [0.5, 0.25, 0.3, "keep_tokens=64", 0.1]


def test_budgets_of_several_stages_are_no_axis() -> None:
    stages = [{"site": f"llm.layers[{layer}]", "scorer": "attention", "budget": 0.3} for layer in (2, 3)]
    mine = study(recipes=[{"label": "two", "recipe": {"stages": stages}, "axes": {}}])
    assert budgets(mine) == [0.5, 0.25]
    assert [v.axes for v in of("two", variants(mine))] == [{}]


def test_without_an_axis_the_baselines_take_the_budgets_of_the_recipes() -> None:
    assert budgets(study(axes={}, recipes=["fastv", "greedyprune", "divprune"])) == [0.5, 0.25, 0.098]


def test_a_study_without_any_budget_cannot_have_pruned_baselines() -> None:
    entry = {"label": "cut", "recipe": {"stages": [CUT]}}
    with pytest.raises(StudyError, match="random, uniform_grid, downsample need a budget"):
        variants(study(axes={}, recipes=[entry]))
    assert [v.label for v in variants(study(axes={}, recipes=[entry], baselines=NONE, compare_to="cut"))] == ["cut"]


def test_an_axis_that_a_recipe_lacks_names_recipe_and_path() -> None:
    with pytest.raises(StudyError) as caught:
        variants(study(axes={"stages.0.scorer.query": ["last", "text"]}, recipes=["fastv", "divprune"]))
    message = str(caught.value)
    assert "recipe 'divprune'" in message
    assert "stages.0.scorer.query" in message
    assert "`axes` of those recipes alone" in message
    assert "fastv" not in message


def test_the_budget_axis_on_a_recipe_without_a_budget() -> None:
    with pytest.raises(StudyError, match=r"recipe 'cut'.*'budget' has nothing to set"):
        variants(study(recipes=[{"label": "cut", "recipe": {"stages": [CUT]}}]))


def test_faults_of_several_recipes_come_together() -> None:
    bad = {"recipe": "fastv", "label": "bad", "axes": {"stages.0.scorer.quary": ["last"]}}
    with pytest.raises(StudyError) as caught:
        variants(study(recipes=[bad, {"recipe": "divprune", "controls": ["inverted"]}]))
    assert "unknown parameter 'quary'" in str(caught.value)
    assert "no scorer" in str(caught.value)


def test_controls_run_over_the_axes_of_their_recipe() -> None:
    entry = {"recipe": "fastv", "label": "f", "controls": ["random", "inverted"]}
    found = variants(study(recipes=[entry], seeds=[0, 1]))
    assert [v.name for v in found if v.of == "f"] == [
        "f (random) budget=0.5 seed=0",
        "f (random) budget=0.5 seed=1",
        "f (random) budget=0.25 seed=0",
        "f (random) budget=0.25 seed=1",
        "f (inverted) budget=0.5",
        "f (inverted) budget=0.25",
    ]
    assert {v.role for v in found if v.of} == {"control"}


def test_a_control_that_an_axis_does_not_touch_is_planned_once() -> None:
    entry = {"recipe": "fastv", "axes": {"stages.0.scorer.query": ["last", "text"]}, "controls": ["random"]}
    found = variants(study(recipes=[entry]))
    assert len(of("fastv", found)) == 2
    assert [v.name for v in of("fastv (random)", found)] == ["fastv (random) budget=0.5 seed=0"]


def test_seeds_that_a_recipe_sets_itself_stay() -> None:
    fixed = {"recipe": "random", "label": "fixed", "set": {"stages.0.scorer.seed": 7}}
    axis = {"recipe": "random", "label": "axis", "axes": {"stages.0.scorer.seed": [4, 5]}}
    found = variants(study(recipes=[fixed, axis], seeds=[0, 1]))
    assert [stages(v)[0]["scorer"]["seed"] for v in of("fixed", found)] == [7, 7]
    assert [stages(v)[0]["scorer"]["seed"] for v in of("axis", found)] == [4, 5]


def test_seeds_reach_components_inside_components() -> None:
    inner = {
        "name": "weighted_sum",
        "scorers": ["attention", {"name": "negate", "scorer": "random"}],
        "weights": [1, 1],
    }
    mixed = {"label": "mixed", "recipe": {"stages": [{"site": "llm.layers[2]", "scorer": inner, "budget": 0.5}]}}
    found = of("mixed", variants(study(recipes=[mixed], seeds=[8, 9], axes={})))
    assert [stages(v)[0]["scorer"]["scorers"][1]["scorer"]["seed"] for v in found] == [8, 9]


LEVELS = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.75]), min_size=1, max_size=3, unique=True)


@settings(max_examples=25, deadline=None)
@given(
    LEVELS,
    st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(["last", "text", "received"]), max_size=3, unique=True),
    st.booleans(),
)
def test_names_are_unique_and_the_grid_is_complete(
    levels: list[float], seeds: list[int], queries: list[str], control: bool
) -> None:
    axes = {"budget": levels, **({"stages.0.scorer.query": queries} if queries else {})}
    entry = {"recipe": "fastv", "axes": axes, "controls": ["random"] if control else []}
    found = variants(study(recipes=[entry], seeds=seeds, axes={}))
    names = [v.name for v in found]
    assert len(set(names)) == len(names)
    expected = {(level, query) for level in levels for query in queries or ["last"]}
    got = [(stages(v)[0]["budget"]["keep_ratio"], stages(v)[0]["scorer"]["query"]) for v in of("fastv", found)]
    assert set(got) == expected
    assert len(got) == len(expected)
    assert len(of("fastv (random)", found)) == control * len(levels) * len(seeds)
    assert len(of("random", found)) == len(levels) * len(seeds)
    assert all(Recipe.parse(v.recipe).to_dict() == v.recipe for v in found if v.recipe)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, 0.5),
        (None, "none"),
        ({"keep_tokens": 64}, "keep_tokens=64"),
        ({"name": "attention"}, "attention"),
        ({"name": "schedule", "shape": "linear", "end": 0.2}, "schedule(shape=linear, end=0.2)"),
        ({"name": "negate", "scorer": {"name": "random", "seed": 1}}, "negate(scorer=random(seed=1))"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_values_are_short_text(value: object, shown: object) -> None:
    assert text(value) == shown
