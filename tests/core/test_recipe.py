from __future__ import annotations

import copy
import json
from importlib.resources import files

import pytest
import yaml
from pydantic import ValidationError

from tests.testing.broken.reducers import MergesInTheCache
from vtprune.core.component import Scorer
from vtprune.core.errors import PluginError, RecipeError, UnknownNameError
from vtprune.core.plugins import registry
from vtprune.core.recipe import Recipe, Stage
from vtprune.core.registry import Registration
from vtprune.core.spec import build, dump

SHIPPED = [entry.name for entry in registry().entries("recipe") if entry.origin == "vtprune"]


def recipe(**fields: object) -> dict:
    """Plain data of a recipe with one stage; ``fields`` replace or (with None) clear those of the stage."""
    return {"stages": [{"site": "llm.layers[2]", "scorer": "attention", "budget": 0.5, **fields}]}


def problems(data: object) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        Recipe.parse(data)
    return caught.value.problems


NESTED = recipe(
    scorer={
        "name": "weighted_sum",
        "scorers": [
            {"name": "normalise", "scorer": {"name": "attention", "query": "text", "heads": [0, 3]}, "method": "rank"},
            {"name": "negate", "scorer": {"name": "similarity", "to": "mean"}},
        ],
        "weights": [0.75, 0.25],
    },
    selector={
        "name": "union",
        "first": "top_k",
        "second": {"name": "greedy_suppression", "threshold": 0.8},
        "share": 0.5,
    },
    allocator={"name": "schedule", "shape": "sigmoid", "steepness": 0.5},
    reducer={"name": "merge", "weighting": "size"},
    protect=[0, -1],
)
TABLE = recipe(
    site="llm.layers[0,1].kv",
    allocator={"name": "schedule", "shape": "table", "table": {0: 0.5, 1: [0.5, 0.25]}},
    budget=None,
)


class TestShipped:
    @pytest.mark.parametrize("name", SHIPPED)
    def test_loads_and_says_where_it_comes_from(self, name):
        loaded = Recipe.load(name)
        entry = registry().entry("recipe", name)
        assert loaded.name == name
        assert loaded.paper == entry.paper
        assert loaded.description

    @pytest.mark.parametrize("name", SHIPPED)
    def test_has_a_header_that_marks_its_sources(self, name):
        package, _, file = registry().entry("recipe", name).target.partition(":")
        text = files(package).joinpath(file).read_text(encoding="utf-8")
        header = text[: text.index("\nname:")]
        assert all(line.startswith("#") for line in header.splitlines())
        assert "Site:" in header
        loaded = Recipe.load(name)
        if loaded.paper:
            assert loaded.paper in header
            assert "[I]" in header
        else:
            assert "our choice" in header

    def test_unconfirmed_values_are_marked(self):
        assert "NOT confirmed" in files("vtprune.recipes").joinpath("plphp.yaml").read_text()
        assert "not found in public sources" in files("vtprune.recipes").joinpath("greedyprune.yaml").read_text()


