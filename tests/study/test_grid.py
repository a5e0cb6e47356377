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


def refused(**changes: object) -> tuple[str, ...]:
    with pytest.raises(StudyError) as caught:
        variants(study(**changes))
    return caught.value.problems


def test_what_set_gives_and_an_axis_sets_too_is_refused_with_what_to_write() -> None:
    (found,) = refused(recipes=["divprune", {"recipe": "fastv", "set": {"budget": 0.1}}])
    assert found == (
        "recipe 'fastv': `set: {budget: 0.1}` is what the study's axis 'budget' sets as well (0.5, 0.25); put it into "
        "`axes` of this recipe in place of `set`: `axes: {budget: [0.1]}`"
    )
    mine = study(recipes=["divprune", {"recipe": "fastv", "axes": {"budget": [0.1]}}])
    assert [stages(v)[0]["budget"] for v in of("fastv", variants(mine))] == [{"keep_ratio": 0.1}]


@pytest.mark.parametrize(
    ("given", "axis"),
    [
        ("stages.0.budget.keep_ratio", "budget"),
        ("stages__0__budget", "stages.0.budget"),
        ("stages.0.scorer.query", "scorer.query"),
        ("scorer.query", "scorer"),
        ({"stages.0.scorer": {"name": "attention", "query": "last"}}, "stages.0.scorer.query"),
    ],
)
def test_set_and_an_axis_meet_however_they_are_spelled(given: str | dict[str, Any], axis: str) -> None:
    level = ["attention"] if axis == "scorer" else ["text"] if "query" in axis else [0.3]
    setting = given if isinstance(given, dict) else {given: 0.2 if "budget" in given else "last"}
    found = refused(
        recipes=[{"recipe": "fastv", "set": setting}], axes={"stages.0.site": ["llm.layers[2]"], axis: level}
    )
    assert len(found) == 1
    assert f"is what the study's axis {axis!r} sets as well" in found[0]
    assert found[0].endswith("(with 'stages.0.site', as they replace the study's)")


def test_set_of_a_whole_stage_and_the_budget_axis() -> None:
    whole = {"site": "llm.layers[3]", "scorer": "attention", "budget": 0.1}
    entry = {"label": "two", "recipe": {"stages": [CUT, whole]}, "set": {"stages.1": whole}}
    assert len(refused(recipes=[entry])) == 1
    entry["set"] = {"stages.1": {**whole, "budget": None}}
    assert len(of("two", variants(study(recipes=[entry])))) == 2


def test_set_and_an_axis_of_its_own() -> None:
    entry = {"recipe": "fastv", "set": {"budget": 0.1}, "axes": {"budget": [0.3]}}
    (found,) = refused(recipes=[entry])
    assert found.endswith("is what its own axis 'budget' sets as well (0.3); leave one of the two out")


@pytest.mark.parametrize(
    ("first", "second"),
    [("budget", "stages.0.budget"), ("stages.0.budget.keep_ratio", "budget"), ("scorer.query", "scorer")],
)
def test_two_axes_that_set_the_same(first: str, second: str) -> None:
    level = {first: ["last"], second: ["attention"]} if "query" in first else {first: [0.5], second: [0.3]}
    (found,) = refused(recipes=["fastv"], axes=level)
    assert found == f"recipe 'fastv': the axes {first!r} and {second!r} set the same thing; leave one of the two out"


def test_set_and_an_axis_beside_or_inside_each_other_are_both_done() -> None:
    entry = {"recipe": "fastv", "set": {"scorer": {"name": "attention"}, "site": "llm.layers[3]"}}
    found = of("fastv", variants(study(recipes=[entry], axes={"budget": [0.5], "scorer.query": ["text"]})))
    assert [(stages(v)[0]["site"], stages(v)[0]["scorer"]["query"]) for v in found] == [("llm.layers[3]", "text")]
    inner = {"recipe": "fastv", "axes": {"scorer": ["attention"], "scorer.query": ["last", "text"]}}
    assert len(of("fastv", variants(study(recipes=[inner])))) == 2


