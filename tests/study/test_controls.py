from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch

from vtprune.api import prune
from vtprune.core.recipe import Recipe
from vtprune.study.controls import MAKERS, ControlError, control
from vtprune.study.file import Control
from vtprune.testing.models import tiny_llava

PUBLISHED = ("divprune", "fastv", "greedyprune", "plphp")


def recipe(*stages: dict[str, Any]) -> dict[str, Any]:
    return Recipe.parse({"name": "mine", "stages": stages}).to_dict()


def cut(selector: dict[str, Any], **more: Any) -> dict[str, Any]:
    return recipe({"site": "llm.layers[2]", "scorer": "attention", "selector": selector, "budget": 0.5, **more})


def allowed(name: str) -> list[str]:
    without = {"divprune": "inverted", "plphp": "repacked"}
    return [kind for kind in get_args(Control) if kind != without.get(name)]


def test_the_study_file_knows_every_control() -> None:
    assert set(get_args(Control)) == set(MAKERS)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in PUBLISHED for kind in allowed(name)])
def test_a_control_keeps_sites_budgets_allocators_and_reducers(name: str, kind: str) -> None:
    before = Recipe.load(name).to_dict()
    untouched = copy.deepcopy(before)
    after = control(before, kind)
    assert before == untouched
    assert Recipe.parse(after).hash != Recipe.parse(before).hash
    for old, new in zip(before["stages"], after["stages"], strict=True):
        for field in ("site", "budget", "allocator", "reducer", "scope", "protect"):
            assert new[field] == old[field]


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in PUBLISHED for kind in allowed(name)])
def test_a_control_has_as_many_tokens_everywhere_as_its_recipe(name: str, kind: str) -> None:
    tiny = tiny_llava()
    inputs = tiny.make_inputs((1, 2))
    changes = {"stages.0.site": "llm.layers[1]"} if name in ("fastv", "greedyprune") else {}
    base = Recipe.load(name, **changes)
    counts = []
    for one in (base, Recipe.parse(control(base.to_dict(), kind))):
        run = prune(tiny.model, one)
        run.annotate(lambda number, layout: torch.linspace(0, 1, layout.vision))
        with run, torch.inference_mode():
            tiny.model(**inputs)
        counts.append((run.report.vision_tokens, run.report.kv_tokens))
    assert counts[0] == counts[1]


def test_random_chooses_the_top_of_random_scores_with_a_seed() -> None:
    (stage,) = control(Recipe.load("divprune").to_dict(), "random")["stages"]
    assert stage["scorer"] == {"name": "random", "seed": 0}
    assert stage["selector"] == {"name": "top_k"}


def test_inverted_negates_every_scorer_and_keeps_the_selector() -> None:
    before = Recipe.load("greedyprune").to_dict()
    (stage,) = control(before, "inverted")["stages"]
    assert stage["scorer"] == {"name": "negate", "scorer": before["stages"][0]["scorer"]}
    assert stage["selector"] == before["stages"][0]["selector"]


def test_inverted_leaves_a_stage_without_a_scorer_alone() -> None:
    mixed = recipe(
        {"site": "projector.output", "selector": "max_min", "budget": 0.5},
        {"site": "llm.layers[2]", "scorer": "attention", "budget": 0.2},
    )
    first, second = control(mixed, "inverted")["stages"]
    assert first == mixed["stages"][0]
    assert second["scorer"]["name"] == "negate"


def test_oracle_keeps_a_selector_that_uses_scores_and_replaces_one_that_does_not() -> None:
    (kept,) = control(Recipe.load("greedyprune").to_dict(), "oracle")["stages"]
    assert (kept["scorer"]["name"], kept["selector"]["name"]) == ("oracle", "greedy_suppression")
    (replaced,) = control(Recipe.load("divprune").to_dict(), "oracle")["stages"]
    assert (replaced["scorer"]["name"], replaced["selector"]["name"]) == ("oracle", "top_k")


def test_repacked_numbers_the_kept_tokens_anew_and_changes_nothing_else() -> None:
    before = Recipe.load("fastv").to_dict()
    after = control(before, "repacked")
    assert after["stages"] == [{**before["stages"][0], "positions": "reindex"}]


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (Recipe.load("plphp").to_dict(), "repacked", "llm.layers[0:].kv evicts from the cache"),
        (cut({"name": "top_k"}, positions="reindex"), "repacked", "has positions: reindex already"),
        (Recipe.load("divprune").to_dict(), "inverted", "no scorer whose order could be reversed"),
        (cut({"name": "threshold", "value": 0.1}), "random", "'threshold' of stages[0] finds its own count"),
        (cut({"name": "top_p", "p": 0.9}), "inverted", "'top_p' of stages[0] finds its own count"),
        (cut({"name": "top_p", "p": 0.9}), "oracle", "'top_p' of stages[0] finds its own count"),
        (Recipe.load("fastv").to_dict(), "randon", "unknown control 'randon'. Did you mean 'random'"),
    ],
)
def test_an_impossible_control_says_why(data: dict[str, Any], kind: str, reason: str) -> None:
    with pytest.raises(ControlError) as caught:
        control(data, kind)
    assert reason in str(caught.value)