class TestRoundTrip:
    @pytest.mark.parametrize("data", [*SHIPPED, NESTED, TABLE], ids=[*SHIPPED, "nested", "table"])
    def test_yaml_and_json(self, data, tmp_path):
        loaded = Recipe.load(data)
        file = tmp_path / "copy.yaml"
        file.write_text(loaded.to_yaml())
        for again in (
            Recipe.load(file),
            Recipe.load(str(file)),
            Recipe.parse(json.loads(json.dumps(loaded.to_dict()))),
        ):
            assert again == loaded
            assert again.hash == loaded.hash
            assert again.to_dict() == loaded.to_dict()

    def test_no_parameter_of_a_nested_component_is_lost(self):
        (stage,) = Recipe.parse(NESTED).to_dict()["stages"]
        assert stage["scorer"]["scorers"][0]["scorer"]["heads"] == [0, 3]
        assert stage["scorer"]["scorers"][1]["scorer"]["to"] == "mean"
        assert stage["selector"]["second"]["threshold"] == 0.8
        assert stage["reducer"] == {"name": "merge", "weighting": "size"}
        assert stage["allocator"]["steepness"] == 0.5

    def test_defaults_are_filled_in(self):
        (stage,) = Recipe.parse(recipe()).to_dict()["stages"]
        assert stage["allocator"] == {"name": "uniform"}
        assert stage["selector"] == {"name": "top_k"}
        assert stage["reducer"] == {"name": "drop"}
        assert stage["scorer"]["query"] == "last"
        assert stage["positions"] == "retain"

    def test_the_default_reducer_follows_the_site(self):
        (stage,) = Recipe.parse(recipe(site="llm.layers[ 2: ] .kv")).stages
        assert dump(stage.reducer) == {"name": "evict_kv"}

    def test_instances_and_names_are_the_same(self):
        written = Recipe.parse(recipe(scorer={"name": "attention", "query": "text"}))
        assert Recipe.parse(recipe(scorer=build("scorer", {"name": "attention", "query": "text"}))) == written

    def test_a_recipe_loads_as_itself(self):
        loaded = Recipe.load("fastv")
        assert Recipe.load(loaded) is loaded

    def test_recipes_are_frozen(self):
        loaded = Recipe.load("fastv")
        with pytest.raises(ValidationError):
            loaded.name = "other"
        with pytest.raises(ValidationError):
            loaded.stages[0].scorer.query = "text"

    def test_the_data_is_not_changed(self):
        before = copy.deepcopy(NESTED)
        Recipe.load(NESTED, budget=0.25)
        assert before == NESTED

    def test_an_unregistered_component_cannot_be_written(self):
        class Mine(Scorer):
            def score(self, signals):
                raise NotImplementedError

        for scorer in (Mine(), build("scorer", {"name": "negate", "scorer": Mine()})):
            loaded = Recipe.parse(recipe(scorer=scorer))
            with pytest.raises(UnknownNameError, match="Mine is not a registered scorer"):
                loaded.hash


class TestHash:
    def test_order_defaults_and_spelling_do_not_count(self):
        same = [
            recipe(),
            {"stages": [dict(reversed(recipe()["stages"][0].items()))]},
            recipe(scorer={"name": "attention"}, selector="top_k", scope="joint", positions="retain", protect=[]),
            recipe(budget={"keep_ratio": 0.5}, site=" llm.layers[ 2 ]"),
            recipe(budget={"value": 0.5, "unit": "keep_ratio"}, reducer={"name": "drop"}),
            {**recipe(), "name": "another", "description": "in other words", "paper": "none", "schema_version": 1},
        ]
        assert len({Recipe.parse(data).hash for data in same}) == 1

    def test_the_order_inside_a_parameter_does_not_count(self):
        (stage,) = TABLE["stages"]
        turned = {**stage["allocator"], "table": dict(reversed(stage["allocator"]["table"].items()))}
        assert Recipe.parse({"stages": [{**stage, "allocator": turned}]}).hash == Recipe.parse(TABLE).hash

    def test_is_a_sha256(self):
        digest = Recipe.parse(recipe()).hash
        assert len(digest) == 64
        assert int(digest, 16)

    @pytest.mark.parametrize(
        "fields",
        [
            {"site": "llm.layers[3]"},
            {"site": "llm.layers[2].kv"},
            {"scorer": "random"},
            {"scorer": {"name": "attention", "query": "text"}},
            {"scorer": {"name": "negate", "scorer": "attention"}},
            {"scorer": {"name": "negate", "scorer": {"name": "attention", "layer": 0}}},
            {"allocator": {"name": "schedule", "shape": "linear", "end": 0}},
            {"allocator": {"name": "schedule", "shape": "linear", "end": 0.5}},
            {"allocator": "reattention"},
            {"allocator": {"name": "reattention", "delta": 0.25}},
            {"allocator": {"name": "reattention", "rounding": "half_up"}},
            {"selector": "greedy_suppression"},
            {"selector": {"name": "greedy_suppression", "threshold": 0.75}},
            {"reducer": "merge"},
            {"reducer": {"name": "merge", "weighting": "size"}},
            {"positions": "reindex"},
            {"budget": 0.25},
            {"budget": {"keep_tokens": 1}},
            {"budget": {"flops_ratio": 0.5}},
            {"scope": "image"},
            {"protect": [0]},
            {"protect": [0, 1]},
        ],
    )
    def test_changes_with_every_parameter(self, fields):
        others = [recipe(), NESTED, TABLE]
        assert Recipe.parse(recipe(**fields)).hash not in {Recipe.parse(data).hash for data in others}

    def test_changes_with_the_order_and_number_of_stages(self):
        first, second = recipe()["stages"][0], recipe(site="llm.layers[8]")["stages"][0]
        found = {Recipe.parse({"stages": stages}).hash for stages in ([first], [first, second], [second, first])}
        assert len(found) == 3

    def test_shipped_recipes_differ(self):
        assert len({Recipe.load(name).hash for name in SHIPPED}) == len(SHIPPED)