def test_an_axis_gives_a_recipe_the_budget_it_lacks() -> None:
    lacking = {"label": "cls", "recipe": {"stages": [{"site": "projector.output", "scorer": "cls_attention"}]}}
    found = of("cls", variants(study(recipes=[lacking])))
    assert [(v.axes["budget"], stages(v)[0]["budget"]["keep_ratio"]) for v in found] == [(0.5, 0.5), (0.25, 0.25)]
    by_path = study(recipes=[lacking], axes={"stages.0.budget": [0.5]})
    assert [stages(v)[0]["budget"]["keep_ratio"] for v in of("cls", variants(by_path))] == [0.5]
    (found_fault,) = refused(recipes=[lacking], axes={})
    assert found_fault.startswith("recipe 'cls': stages[0]: allocator 'uniform': needs a budget")


def test_only_stages_that_lack_a_budget_get_one() -> None:
    first = {"site": "projector.output", "scorer": "random"}
    entry = {"recipe": {"stages": [first, CUT]}, "label": "two"}
    (found,) = of("two", variants(study(recipes=[entry], axes={"budget": [0.5]})))
    assert [stage["budget"] for stage in stages(found)] == [{"keep_ratio": 0.5}, None]


def test_a_fault_of_a_control_comes_alone_and_without_advice_on_axes() -> None:
    (found,) = refused(recipes=["divprune", {"recipe": "plphp", "controls": ["repacked"]}])
    assert found.startswith("recipe 'plphp': control 'repacked': llm.layers")
    assert "axes" not in found


def test_a_level_that_is_wrong_everywhere_is_said_once_with_the_recipes() -> None:
    (found,) = refused(recipes=["fastv", "divprune", "plphp"], axes={"budget": [0.5, 1.5]})
    assert found.startswith(
        "recipes 'fastv', 'divprune', 'plphp' with budget=1.5: stages[0].budget: budget 1.5 is above 1"
    )
    assert "alone" not in found, "no recipe could have it"


def test_faults_of_two_axes_and_of_the_recipe_come_together_each_once() -> None:
    wrong = {"label": "w", "recipe": {"stages": [{"site": "llm.layers[2]", "scorer": "atention", "budget": 0.1}]}}
    found = refused(recipes=["fastv", wrong], axes={"budget": [0.5, 1.5], "scorer.quary": ["last", "text"]})
    assert [line.partition(": ")[0] for line in found] == [
        "recipe 'fastv' with the axis 'scorer.quary'",
        "recipes 'fastv', 'w' with budget=1.5",
        "recipe 'w'",
    ]


def test_a_level_is_wrong_also_where_another_axis_spoils_every_point_of_it() -> None:
    lacking = {"label": "cls", "recipe": {"stages": [{"site": "projector.output", "scorer": "cls_attention"}]}}
    found = refused(recipes=[lacking], axes={"budget": [0.5, 1.5], "scorer.query": ["last"]})
    assert [line.partition(": ")[0] for line in found] == [
        "recipe 'cls' with scorer.query=last",
        "recipe 'cls' with budget=1.5",
    ]
    found = refused(recipes=[lacking], axes={"budget": [0.5], "stages.3.scorer": ["random"]})
    assert [line.partition(": ")[0] for line in found] == ["recipe 'cls' with stages.3.scorer=random"]


def test_levels_that_fit_one_by_one_but_not_together() -> None:
    axes = {"site": ["llm.layers[2]", "llm.layers[2].kv"], "positions": ["retain", "reindex"]}
    (found,) = refused(recipes=[{"recipe": "fastv", "axes": {**axes, "reducer": [None]}}])
    assert found.startswith(
        "recipe 'fastv' with site=llm.layers[2].kv, positions=reindex, reducer=none: stages[0]: positions"
    )


def test_an_axis_that_begins_with_nothing_a_recipe_has() -> None:
    found = refused(recipes=["fastv", {"recipe": "divprune", "axes": {"sede": [1]}}], axes={"budgett": [0.5]})
    assert found[0].startswith("axes: unknown axis 'budgett'. Did you mean 'budget'")
    assert found[1].startswith("recipe 'divprune': axes: unknown axis 'sede'.")
    assert len(found) == 2


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