class TestProblems:
    def test_all_at_once(self):
        data = {
            "stages": [
                {"site": "llm.layer[2]", "scorer": "atention", "budget": 1.5, "scope": "images"},
                {"site": "llm.layers[2]", "scorer": {"name": "attention", "qurey": "last"}, "budgte": 3},
            ],
            "nmae": "x",
        }
        found = problems(data)
        for clause in (
            "stages[0].site: unknown site 'llm.layer[2]'",
            "stages[0].scorer: unknown scorer 'atention'. Did you mean 'attention'",
            "stages[0].budget: budget 1.5 is above 1",
            "stages[0].scope: Input should be 'joint' or 'image' (got 'images')",
            "stages[1].scorer: unknown parameter 'qurey' of scorer 'attention'. Did you mean 'query'?",
            "stages[1]: unknown field 'budgte'. Did you mean 'budget'?",
            "the recipe: unknown field 'nmae'. Did you mean 'name'?",
        ):
            assert any(problem.startswith(clause) for problem in found), clause
        assert len(found) == 7

    def test_all_mismatches_of_a_stage_at_once(self):
        found = problems(
            recipe(
                site="llm.layers[2].kv",
                scorer="attention",
                selector="max_min",
                reducer="drop",
                positions="reindex",
                budget=None,
            )
        )
        assert len(found) == 4
        assert all(problem.startswith("stages[0]: ") for problem in found)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"scorer": None}, "selector 'top_k' ranks by score, so the stage needs a scorer"),
            ({"selector": "max_min"}, "selector 'max_min' ignores scores, so scorer 'attention' would have no effect"),
            ({"scorer": {"name": "attention", "head_reduction": "none"}}, "gives a score per head"),
            ({"budget": None}, "allocator 'uniform': needs a budget"),
            ({"budget": None, "allocator": "reattention"}, "allocator 'reattention': needs the base retention"),
            ({"allocator": {"name": "reattention", "rate": 0.4}}, "remove one of them"),
            ({"allocator": {"name": "schedule", "shape": "table", "table": {2: 0.5}}}, "must go"),
            ({"reducer": "evict_kv"}, "reducer 'evict_kv' cannot serve llm.layers[2]; use drop, merge"),
            ({"site": "llm.layers[2].kv", "reducer": "merge"}, "cannot serve llm.layers[2].kv; use evict_kv"),
            (
                {"site": "llm.layers[2].kv", "reducer": MergesInTheCache()},
                "at a .kv site nothing is merged",
            ),
            ({"site": "llm.layers[2].kv", "positions": "reindex"}, "already rotated"),
            ({"site": None}, "a site is a string, got None"),
            ({"site": "llm.layers[1:4:0]"}, "step"),
            ({"scorer": 5}, "a scorer is a name or a mapping with 'name' and parameters, got 5"),
            ({"scorer": Scorer}, "; write Scorer() for an instance"),
            ({"scorer": {"query": "last"}}, "a scorer is a name or a mapping with 'name'"),
            ({"selector": "attention"}, "unknown selector 'attention'"),
            ({"selector": {"name": "union"}}, "selector 'union' needs the parameter 'first'"),
            ({"reducer": {"name": "merge", "weighting": "max"}}, "reducer 'merge'.weighting: Input should be"),
            ({"allocator": {"name": "reattention", "alpha": 0.1, "beta": 0.2}}, "alpha=0.1 is below beta=0.2"),
            (
                {"scorer": {"name": "negate", "scorer": "atention"}},
                "unknown scorer 'atention'. Did you mean 'attention'",
            ),
            ({"budget": {"keep_ration": 0.5}}, "Did you mean 'keep_ratio'"),
            (
                {"budget": {"unit": "keep_ratio", "value": 0.5, "per": 1}},
                "stages[0].budget: unknown field 'per'. Known: unit",
            ),
            ({"budget": "half"}, "got the text 'half'"),
            ({"protect": [1.5]}, "stages[0].protect[0]: Input should be a valid integer"),
        ],
    )
    def test_each_is_stated_once_with_its_place(self, fields, message):
        matching = [problem for problem in problems(recipe(**fields)) if message in problem]
        assert len(matching) == 1
        assert matching[0].startswith("stages[0]")

    def test_a_stage_at_fault_is_not_also_called_missing(self):
        assert len(problems(recipe(scorer="atention"))) == 1

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (None, "a recipe is a mapping with 'stages', got NoneType"),
            ([], "got list"),
            ({}, "stages: missing"),
            ({"stages": []}, "at least 1 item"),
            ({"stages": [3]}, "stages[0]: Input should be a valid dictionary"),
            ({**recipe(), "schema_version": 2}, "schema_version: Input should be 1 (got 2)"),
        ],
    )
    def test_of_the_whole(self, data, message):
        (problem,) = problems(data)
        assert message in problem

    def test_a_selector_that_finds_its_own_count_needs_no_budget(self):
        loaded = Recipe.parse(recipe(selector={"name": "threshold", "value": 0.1}, budget=None))
        assert loaded.stages[0].budget is None

    def test_a_stage_alone_is_checked_too(self):
        with pytest.raises(ValidationError, match="needs a budget"):
            Stage(site="llm.layers[2]", scorer="attention")


class TestLoading:
    def test_an_unknown_name(self):
        with pytest.raises(
            UnknownNameError, match=r"unknown recipe 'plpph'\. Did you mean 'plphp'\?.* YAML file works too"
        ):
            Recipe.load("plpph")

    def test_text_in_place_of_a_name(self):
        with pytest.raises(UnknownNameError, match="A path to a YAML file works too"):
            Recipe.load(Recipe.load("plphp").to_yaml())

    def test_a_missing_file(self, tmp_path):
        for missing in (tmp_path / "none", "none.yaml", "none.yml"):
            with pytest.raises(RecipeError, match="no such file; the current directory is"):
                Recipe.load(missing)

    def test_a_file_that_is_no_yaml(self, tmp_path):
        file = tmp_path / "broken.yaml"
        file.write_text("stages: [")
        with pytest.raises(RecipeError, match=r"broken\.yaml is not valid:\n  - not valid YAML"):
            Recipe.load(file)

    def test_a_file_that_is_empty(self, tmp_path):
        file = tmp_path / "empty.yaml"
        file.write_text("")
        with pytest.raises(RecipeError, match="got NoneType"):
            Recipe.load(file)

    def test_a_file_named_like_a_recipe_does_not_replace_it(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "fastv").write_text(yaml.safe_dump(recipe(budget=0.1)))
        assert Recipe.load("fastv").stages[0].budget.value == 0.5
        assert Recipe.load("./fastv").stages[0].budget.value == 0.1
        assert Recipe.load(tmp_path / "fastv").stages[0].budget.value == 0.1

    @pytest.mark.parametrize("target", ["no_such_package:x.yaml", "vtprune.recipes:none.yaml"])
    def test_a_registered_recipe_without_its_file(self, target, monkeypatch):
        book = registry()
        monkeypatch.setattr(book, "_entries", dict(book._entries))
        book.add(Registration("recipe", "acme/lost", target, "", None, "acme", "1.2"))
        with pytest.raises(PluginError, match=rf"recipe 'acme/lost' of acme 1\.2 cannot be read from {target}"):
            Recipe.load("acme/lost")
